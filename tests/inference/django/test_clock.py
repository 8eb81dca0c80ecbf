"""Clocks that differ: seen in each report, shown, and beyond the limit no reason for new work."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
import time_machine
from django.core.management import CommandError, call_command

from inference.management.commands import check_clock
from inference.models import Node
from inference.selectors import fleet
from inference.selectors.node import CLOCK_AHEAD, CLOCK_OFF_S_MAX, list_live_nodes
from inference.services.deployment import find_nodes
from marketplace.core.clock import to_wire, utc_now
from tests.inference.django.scripted_node import ScriptedNode
from tests.inference.django.test_node import assert_refused


@pytest.fixture
def node(db) -> ScriptedNode:
    node = ScriptedNode("node-1")
    assert node.enrol().status_code == 201
    return node


def report(node: ScriptedNode, ahead_s: float, **info) -> Node:
    """What is known of a node after it told its time."""
    now = utc_now()
    with time_machine.travel(now, tick=False):
        at = to_wire(now + timedelta(seconds=ahead_s))
        node.spoil = lambda body: body.update(at=at)
        assert node.report(info=info).status_code == 200
    return Node.objects.get()


@pytest.mark.parametrize("ahead_s", [0, 12, -12, CLOCK_OFF_S_MAX, -CLOCK_OFF_S_MAX])
def test_a_clock_within_the_limit_gets_work(node, ahead_s):
    row = report(node, ahead_s, cpu_count=2)

    assert row.info[CLOCK_AHEAD] == ahead_s
    assert row.info["cpu_count"] == 2
    assert list(list_live_nodes()) == [row]
    assert fleet.describe_condition(row) == "ready"


@pytest.mark.parametrize("ahead_s", [CLOCK_OFF_S_MAX + 1, -CLOCK_OFF_S_MAX - 1])
def test_a_clock_beyond_the_limit_gets_nothing_new(node, ahead_s, monkeypatch):
    row = report(node, ahead_s)

    assert find_nodes(count=1) == []
    assert fleet.describe_condition(row) == "clock off"
    # It is heard of all the same: what it serves is not given up.
    assert row.last_seen_at > utc_now() - timedelta(seconds=10)
    # The control: with another limit it would get it.
    monkeypatch.setattr("inference.selectors.node.CLOCK_OFF_S_MAX", CLOCK_OFF_S_MAX + 1)
    assert find_nodes(count=1) == [row]


def test_a_clock_that_was_set_right_gets_work_again(node):
    report(node, CLOCK_OFF_S_MAX + 1)

    row = report(node, 0)

    assert find_nodes(count=1) == [row]
    assert row.info[CLOCK_AHEAD] == 0


def test_a_node_of_an_earlier_release_does_not_tell_its_time(node):
    node.spoil = lambda body: body.pop("at", None)
    assert node.report().status_code == 200

    row = Node.objects.get()
    assert CLOCK_AHEAD not in row.info
    assert find_nodes(count=1) == [row]


def test_reports_that_took_a_little_longer_are_not_noted(node):
    report(node, 12)
    assert report(node, 11).info[CLOCK_AHEAD] == 12
    assert report(node, 13).info[CLOCK_AHEAD] == 12
    assert report(node, 14).info[CLOCK_AHEAD] == 14


@pytest.mark.parametrize("at", ["yesterday", "2026-11-23T10:00:00", 12, "", {}, []])
def test_what_is_no_time_is_refused(node, at):
    node.spoil = lambda body: body.update(at=at)
    before = Node.objects.get().last_seen_at

    assert_refused(node.report(), 422, "validation")
    assert Node.objects.get().last_seen_at == before


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [(9, ""), (-9, ""), (10, "10 s ahead"), (-10, "10 s behind"), (4_000, "4,000 s ahead")],
)
def test_it_is_told_in_words(node, ahead_s, words):
    report(node, ahead_s)

    [one] = fleet.list_fleet()
    assert one.clock == words


@pytest.mark.parametrize(
    ("ahead_s", "badge"), [(12, "check"), (CLOCK_OFF_S_MAX + 1, "gets nothing new")]
)
def test_the_map_shows_it(node, admin_client, ahead_s, badge):
    report(node, 0)
    assert "<dt>Clock</dt>" not in admin_client.get("/platform/fleet").content.decode()

    report(node, ahead_s)
    page = admin_client.get("/platform/fleet").content.decode()
    assert "<dt>Clock</dt>" in page
    assert badge in page


def check(**options) -> tuple[int, str]:
    """How the command ends, and what it says."""
    out, code = StringIO(), 0
    try:
        call_command("check_clock", stdout=out, no_color=True, **options)
    except SystemExit as ended:
        code = int(str(ended.code))
    return code, out.getvalue()


def test_the_command_finds_all_well(node):
    report(node, 60)

    code, said = check()
    assert code == 0
    assert "ok     this machine is right to the second" in said
    assert "ok     node node-1 is 60 s ahead" in said


@pytest.mark.parametrize("ahead_s", [61, -61])
def test_the_command_finds_a_node_that_is_off(node, ahead_s):
    report(node, ahead_s)

    code, said = check()
    assert code == 1
    assert "BROKEN node node-1 is 61 s" in said
    assert check(seconds=61)[0] == 0


def test_the_command_finds_its_own_machine_off(db):
    with time_machine.travel(utc_now() + timedelta(seconds=120), tick=False):
        code, said = check()

    assert code == 1
    assert "BROKEN this machine is 120 s ahead" in said


def test_a_limit_of_nothing_is_refused(db):
    with pytest.raises(CommandError, match="at least 1"):
        check(seconds=0)


def test_alert_and_command_agree():
    from tests.inference.test_metric_dashboards import list_rules

    [rule] = [one for one in list_rules() if one.get("alert") == "StrongroomClockOff"]
    assert rule["expr"] == f"abs(strongroom_node_clock_skew_seconds) > {check_clock.SECONDS_MAX}"
