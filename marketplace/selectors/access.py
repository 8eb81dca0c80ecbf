"""The one place where tenants are kept apart: what an actor may see and do.

Every view, API and command reaches owned objects through the `access_*` functions here.
What an actor may not see does not exist for it: `NotFoundError`, never "forbidden". Only who
may see an object and lacks a right on it is told so.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet

from marketplace.core.errors import ForbiddenError
from marketplace.errors import EmailNotVerifiedError
from marketplace.models import Account, AIModel, APIKey, Membership, ModelVersion, User
from marketplace.selectors.found import get_one

Role = Membership.Role
Scope = APIKey.Scope

# A right, and the roles that carry it. The rights bear the names of the keys' scopes, so
# that one table serves people and keys; `members` and `account` are for people only.
ROLES_BY_RIGHT: dict[str, frozenset[str]] = {
    "read": frozenset(Role.values),
    "predict": frozenset({Role.OWNER, Role.ADMIN, Role.DEVELOPER}),
    "push": frozenset({Role.OWNER, Role.ADMIN, Role.DEVELOPER}),
    "publish": frozenset({Role.OWNER, Role.ADMIN}),
    "keys": frozenset({Role.OWNER, Role.ADMIN, Role.DEVELOPER}),
    "billing": frozenset({Role.OWNER, Role.ADMIN, Role.BILLING}),
    "members": frozenset({Role.OWNER, Role.ADMIN}),
    # To end the account itself.
    "account": frozenset({Role.OWNER}),
}


# What others see, or run.
_RIGHTS_OF_THE_VERIFIED = frozenset({"push", "publish"})


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a person in a session, or a key that stands for one account."""

    user: User | None = None
    api_key: APIKey | None = None

    @property
    def label(self) -> str:
        """Who it was, for the audit log."""
        if self.api_key is not None:
            return f"key:{self.api_key.hint}"
        return f"user:{self.user.email}" if self.user is not None else "anonymous"

    @property
    def is_admin(self) -> bool:
        """Whether this is a platform admin in a session; keys never are.

        Nor is an admin who has to show a second factor and has not: see
        `marketplace.guard.GuardMiddleware`.
        """
        if self.api_key is not None or self.user is None:
            return False
        return self.user.is_staff and not getattr(self.user, "is_held_back", False)


ANONYMOUS = Actor()


def list_accounts(actor: Actor) -> QuerySet[Account]:
    """The accounts the actor belongs to, by name."""
    accounts = Account.objects.order_by("slug")
    if actor.api_key is not None:
        return accounts.filter(pk=actor.api_key.account_id)
    if actor.user is None:
        return accounts.none()
    return accounts.filter(memberships__user=actor.user)


def access_account(actor: Actor, slug: str, right: str = "read") -> Account:
    """An account of the actor's own, on which it has the right.

    Raises:
        NotFoundError: Not the actor's account, or none of that name.
        ForbiddenError: The actor belongs to it, without this right.
    """
    account = get_one(list_accounts(actor).filter(slug=slug), "No such account.")
    require_right(actor, account, right)
    return account


def require_right(actor: Actor, account: Account, right: str) -> None:
    """Raise `ForbiddenError` unless the actor has this right on its account.

    Raises:
        EmailNotVerifiedError: It has it, but what others will see needs a confirmed address.
    """
    if not has_right(actor, account, right):
        raise ForbiddenError(f"This needs the right {right!r} on {account.slug}.", right=right)
    if right in _RIGHTS_OF_THE_VERIFIED:
        require_verified(actor)


def require_verified(actor: Actor) -> None:
    """Raise `EmailNotVerifiedError` for a person whose address nobody has confirmed."""
    if not settings.REQUIRE_VERIFIED_EMAIL or actor.user is None:
        return
    if actor.user.email_verified_at is None:
        raise EmailNotVerifiedError


def has_right(actor: Actor, account: Account, right: str) -> bool:
    """Whether role and scopes both carry the right. A suspended account can only read."""
    if account.suspended_at is not None and right != "read":
        return False
    if actor.api_key is not None:
        if actor.api_key.account_id != account.pk:
            return False
        # A consumer's key belongs to the account's services, whoever made it.
        is_service = actor.api_key.mode != APIKey.Mode.TOKEN
        return right in actor.api_key.scopes and (
            is_service or _creator_has_right(actor.api_key, account, right)
        )
    if actor.user is None:
        return False
    return Membership.objects.filter(
        account=account, user=actor.user, role__in=ROLES_BY_RIGHT[right]
    ).exists()


def _creator_has_right(api_key: APIKey, account: Account, right: str) -> bool:
    # A token can do no more than the person who made it can do today.
    if api_key.created_by_id is None:
        return False
    return Membership.objects.filter(
        account=account, user_id=api_key.created_by_id, role__in=ROLES_BY_RIGHT[right]
    ).exists()


def list_visible_models(actor: Actor) -> QuerySet[AIModel]:
    """Public models, and the private ones of the actor's accounts, by owner and name."""
    own = Q(account__in=list_accounts(actor))
    public = Q(visibility=AIModel.Visibility.PUBLIC, suspended_at=None, account__suspended_at=None)
    models = AIModel.objects.select_related("account").order_by("account__slug", "name")
    if actor.is_admin:
        return models
    return models.filter(own | public)


def access_model(actor: Actor, owner: str, name: str, right: str | None = None) -> AIModel:
    """A model the actor may see; with `right`, one of its own on which it has it."""
    model = get_one(
        list_visible_models(actor).filter(account__slug=owner, name=name), "No such model."
    )
    if right is not None:
        require_right(actor, model.account, right)
    return model


def access_version(actor: Actor, version_id: UUID | str, right: str = "read") -> ModelVersion:
    """A version of one of the actor's own models; a platform admin may read them all."""
    versions = ModelVersion.objects.select_related("model__account")
    if not (actor.is_admin and right == "read"):
        versions = versions.filter(model__account__in=list_accounts(actor))
    version = get_one(versions.filter(pk=version_id), "No such version.")
    if not actor.is_admin or right != "read":
        require_right(actor, version.model.account, right)
    return version
