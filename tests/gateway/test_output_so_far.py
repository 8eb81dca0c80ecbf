"""What a prediction has said so far, as whoever asks for it sees it while it runs."""

from __future__ import annotations

import pytest

from embedded import ports
from inference.broker.output import PREFIX
from inference.gateway.config import OUTPUT_SO_FAR_CHARS_MAX
from inference.models import Job
from tests.factories import APIKeyFactory
from tests.gateway.processes import eventually
from tests.gateway.test_job_stream import (  # noqa: F401 - fixtures
    WORDS,
    leased,
    pull,
    show,
    submit,
    teller_client,
    wait_until_over,
)
from tests.gateway.watching import Watcher

pytestmark = pytest.mark.django_db(transaction=True)


def read_beginning(client, public_id: str) -> dict:
    """The prediction, once it shows something and is not over yet."""

    def look() -> dict:
        found = show(client, public_id)
        assert found["output"] or found["completed_at"], found
        return found

    return eventually(look, timeout_s=60)


def test_it_is_shown_while_it_is_written(teller, teller_client, pull):  # noqa: F811
    made = submit(teller_client, f"{WORDS} pause=0.5")
    assert show(teller_client, made)["output"] is None
    pull()
    found = read_beginning(teller_client, made)

    assert found["status"] in ("starting", "processing")
    assert found["completed_at"] is None
    assert found["data_removed"] is False
    assert set(found["output"]) == {"text"}
    assert WORDS.startswith(found["output"]["text"])
    assert found["output"]["text"] != WORDS
    # A list of predictions stays short.
    [listed] = teller_client.get("/v1/predictions").json()["results"]
    assert listed["output"] is None
    done = wait_until_over(teller_client, made)
    assert done["output"] == {"text": WORDS, "tokens_in": 7, "tokens_out": 6}


def test_nobody_else_sees_it(leased, teller, teller_client):  # noqa: F811
    leased.say(0, "a word")
    assert show(teller_client, leased.public_id)["output"] == {"text": "a word"}

    other = teller.client(APIKeyFactory().text)

    assert other.get(f"/v1/predictions/{leased.public_id}").status_code == 404


@pytest.mark.parametrize("more", [0, 1])
def test_so_much_of_it_is_shown(leased, teller_client, more):  # noqa: F811
    half = "é" * (OUTPUT_SO_FAR_CHARS_MAX // 2)
    leased.say(0, half)
    leased.say(1, half + "x" * more)

    found = show(teller_client, leased.public_id)

    assert found["output"]["text"] == half + half


def test_what_an_earlier_run_said_is_not_shown(leased, teller_client):  # noqa: F811
    leased.say(0, "a word")
    assert show(teller_client, leased.public_id)["output"] == {"text": "a word"}
    Job.objects.update(lease_until=Job.objects.get().created_at)

    def look() -> None:
        found = show(teller_client, leased.public_id)
        assert found["progress"]["stage"] == "queued"
        assert found["output"] is None

    eventually(look, timeout_s=30)


def test_of_an_account_that_keeps_nothing_nothing_is_shown(leased, teller, teller_client):  # noqa: F811
    """Also of what was kept before it chose so."""
    leased.say(0, "a word")
    assert show(teller_client, leased.public_id)["output"] == {"text": "a word"}
    teller.consumer.retention_days = 0
    teller.consumer.save(update_fields=["retention_days"])

    assert show(teller_client, leased.public_id)["output"] is None
    leased.say(1, " more")
    assert show(teller_client, leased.public_id)["output"] is None


def test_what_redis_has_lost_is_not_shown(leased, teller_client, redis_client):  # noqa: F811
    leased.say(0, "a word", " more")
    assert redis_client.xdel(f"{PREFIX}{leased.id}", "1-1") == 1

    assert show(teller_client, leased.public_id)["output"] is None


def test_without_redis_it_comes_with_the_end(teller, pull, start_gateway):  # noqa: F811
    gateway = start_gateway(
        STRONGROOM_REDIS_URL=f"redis://127.0.0.1:{ports.choose()}/0",
        STRONGROOM_GATEWAY_REDIS_WAIT_MS="100",
    )
    client = teller.client(url=gateway.url)
    made = submit(client, f"{WORDS} pause=1")
    watcher = Watcher(client, made)
    pull(url=gateway.url)
    while watcher.next("status").document["progress"]["stage"] != "running":
        pass

    assert show(client, made)["output"] is None
    assert wait_until_over(client, made)["output"]["text"] == WORDS
