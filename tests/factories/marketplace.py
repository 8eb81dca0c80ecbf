"""Factories of the marketplace's rows."""

from __future__ import annotations

from typing import Any

import factory
from factory.django import DjangoModelFactory

from marketplace.core import keys
from marketplace.models import (
    Account,
    AIModel,
    APIKey,
    Channel,
    Membership,
    ModelVersion,
    User,
)

PASSWORD = "correct horse battery"

_PREFIX_BY_MODE = {"live": keys.LIVE, "test": keys.TEST, "token": keys.TOKEN}
_SCOPES_BY_MODE = {
    "live": ["predict", "read"],
    "test": ["predict", "read"],
    "token": ["read", "push", "publish", "keys", "billing"],
}


class UserFactory(DjangoModelFactory):
    """A person who signs in with `PASSWORD`; belongs to no account yet."""

    class Meta:
        model = User

    email = factory.Sequence(lambda n: f"user{n}@example.com")
    name = ""
    password = PASSWORD

    @classmethod
    def _create(cls, model_class: type[User], *args: Any, **fields: Any) -> User:
        return model_class.objects.create_user(*args, **fields)


class AccountFactory(DjangoModelFactory):
    """An account; `AccountFactory(owner=user)` also makes that person its owner."""

    class Meta:
        model = Account
        skip_postgeneration_save = True

    slug = factory.Sequence(lambda n: f"account{n}")
    name = factory.LazyAttribute(lambda account: account.slug.title())

    @factory.post_generation
    def owner(self, create: bool, user: User | None, **kwargs: Any) -> None:
        if user is not None:
            MembershipFactory(account=self, user=user, role=Membership.Role.OWNER)


class MembershipFactory(DjangoModelFactory):
    class Meta:
        model = Membership

    account = factory.SubFactory(AccountFactory)
    user = factory.SubFactory(UserFactory)
    role = Membership.Role.DEVELOPER


class AIModelFactory(DjangoModelFactory):
    class Meta:
        model = AIModel

    account = factory.SubFactory(AccountFactory)
    name = factory.Sequence(lambda n: f"model-{n}")
    title = factory.LazyAttribute(lambda model: model.name.title())


class ModelVersionFactory(DjangoModelFactory):
    """Version 1 of a model unless told; approved, with one number in and one out."""

    class Meta:
        model = ModelVersion

    model = factory.SubFactory(AIModelFactory)
    number = 1
    state = ModelVersion.State.APPROVED
    runtime = "onnx"
    interface = factory.LazyFunction(
        lambda: {
            "inputs": [{"name": "x", "kind": "number"}],
            "outputs": [{"name": "y", "kind": "number"}],
            "batch": {"max_size": 8, "leading_axis": True},
        }
    )


class ChannelFactory(DjangoModelFactory):
    class Meta:
        model = Channel

    version = factory.SubFactory(ModelVersionFactory)
    model = factory.LazyAttribute(lambda channel: channel.version.model)
    name = Channel.Name.PROD


class APIKeyFactory(DjangoModelFactory):
    """A key; the made object carries its one-time text as `.text`, which no row holds."""

    class Meta:
        model = APIKey

    account = factory.SubFactory(AccountFactory)
    name = "A key"
    mode = APIKey.Mode.LIVE
    scopes = factory.LazyAttribute(lambda api_key: _SCOPES_BY_MODE[api_key.mode])

    @classmethod
    def _create(cls, model_class: type[APIKey], *args: Any, **fields: Any) -> APIKey:
        secret = keys.generate(_PREFIX_BY_MODE[fields["mode"]])
        fields = {"digest": secret.digest, "hint": secret.hint} | fields
        api_key = super()._create(model_class, *args, **fields)
        api_key.text = secret.text
        return api_key
