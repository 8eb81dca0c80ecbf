"""Watching predictions that run later: what they say, where they are, and their end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import httpx
import pytest

from billing.models import UsageEvent
from embedded import ports
from inference.broker.output import PREFIX
from inference.gateway.config import (
    OUTPUT_BYTES_MAX,
    OUTPUT_CHUNKS_MAX,
    WATCHES_PER_ACCOUNT_MAX,
)
from inference.models import Job, JobAttempt
from marketplace.core.ids import from_public
from tests.factories import APIKeyFactory
from tests.gateway.conftest import (
    LANGUAGE_REPLICA_IDS,
    PRICE_NANOS,
    REPLICA_IDS,
    X,
    check_books,
    make_node,
    predict,
    problem_of,
)
from tests.gateway.processes import eventually
from tests.gateway.pulling import PullingNode, give_token
from tests.gateway.test_metered import count_by_us, reprice
from tests.gateway.test_native_stream import stream as stream_now
from tests.gateway.watching import Told, Watcher

pytestmark = pytest.mark.django_db(transaction=True)

ASYNC = {"Prefer": "respond-async"}
WORDS = "one two three four five six"


@pytest.fixture
def pull(teller, triton) -> Iterator:
    """Starts nodes that pull jobs of the shop's models."""
    started: list[PullingNode] = []

    def start(node=None, url="", **options) -> PullingNode:
        from marketplace.models import ModelVersion

        told = ModelVersion.objects.get(model__name="teller")
        replicas = {teller.version.pk: REPLICA_IDS[0], told.pk: LANGUAGE_REPLICA_IDS["teller"]}
        found = PullingNode(url or teller.url, node or teller.node, triton, replicas, **options)
        started.append(found)
        return found

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def teller_client(teller) -> httpx.Client:
    client = teller.client()
    # Streams wait for longer than a request.
    client.timeout = httpx.Timeout(90)
    return client


def submit(client: httpx.Client, prompt: str = WORDS, model: str = "teller", **given) -> str:
    given = given or ({"prompt": prompt} if model == "teller" else {"x": X})
    answer = client.post(
        f"/v1/models/maker/{model}/predictions", json={"input": given}, headers=ASYNC
    )
    assert answer.status_code == 202, answer.text
    address = answer.json()["urls"]["stream"].partition("&")[0]
    assert address.endswith(f"/v1/predictions/{answer.json()['id']}/stream?events=output")
    return answer.json()["id"]


def show(client: httpx.Client, public_id: str) -> dict:
    return client.get(f"/v1/predictions/{public_id}").json()


def wait_until_over(client: httpx.Client, public_id: str) -> dict:
    def check() -> dict:
        found = show(client, public_id)
        assert found["completed_at"], found
        return found

    return eventually(check, timeout_s=60)


def list_kinds(events: list[Told]) -> list[str]:
    """The kinds in their order; what repeats itself once."""
    kinds = [one.kind for one in events]
    return [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]


def list_stages(events: list[Told]) -> list[str]:
    found = [one.document["progress"]["stage"] for one in events if "progress" in one.text]
    return [stage for at, stage in enumerate(found) if at == 0 or found[at - 1] != stage]


def test_a_job_is_watched_from_the_queue_to_its_end(teller, teller_client, pull):
    made = submit(teller_client, f"{WORDS} pause=0.4")
    watcher = Watcher(teller_client, made)
    first = watcher.next("status").document
    assert first["status"] == "starting"
    assert (first["progress"]["stage"], first["progress"]["position"]) == ("queued", 1)

    pull()
    piece = watcher.next("output")
    # It is told while it is said.
    assert not UsageEvent.objects.exists()
    assert WORDS.startswith(piece.text)
    events = watcher.finish()

    assert watcher.headers["inference-id"] == made
    assert list_kinds(events) == ["status", "output", "status", "done"]
    assert list_stages(events) in (["queued", "running"], ["queued", "starting", "running"])
    assert events[-2].document == {"status": "succeeded"}
    end = events[-1].document
    assert end["status"] == "succeeded"
    assert end["output"] == {"tokens_in": 7, "tokens_out": 6}
    assert end["metrics"]["cost_nano_usd"] == PRICE_NANOS
    assert watcher.text == WORDS == show(teller_client, made)["output"]["text"]
    assert len([one for one in events if one.kind == "output"]) > 1
    check_books(teller, [made])


def test_output_only_has_the_kinds_of_others_clients(teller, teller_client, pull):
    pull()
    watcher = Watcher(teller_client, submit(teller_client), events="output")

    assert list_kinds(watcher.finish()) == ["output", "done"]
    assert watcher.text == WORDS


def test_output_and_price_are_those_of_the_stream_that_is_waited_for(teller, teller_client, pull):
    """And of one that is canceled, what it had said costs the same by the token."""
    count_by_us(teller, "teller")
    reprice(
        teller,
        "teller",
        flat=3,
        rates={"input_token": 1_000_000, "output_token": 2_000_000},
        max_units={"input_token": 50},
    )
    teller.fund(10_000)
    pull()
    response, events = stream_now(teller_client, WORDS)
    now_id = response.headers["inference-id"]

    later = wait_until_over(teller_client, submit(teller_client))

    assert later["status"] == "succeeded"
    assert later["output"]["text"] == "".join(one[2][0] for one in events[:-1])
    costs = dict(UsageEvent.objects.values_list("pk", "gross_nanos"))
    metered = dict(UsageEvent.objects.values_list("pk", "metered"))
    assert costs[from_public(now_id)] == costs[from_public(later["id"])] == 3 + 6 + 2 * 6
    assert metered[from_public(now_id)] == metered[from_public(later["id"])]


def test_a_canceled_run_is_paid_to_where_it_was_stopped(teller, teller_client, pull):
    count_by_us(teller, "teller")
    reprice(teller, "teller", rates={"output_token": 1_000_000})
    teller.fund(10_000)
    pull()
    made = submit(teller_client, "word repeat=90 pause=0.1")
    watcher = Watcher(teller_client, made)
    watcher.next("output")

    assert teller_client.post(f"/v1/predictions/{made}/cancel").status_code == 200
    events = watcher.finish()

    found = show(teller_client, made)
    assert found["status"] == "canceled"
    text = found["output"]["text"]
    word_count = len(text.split())
    assert 0 < word_count < 90
    assert text == watcher.text
    assert found["metrics"]["cost_nano_usd"] == word_count
    assert UsageEvent.objects.get().metered == {"output_token": word_count}
    end = events[-1]
    assert (end.kind, end.document["reason"]) == ("done", "canceled")


def test_a_run_that_is_canceled_before_its_first_word_is_free(teller, teller_client, pull):
    pull()
    made = submit(teller_client, "word lead=30")
    watcher = Watcher(teller_client, made)
    while watcher.next("status").document["progress"]["stage"] != "running":
        pass

    teller_client.post(f"/v1/predictions/{made}/cancel")

    assert watcher.finish()[-1].document["reason"] == "canceled"
    assert show(teller_client, made)["metrics"]["cost_nano_usd"] == 0
    check_books(teller, [])


def watch_in_two(client, pull, redis_client, *, loses: bool, url: str = "") -> tuple:
    """A prediction, and two watchers: the second comes with the last id of the first."""
    made = submit(client, "word repeat=24 pause=0.15")
    first = Watcher(client, made)
    first.next("status")
    node = pull(url=url)
    first.next("output")
    first.leave()
    first.finish()
    if loses:
        assert redis_client.delete(f"{PREFIX}{from_public(made)}") == 1
    second = Watcher(client, made, last=first.events[-1].id)
    second.finish()
    node.stop()
    return made, first, second


@pytest.mark.parametrize("loses", [False, True])
def test_who_comes_back_misses_nothing_and_gets_nothing_twice(
    teller, teller_client, pull, redis_client, loses
):
    """Also if Redis has forgotten all of it meanwhile."""
    made, first, second = watch_in_two(teller_client, pull, redis_client, loses=loses)

    # And once more, after its end, from each place that there was.
    whole = show(teller_client, made)["output"]["text"]
    assert first.text + second.text == whole == " ".join(["word"] * 24)
    seen = ""
    for one in [*first.events, *second.events[:-1]]:
        seen += one.text if one.kind == "output" else ""
        again = Watcher(teller_client, made, last=one.id)
        again.finish()
        assert seen + again.text == whole
        assert "restart" not in list_kinds(again.events)
    assert Watcher(teller_client, made, last=second.events[-1].id).finish() == []


@pytest.mark.parametrize("broken", ["forgets_lengths", "trusts_redis_alone"])
def test_control_what_is_lost_or_comes_twice_is_noticed(
    teller, pull, redis_client, start_gateway, broken
):
    gateway = start_gateway(target=f"tests.gateway.broken:{broken}")
    client = teller.client(url=gateway.url)

    _, first, second = watch_in_two(client, pull, redis_client, loses=False, url=gateway.url)

    assert first.text + second.text != " ".join(["word"] * 24)


def test_what_redis_has_no_room_for_comes_with_the_end(teller, pull, redis_client, start_gateway):
    gateway = start_gateway(target="tests.gateway.broken:keeps_little")
    client = teller.client(url=gateway.url)

    _, first, second = watch_in_two(client, pull, redis_client, loses=False, url=gateway.url)

    assert first.text + second.text == " ".join(["word"] * 24)


def test_after_the_end_there_is_nothing_more(teller, teller_client, pull):
    pull()
    made = submit(teller_client, model="echo")
    end = Watcher(teller_client, made).finish()[-1]
    assert end.document["output"]["y"] == [2 * one for one in X]

    again = Watcher(teller_client, made, last=end.id)
    again.finish()

    assert again.status == 204


def test_a_prediction_that_was_waited_for_is_shown_as_it_ended(teller, teller_client):
    public_id = predict(teller_client).json()["id"]
    keyed = predict(teller_client, headers={"Idempotency-Key": "a"}).json()["id"]

    gone, kept = (Watcher(teller_client, one).finish() for one in (public_id, keyed))

    assert list_kinds(gone) == list_kinds(kept) == ["status", "done"]
    assert (gone[-1].document["data_removed"], gone[-1].document["output"]) == (True, None)
    assert kept[-1].document["output"]["y"] == [2 * one for one in X]


@pytest.mark.parametrize("kinds", ["all", "output"])
def test_one_that_has_failed_says_so(teller, teller_client, pull, kinds):
    """Also if it had said something, which costs nothing then."""
    made = submit(teller_client, "a b c pause=0.6 fail=2")
    watcher = Watcher(teller_client, made, events=kinds)
    pull()
    events = watcher.finish()

    assert watcher.text in ("a", "a b")
    assert "restart" not in list_kinds(events)
    assert events[-1].kind == "error"
    assert events[-1].document["code"] == "model_failed"
    check_books(teller, [])


def test_one_that_waited_too_long_says_so(teller, teller_client):
    made = submit(teller_client)
    watcher = Watcher(teller_client, made)
    watcher.next("status")
    Job.objects.update(deadline_at=Job.objects.get().created_at)

    assert watcher.finish()[-1].document["code"] == "deadline_exceeded"


def test_what_is_not_kept_any_more_is_not_guessed(teller, teller_client, pull):
    from inference.models import Prediction

    pull()
    made = submit(teller_client)
    events = Watcher(teller_client, made).finish()
    last = next(one for one in events if one.kind == "output").id
    Prediction.objects.update(output=None, input=None)

    behind = Watcher(teller_client, made, last=last)
    behind.finish()

    assert behind.status == 410
    assert b"output_removed" in behind.body
    assert Watcher(teller_client, made).finish()[-1].document["data_removed"]


@pytest.mark.parametrize(
    "last", ["x", "1", "a.b.c.d", "{id}.1.2", "{id}.1.2.xyz", "{id}.-1.0.end", "{id}.1.2.end\x80"]
)
def test_an_id_that_is_none_is_refused(teller, teller_client, last):
    made = submit(teller_client)

    answer = teller_client.get(
        f"/v1/predictions/{made}/stream",
        headers={"Last-Event-ID": last.replace("{id}", made).encode("latin-1")},
    )

    assert problem_of(answer) == (400, "invalid_event_id")


def test_an_id_of_another_prediction_is_refused(teller, teller_client, pull):
    pull()
    one, other = submit(teller_client), submit(teller_client)
    last = Watcher(teller_client, one).finish()[0].id

    answer = teller_client.get(f"/v1/predictions/{other}/stream", headers={"Last-Event-ID": last})

    assert problem_of(answer) == (400, "invalid_event_id")
    # A control: with its own it goes on.
    assert Watcher(teller_client, one, last=last).finish()[-1].kind == "done"


def test_nobody_else_watches(teller, teller_client):
    made = submit(teller_client)
    path = f"/v1/predictions/{made}/stream"
    other = teller.client(APIKeyFactory().text)

    assert problem_of(other.get(path)) == (404, "not_found")
    assert other.get(f"{path}?events=output").status_code == 404
    assert teller.client("").get(path).status_code == 401
    assert problem_of(teller_client.get(f"{path}?events=some")) == (400, "bad_request")


def watch_two_runs(shop, client, pull, triton, url: str = "") -> tuple:
    """A prediction whose first node dies when it has said all, and two watchers of it."""
    held: list = []

    def hang(job, infer):
        outputs = infer(job)
        held.append(job)
        while not job.cancelled.wait(0.1):
            pass
        return outputs

    first = pull(bend=hang, url=url)
    made = submit(client, "one two three")
    watcher, plain = Watcher(client, made), Watcher(client, made, events="output")
    plain.next("output")
    last = watcher.next("output")
    eventually(lambda: _require(held), timeout_s=30)
    first.queue.heartbeat = lambda beats: {"words": {}}  # The platform does not hear it any more.
    Job.objects.update(lease_until=Job.objects.get().created_at)
    node = make_node("node-2", triton.config.http_url, triton.config.grpc_url)
    second = pull(node, url=url)
    watcher.finish()
    for one in (first, second):
        one.stop()
    return made, watcher, plain, last


def test_a_node_that_dies_makes_it_begin_anew(teller, teller_client, pull, triton):
    made, watcher, plain, last = watch_two_runs(teller, teller_client, pull, triton)

    # The same words again: the first ones do not count.
    assert watcher.text == "one two three"
    assert list_kinds(watcher.events).count("restart") == 1
    assert watcher.events[-1].document["status"] == "succeeded"
    # What others' clients do not know ends theirs, so that they do not join what is not one.
    assert list_kinds(plain.finish()) == ["output", "error"]
    assert plain.events[-1].document["code"] == "stream_restarted"
    # Who comes back with a place of the first run is told as well.
    again = Watcher(teller_client, made, last=last.id)
    again.finish()
    assert again.events[0].kind == "restart"
    assert again.text == "one two three"
    check_books(teller, [made])


def test_control_runs_that_are_joined_are_noticed(teller, pull, triton, start_gateway):
    gateway = start_gateway(target="tests.gateway.broken:joins_runs")
    client = teller.client(url=gateway.url)

    _, watcher, _, _ = watch_two_runs(teller, client, pull, triton, gateway.url)

    assert watcher.text != "one two three"


def test_an_account_watches_so_many(teller, teller_client):
    made = submit(teller_client)
    limits = httpx.Limits(max_connections=WATCHES_PER_ACCOUNT_MAX + 5)
    with httpx.Client(
        base_url=teller.url, headers=teller_client.headers, timeout=60, limits=limits
    ) as many:
        watchers = [Watcher(many, made) for _ in range(WATCHES_PER_ACCOUNT_MAX)]
        for one in watchers:
            one.next("status")

        beyond = many.get(f"/v1/predictions/{made}/stream")
        assert problem_of(beyond) == (429, "concurrency_limited")

        teller_client.post(f"/v1/predictions/{made}/cancel")
        for one in watchers:
            assert one.finish()[-1].document["reason"] == "canceled"
    # All places are free again.
    assert Watcher(teller_client, made).finish()[-1].kind == "done"


def test_who_leaves_gives_the_place_back(teller, teller_client):
    """Though nothing is said that could not be delivered."""
    made = submit(teller_client)
    path = f"/v1/predictions/{made}/stream"
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            for _ in range(WATCHES_PER_ACCOUNT_MAX):
                client = stack.enter_context(
                    httpx.Client(base_url=teller.url, headers=teller_client.headers, timeout=60)
                )
                opened = eventually(lambda client=client: _open(client, path), timeout_s=30)
                stack.callback(opened.close)
            assert teller_client.get(path).status_code == 429


def _open(client: httpx.Client, path: str) -> httpx.Response:
    response = client.send(client.build_request("GET", path), stream=True)
    if response.status_code != 200:
        response.close()
    assert response.status_code == 200
    return response


def test_a_comment_keeps_it_open(teller, teller_client):
    made = submit(teller_client, model="echo")
    watcher = Watcher(teller_client, made)

    def check() -> None:
        assert watcher.comments > 0

    eventually(check, timeout_s=40)
    teller_client.post(f"/v1/predictions/{made}/cancel")
    watcher.finish()


def test_a_gateway_that_ends_does_not_wait_for_watchers(teller, teller_client, start_gateway):
    gateway = start_gateway()
    made = submit(teller_client)
    watcher = Watcher(teller.client(url=gateway.url), made)
    last = watcher.next("status")

    began_s = time.monotonic()
    gateway.stop()

    assert time.monotonic() - began_s < 15
    assert gateway.process.returncode is not None
    watcher.finish()
    # Another one goes on.
    other = Watcher(teller_client, made, last=last.id)
    teller_client.post(f"/v1/predictions/{made}/cancel")
    assert other.finish()[-1].document["reason"] == "canceled"


def test_a_gateway_that_ends_does_not_wait_for_claims(teller, start_gateway, pull):
    gateway = start_gateway()
    node = pull(url=gateway.url)
    made = submit(teller.client(url=gateway.url))
    eventually(lambda: _require(node.ran), timeout_s=30)
    wait_until_over(teller.client(), made)

    began_s = time.monotonic()
    gateway.stop()

    assert time.monotonic() - began_s < 15


def test_without_redis_the_end_brings_all(teller, pull, start_gateway):
    gateway = start_gateway(
        STRONGROOM_REDIS_URL=f"redis://127.0.0.1:{ports.choose()}/0",
        STRONGROOM_GATEWAY_REDIS_WAIT_MS="100",
    )
    client = teller.client(url=gateway.url)
    made = submit(client, f"{WORDS} pause=0.4")
    watcher = Watcher(client, made)
    watcher.next("status")

    pull(url=gateway.url)
    events = watcher.finish()

    assert watcher.text == WORDS
    assert len([one for one in events if one.kind == "output"]) == 1
    assert events[-1].document["metrics"]["cost_nano_usd"] == PRICE_NANOS
    check_books(teller, [made])


def _require(held: list) -> None:
    assert held


# --- What a node says ---


class Leased:
    """A job that a node has, and says things of."""

    def __init__(self, shop, client, model: str = "teller") -> None:
        from inference.triton import frames
        from marketplace.models import ModelVersion

        self.url = shop.url
        self.headers = {"Authorization": f"Bearer {give_token(shop.node)}"}
        self.public_id = submit(client, model=model)
        self.id = from_public(self.public_id)
        version = ModelVersion.objects.get(model__name=model)
        claimed = self.post("claim", slot=0, version_ids=[str(version.pk)])
        assert claimed.status_code == 200, claimed.text
        self.document, _ = frames.load(claimed.content)

    def post(self, path: str, **body) -> httpx.Response:
        url = f"{self.url}/node/v1/{path}"
        return httpx.post(url, json=body, headers=self.headers, timeout=30)

    def say(self, number: int, *chunks: str, epoch: int = 1) -> httpx.Response:
        return self.post(f"jobs/{self.id}/output", epoch=epoch, seq=number, chunks=list(chunks))


@pytest.fixture
def leased(teller, teller_client, redis_client) -> Leased:
    return Leased(teller, teller_client)


def test_a_node_is_told_what_streams(leased, teller, teller_client):
    assert leased.document["streamed_output"] == "text"
    leased.post(f"jobs/{leased.id}/hand-back", epoch=1, code="x")
    assert Leased(teller, teller_client, "echo").document["streamed_output"] == ""


def test_chunks_come_once_and_in_order(leased, teller_client):
    assert leased.say(0, "a", "b").json() == {"word": "kept", "next": 2}
    # The answer was lost: the same again, and more.
    assert leased.say(0, "a", "b").json() == {"word": "kept", "next": 2}
    assert leased.say(1, "b", "ç").json() == {"word": "kept", "next": 3}
    early = leased.say(4, "e")
    assert (early.status_code, early.json()["code"]) == (409, "output_out_of_order")
    assert early.json()["next"] == 3
    assert leased.say(3, "d").json() == {"word": "kept", "next": 4}

    watcher = Watcher(teller_client, leased.public_id)
    while len(watcher.text) < 4:
        watcher.next("output")
    assert watcher.text == "abçd"
    assert [one.id.split(".")[2] for one in watcher.events if one.kind == "output"] == list("1234")
    # It runs, whatever its node has said of that.
    assert list_stages(watcher.events)[-1] == "running"
    teller_client.post(f"/v1/predictions/{leased.public_id}/cancel")
    watcher.leave()
    # A control: the next lease begins anew.
    leased.post(f"jobs/{leased.id}/hand-back", epoch=1, code="x")


def test_what_another_or_an_older_lease_says_is_not_kept(leased, teller, triton, teller_client):
    other = make_node("node-2", triton.config.http_url, triton.config.grpc_url)
    mine = leased.headers
    leased.headers = {"Authorization": f"Bearer {give_token(other)}"}
    assert leased.say(0, "x").json()["word"] == "stale"
    leased.headers = mine
    assert leased.say(0, "x", epoch=2).json()["word"] == "stale"
    assert leased.say(0, "right").json()["word"] == "kept"
    leased.post(f"jobs/{leased.id}/hand-back", epoch=1, code="x")
    assert leased.say(1, "x").json()["word"] == "stale"

    teller_client.post(f"/v1/predictions/{leased.public_id}/cancel")
    assert leased.say(1, "x").json()["word"] == "stale"
    assert JobAttempt.objects.count() == 1


def test_control_a_lease_that_nobody_looks_at_is_noticed(
    leased, teller, teller_client, start_gateway
):
    leased.url = start_gateway(target="tests.gateway.broken:believes_every_lease").url

    with pytest.raises(AssertionError):
        test_what_is_said_after_a_cancel_is_not_kept(leased, teller_client, None)


def test_what_is_said_after_a_cancel_is_not_kept(leased, teller_client, redis_client):
    leased.say(0, "a")
    teller_client.post(f"/v1/predictions/{leased.public_id}/cancel")

    assert leased.say(1, "b").json() == {"word": "cancel", "next": 1}
    assert redis_client.xlen(f"{PREFIX}{leased.id}") == 1


@pytest.mark.parametrize(("days", "word", "count"), [(0, "full", 0), (1, "kept", 1)])
def test_of_an_account_that_keeps_nothing_redis_hears_nothing(
    leased, teller, redis_client, days, word, count
):
    teller.consumer.retention_days = days
    teller.consumer.save(update_fields=["retention_days"])

    assert leased.say(0, "a").json()["word"] == word
    assert redis_client.xlen(f"{PREFIX}{leased.id}") == count


@pytest.mark.parametrize(
    ("chunks", "status"),
    [
        (["a"] * OUTPUT_CHUNKS_MAX, 200),
        (["a"] * (OUTPUT_CHUNKS_MAX + 1), 400),
        (["é" * (OUTPUT_BYTES_MAX // 2)], 200),
        (["é" * (OUTPUT_BYTES_MAX // 2), "a"], 413),
        ([], 400),
        ([""], 400),
        ([1], 400),
        ("a", 400),
    ],
)
def test_chunks_of_a_wrong_form_are_refused(leased, chunks, status):
    body = {"epoch": 1, "seq": 0, "chunks": chunks}
    assert leased.post(f"jobs/{leased.id}/output", **body).status_code == status


@pytest.mark.parametrize("number", [-1, 2**31, "0", True, None, 0.5])
def test_a_number_of_a_wrong_form_is_refused(leased, number):
    body = {"epoch": 1, "seq": number, "chunks": ["a"]}
    assert leased.post(f"jobs/{leased.id}/output", **body).status_code == 400


def test_outputs_end_with_what_was_canceled_alone(leased):
    """A node cannot have something paid that its account has not canceled, nor with an error."""
    import numpy as np

    from inference.triton import frames

    tensors = frames.to_tensors({"text": np.array([[b"a b"]], dtype=object)})

    def finish(error: str, piece_count: object = 2) -> httpx.Response:
        document = {"epoch": 1, "error": error, "predict_time_us": 5, "piece_count": piece_count}
        url = f"{leased.url}/node/v1/jobs/{leased.id}/finish"
        frame = frames.dump(document, tensors)
        return httpx.post(url, content=frame, headers=leased.headers, timeout=30)

    assert finish("model_failed").status_code == 400
    assert finish("canceled", -1).status_code == 400
    assert finish("canceled", "2").status_code == 400
    assert finish("canceled").json() == {"outcome": "free"}
    assert not UsageEvent.objects.exists()
    with contextlib.suppress(httpx.HTTPError):
        assert finish("canceled").json() == {"outcome": "stale"}
