"""Dashboards can be imported, can be read when nothing was measured, and leave nothing out."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.deploy.exported import list_families
from tests.deploy.promtool import ROOT, promtool

FOLDER = ROOT / "k8s/dashboards"
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
UNITS = {"short", "s", "reqps", "percentunit", "bytes", "currencyUSD", "none", "decbytes"}
# Sums of a histogram are drawn by their buckets, and these say nothing that moves.
UNDRAWN = {"process_start_time_seconds", "process_max_fds", "process_cpu_seconds_total"}


def list_panels() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{name}: {panel['title']}", panel)
        for name, dashboard in DASHBOARDS.items()
        for panel in dashboard["panels"]
    ]


def list_expressions() -> list[str]:
    return [target["expr"] for _, panel in list_panels() for target in panel["targets"]]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_can_be_imported(name):
    dashboard = DASHBOARDS[name]

    assert re.fullmatch(r"[a-z-]{1,40}", dashboard["uid"])
    assert "strongroom" in dashboard["tags"]
    assert "datasource" in {one["name"] for one in dashboard["templating"]["list"]}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    # Nobody's own server, and no id of one.
    assert "http" not in json.dumps(dashboard)
    assert "__inputs" not in dashboard


def test_no_panel_lies_on_another():
    for name, dashboard in DASHBOARDS.items():
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, f"{name}: {panel['title']}"
            assert at["x"] + at["w"] <= 24, f"{name}: {panel['title']}"
            taken |= cells


@pytest.mark.parametrize(("place", "panel"), list_panels(), ids=lambda one: str(one)[:60])
def test_a_panel_says_what_it_shows_also_when_it_is_empty(place, panel):
    assert panel["description"].endswith("."), place
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in UNITS, place
    assert defaults["noValue"], place
    assert panel["datasource"]["uid"] == "${datasource}", place
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}", place
        assert target["legendFormat"], place


def test_every_query_is_one_that_prometheus_understands(tmp_path):
    def check(expressions):
        rules = [
            {"record": f"panel:{index}", "expr": fill(one)} for index, one in enumerate(expressions)
        ]
        path = tmp_path / "rules.json"
        # JSON is YAML as well.
        path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
        return promtool("check", "rules", path)

    code, said = check(list_expressions())
    assert code == 0, said
    assert check(["sum(rate(a_total[5m])"])[0] != 0


def fill(expression: str) -> str:
    """Variables as Grafana puts them in."""
    return expression.replace("$__rate_interval", "5m").replace("$__range", "1h")


def test_everything_that_is_exported_is_drawn_or_watched():
    text = "\n".join([*list_expressions(), (FOLDER / "rules.yaml").read_text()])
    missing = {
        family.name
        for process, families in list_families().items()
        if process != "gateway"
        for family in families
        if not re.search(rf"\b{family.name}(_bucket|_sum|_count)?\b", text)
    }

    assert missing <= UNDRAWN


def test_the_docs_list_every_metric_and_no_other():
    text = (ROOT / "docs/observability.md").read_text()
    row = re.compile(r"^\| `(strongroom_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)
    listed = {(name, kind, labels) for name, kind, labels, _ in row.findall(text)}

    assert listed == {
        (family.name, family.kind, ", ".join(family.labels) or "\u2013")
        for process, families in list_families().items()
        if process != "gateway"
        for family in families
        if not family.name.startswith("process_")
    }
