"""The people of the tests: owner, teammate, outsider, platform admin.

`owner` owns the account `acme`; `teammate` is a developer in it; `outsider` owns another
account; `platform_admin` belongs to none. All sign in with `tests.factories.PASSWORD`.
"""

from __future__ import annotations

import pytest
from django.test import Client

from marketplace.models import Account, Membership, User
from tests.factories import AccountFactory, MembershipFactory, UserFactory


@pytest.fixture
def owner(db: None) -> User:
    return UserFactory(email="owner@example.com", name="Olive Owner")


@pytest.fixture
def account(owner: User) -> Account:
    return AccountFactory(slug="acme", name="Acme", owner=owner)


@pytest.fixture
def teammate(account: Account) -> User:
    user = UserFactory(email="teammate@example.com", name="Tim Teammate")
    MembershipFactory(account=account, user=user, role=Membership.Role.DEVELOPER)
    return user


@pytest.fixture
def outsider(db: None) -> User:
    user = UserFactory(email="outsider@example.com", name="Otto Outsider")
    AccountFactory(slug="elsewhere", name="Elsewhere", owner=user)
    return user


@pytest.fixture
def platform_admin(db: None) -> User:
    return UserFactory(email="admin@example.com", is_staff=True, is_superuser=True)


@pytest.fixture
def owner_client(owner: User, account: Account) -> Client:
    client = Client()
    client.force_login(owner)
    return client


@pytest.fixture
def teammate_client(teammate: User) -> Client:
    client = Client()
    client.force_login(teammate)
    return client


@pytest.fixture
def outsider_client(outsider: User) -> Client:
    client = Client()
    client.force_login(outsider)
    return client


@pytest.fixture
def admin_client(platform_admin: User) -> Client:
    client = Client()
    client.force_login(platform_admin)
    return client
