"""Spans of workers and nodes reach a collector, and cost nobody their work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from marketplace.core.env import SettingError
from marketplace.core.spans import Spans
from tests.gateway.collector import Collector, read_attributes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


def make(collector, ratio="1"):
    return Spans(
        "test", {"STRONGROOM_OTLP_ENDPOINT": collector.url, "STRONGROOM_OTLP_RATIO": ratio}
    )


def test_a_span_says_what_was_done_and_for_how_long(collector):
    spans = make(collector)
    with spans.span("replica.load", replica_id="7"):
        pass
    spans.stop()

    [span] = collector.spans
    assert span.name == "replica.load"
    assert read_attributes(span)["strongroom.replica_id"] == "7"
    assert span.end_time_unix_nano >= span.start_time_unix_nano


def test_an_error_is_marked_and_goes_on_without_its_text(collector):
    spans = make(collector)
    with pytest.raises(ValueError, match="hunter2"), spans.span("x"):
        raise ValueError("password=hunter2")
    spans.stop()

    [span] = collector.spans
    assert read_attributes(span)["error.type"] == "ValueError"
    assert span.status.code == 2
    assert b"hunter2" not in b"".join(collector.octets)


def test_the_ratio_decides(collector):
    spans = make(collector, "0")
    for _ in range(50):
        with spans.span("x"):
            pass
    spans.stop()

    assert collector.spans == []


def test_a_collector_that_is_away_costs_nobody_anything():
    spans = Spans(
        "test",
        {"STRONGROOM_OTLP_ENDPOINT": "http://127.0.0.1:9", "STRONGROOM_OTLP_RATIO": "1"},
    )
    for _ in range(3000):
        with spans.span("x"):
            pass
    # It does not wait: what is left is dropped with the process.
    assert spans.is_on


def test_tracing_that_fails_does_not_fail_the_work(collector, monkeypatch):
    spans = make(collector)
    monkeypatch.setattr(spans, "_make_provider", lambda: 1 / 0)
    done = []
    with spans.span("x"):
        done.append(1)

    assert done == [1]


def test_a_child_sends_spans_of_its_own(collector):
    spans = make(collector)
    with spans.span("parent"):
        pass
    pid = os.fork()
    if pid == 0:
        with spans.span("child"):
            pass
        spans.stop()
        os._exit(0)
    os.waitpid(pid, 0)
    spans.stop()

    assert {one.name for one in collector.spans} == {"parent", "child"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("STRONGROOM_OTLP_ENDPOINT", "collector:4318"), ("STRONGROOM_OTLP_RATIO", "2")],
)
def test_a_wrong_setting_is_refused_with_its_name(name, value):
    with pytest.raises(SettingError, match=name):
        Spans("test", {name: value})


def test_without_a_collector_nothing_of_it_is_imported():
    program = (
        "import sys; from marketplace.core.spans import Spans\n"
        "with Spans('x', {}).span('y'): pass\n"
        "sys.exit(any(one.startswith('opentelemetry') for one in sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=env).returncode == 0
