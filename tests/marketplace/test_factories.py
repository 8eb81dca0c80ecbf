from __future__ import annotations

from marketplace.core import keys
from tests.factories import APIKeyFactory, ChannelFactory


def test_a_key_is_stored_as_its_digest_only(db):
    api_key = APIKeyFactory()

    assert keys.is_well_formed(api_key.text)
    assert bytes(api_key.digest) == keys.digest(api_key.text)


def test_a_channel_names_a_version_of_its_own_model(db):
    channel = ChannelFactory()

    assert channel.model == channel.version.model
    assert channel.version.state == "approved"


def test_the_people_belong_where_they_should(owner, teammate, outsider, platform_admin, account):
    roles = dict(account.memberships.values_list("user__email", "role"))

    assert roles == {"owner@example.com": "owner", "teammate@example.com": "developer"}
    assert outsider.accounts.get().slug == "elsewhere"
    assert platform_admin.is_staff
