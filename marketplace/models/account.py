"""Who: people (users), the accounts they act for, and their roles in them."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import TextChoices
from django.utils import timezone

from marketplace.core.ids import new_id
from marketplace.core.limits import RETENTION_DAYS_DEFAULT, RETENTION_DAYS_MAX
from marketplace.models.limits import Limited

SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,37}[a-z0-9])?$"
slug_validator = RegexValidator(
    SLUG_PATTERN, "Lowercase letters, digits and single hyphens inside, at most 39 characters."
)


class Skeleton(models.Func):
    """What an eye may take a slug for; says the same as `marketplace.core.confusable`."""

    function = "translate"
    template = (
        "translate(replace(replace(replace(%(expressions)s, '-', ''), 'rn', 'm'), 'vv', 'w'),"
        " '01i5', 'olls')"
    )
    output_field = models.CharField()


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        # Whoever makes a person this way vouches for the address; `sign_up` does not.
        fields.setdefault("email_verified_at", timezone.now())
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.full_clean()
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractBaseUser, PermissionsMixin):
    """A person who signs in, by e-mail address."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=80, blank=True)
    is_staff = models.BooleanField("may use the admin console", default=False)
    is_active = models.BooleanField(default=True)
    # When somebody followed a link that was mailed there; null: nobody did yet.
    email_verified_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects = UserManager()

    def __str__(self) -> str:
        return self.email


class Account(Limited):
    """A person or organisation that owns models, keys and a wallet.

    Its slug is the owner in `owner/name` and never changes: clients have it in their code.
    """

    # By its full name: the models of an account are `Account.models`, for type checkers too.
    class Kind(TextChoices):
        PERSON = "person", "Person"
        ORGANISATION = "organisation", "Organisation"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    slug = models.CharField(max_length=39, unique=True, validators=[slug_validator])
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.PERSON)
    # What its page says of it: plain text, shown to everybody.
    bio = models.CharField(max_length=500, blank=True, db_default="", default="")
    suspended_at = models.DateTimeField(null=True, blank=True)
    # Its payments are in doubt: it spends nothing and buys nothing, its models serve others.
    frozen_at = models.DateTimeField(null=True, blank=True)
    # When it is deleted, or was: until then its owners can change their mind.
    closes_at = models.DateTimeField(null=True, blank=True)
    # For how many days the contents of its predictions and its files are kept at most; 0: not.
    retention_days = models.PositiveSmallIntegerField(
        default=RETENTION_DAYS_DEFAULT, db_default=RETENTION_DAYS_DEFAULT
    )
    created_at = models.DateTimeField(auto_now_add=True)
    members = models.ManyToManyField(User, through="Membership", related_name="accounts")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(slug__regex=SLUG_PATTERN), name="marketplace_account_slug"
            ),
            models.CheckConstraint(
                condition=models.Q(retention_days__lte=RETENTION_DAYS_MAX),
                name="marketplace_account_retention",
            ),
        ]
        indexes = [
            models.Index(Skeleton("slug"), name="marketplace_account_look"),
        ]

    def __str__(self) -> str:
        return self.slug


class Membership(models.Model):
    """What a person may do for an account. Rights by role: `marketplace.services.access`."""

    class Role(models.TextChoices):
        OWNER = "owner", "Owner"
        ADMIN = "admin", "Admin"
        DEVELOPER = "developer", "Developer"
        BILLING = "billing", "Billing"
        VIEWER = "viewer", "Viewer"

    account = models.ForeignKey(Account, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role)
    # When the person put the steps of a first push away; None: they stand on the dashboard.
    first_push_hidden_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "user"], name="marketplace_one_membership"),
        ]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.account}"
