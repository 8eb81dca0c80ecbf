"""The address of its events that a prediction names opens without a key, and nothing else."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import pytest
from django.utils import timezone

from inference.core.stream_link import write_stream_right
from marketplace.core.ids import from_public
from marketplace.models import Account
from tests.factories import APIKeyFactory
from tests.gateway.conftest import check_books, predict, problem_of
from tests.gateway.processes import eventually
from tests.gateway.test_job_stream import (  # noqa: F401 - fixtures
    ASYNC,
    WORDS,
    list_kinds,
    pull,
    show,
    submit,
    teller_client,
)
from tests.gateway.test_log import read_lines
from tests.gateway.watching import Watcher

pytestmark = pytest.mark.django_db(transaction=True)


def read_address(client: httpx.Client, public_id: str) -> str:
    """Path and query of the address that a prediction names."""
    parts = urlsplit(show(client, public_id)["urls"]["stream"])
    return f"{parts.path}?{parts.query}"


@pytest.fixture
def nobody(teller) -> httpx.Client:
    """A client without a key."""
    client = teller.client("")
    client.timeout = httpx.Timeout(90)
    return client


def test_it_is_watched_without_a_key_and_gone_on_with(teller, teller_client, nobody, pull):  # noqa: F811
    made = submit(teller_client, f"{WORDS} pause=0.2")
    address = read_address(teller_client, made)
    watcher = Watcher(nobody, made, address=address)
    pull()
    first = watcher.next("output")
    events = watcher.finish()

    assert list_kinds(events) == ["output", "done"]
    assert watcher.text == WORDS
    check_books(teller, [made])
    # From the id of an event on, and at the end there is nothing more.
    rest = Watcher(nobody, made, address=address, last=first.id)
    rest.finish()
    assert first.text + rest.text == WORDS
    end = Watcher(nobody, made, address=address, last=events[-1].id)
    end.finish()
    assert end.status == 204
    # The way with a key is as it was.
    assert Watcher(teller_client, made).finish()[-1].kind == "done"


def test_one_that_was_waited_for_is_opened_too(teller, nobody):
    document = predict(teller.client()).json()
    parts = urlsplit(document["urls"]["stream"])

    events = Watcher(nobody, document["id"], address=f"{parts.path}?{parts.query}").finish()

    assert list_kinds(events) == ["done"]


def check_refusals(nobody: httpx.Client, address: str, other: str) -> None:
    """That whatever is not exactly what we signed opens nothing."""
    path, _, query = address.partition("?")
    signature = query.partition("signature=")[2]
    wrong = ("A" if signature[0] != "A" else "B") + signature[1:]
    expires = int(query.partition("expires=")[2].partition("&")[0])
    for changed in (
        address.replace(signature, wrong),
        address.replace(signature, ""),
        address.replace(f"expires={expires}", f"expires={expires + 3_600}"),
        address.replace(f"expires={expires}", "expires="),
        f"{path}?signature={signature}",
        f"{other.partition('?')[0]}?{query}",
    ):
        assert problem_of(nobody.get(changed)) == (403, "stream_link_invalid"), changed


def test_what_was_changed_or_belongs_to_another_opens_nothing(teller, teller_client, nobody):  # noqa: F811
    one, other = (read_address(teller_client, submit(teller_client)) for _ in range(2))

    check_refusals(nobody, one, other)
    # Also with a key beside it, of whomever: the address says what it says.
    changed = f"{other.partition('?')[0]}?{one.partition('?')[2]}"
    assert problem_of(teller_client.get(changed)) == (403, "stream_link_invalid")


def test_control_a_gateway_that_takes_every_signature_is_noticed(
    teller,
    teller_client,  # noqa: F811
    start_gateway,
):
    gateway = start_gateway(target="tests.gateway.broken:opens_any_stream")
    broken = teller.client("", url=gateway.url)
    broken.timeout = httpx.Timeout(5)
    one, other = (read_address(teller_client, predict(teller_client).json()["id"]) for _ in "ab")

    with pytest.raises((AssertionError, httpx.ReadTimeout, ValueError)):
        check_refusals(broken, one, other)


def test_it_ends_with_its_moment(teller, teller_client, nobody):  # noqa: F811
    made = submit(teller_client)
    long_ago = datetime.now(UTC) - timedelta(hours=3)
    right = write_stream_right(
        os.environ["STRONGROOM_PLAYGROUND_SECRET"],
        from_public(made),
        long_ago,
        now_s=long_ago.timestamp(),
    )

    answer = nobody.get(f"/v1/predictions/{made}/stream?{right}")

    assert problem_of(answer) == (410, "stream_link_expired")
    # A control: the one that is told today is good.
    address = read_address(teller_client, made)
    expires_s = int(address.partition("expires=")[2].partition("&")[0])
    assert 3_600 < expires_s - time.time() <= 3 * 3_600
    watcher = Watcher(nobody, made, address=address)
    teller_client.post(f"/v1/predictions/{made}/cancel")
    assert watcher.finish()[-1].document["reason"] == "canceled"


def test_it_opens_nothing_but_the_stream(teller, teller_client, nobody):  # noqa: F811
    made = submit(teller_client)
    query = read_address(teller_client, made).partition("?")[2]

    for method, path in (
        ("GET", f"/v1/predictions/{made}"),
        ("POST", f"/v1/predictions/{made}/cancel"),
        ("POST", f"/v1/predictions/{made}/stream"),
        ("GET", f"/v1/predictions/{made}/receipt"),
        ("GET", "/v1/predictions"),
        ("GET", "/v1/account"),
    ):
        assert nobody.request(method, f"{path}?{query}").status_code == 401, path
    # And without it nothing opens.
    assert nobody.get(f"/v1/predictions/{made}/stream").status_code == 401


def test_an_account_that_is_suspended_is_watched_by_nobody(teller, teller_client, nobody):  # noqa: F811
    made = predict(teller_client).json()["id"]
    address = read_address(teller_client, made)
    Account.objects.filter(pk=teller.consumer.pk).update(suspended_at=timezone.now())

    def check() -> None:
        assert problem_of(nobody.get(address)) == (403, "account_suspended")

    eventually(check, timeout_s=20)


def test_a_key_that_is_revoked_does_not_end_it(teller, nobody):
    key = APIKeyFactory(account=teller.consumer)
    client = teller.client(key.text)
    made = predict(client).json()["id"]
    address = read_address(client, made)
    key.revoked_at = timezone.now()
    key.save(update_fields=["revoked_at"])

    assert Watcher(nobody, made, address=address).finish()[-1].kind == "done"


def test_the_signature_lands_in_no_log(teller, start_gateway):
    gateway = start_gateway(
        STRONGROOM_GATEWAY_ACCESS_LOG="true",
        STRONGROOM_LOG_LEVEL="DEBUG",
    )
    client = teller.client(url=gateway.url)
    address = read_address(client, predict(client).json()["id"])
    signature = address.partition("signature=")[2]
    nobody = teller.client("", url=gateway.url)

    assert nobody.get(address).status_code == 200
    changed = nobody.get(address.replace("expires=", "expires=1"))

    assert changed.status_code == 403
    assert signature not in changed.text
    lines = read_lines(gateway, 2, "/v1/predictions/*/stream")
    assert [(one["status"], one["code"]) for one in lines] == [
        (200, "ok"),
        (403, "stream_link_invalid"),
    ]
    # The first was its account's, though no key's.
    assert lines[0]["account_id"] == str(teller.consumer.pk)
    assert lines[0]["key_id"] is None
    assert signature not in gateway.log()
