"""Rows for tests, with the fewest fields that make them valid."""

from tests.factories.marketplace import (
    PASSWORD,
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    MembershipFactory,
    ModelVersionFactory,
    UserFactory,
)

__all__ = [
    "PASSWORD",
    "AIModelFactory",
    "APIKeyFactory",
    "AccountFactory",
    "ChannelFactory",
    "MembershipFactory",
    "ModelVersionFactory",
    "UserFactory",
]
