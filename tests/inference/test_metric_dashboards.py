"""Dashboards and rules for Prometheus name nothing that is not exported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference.gateway.metrics_page import FAMILIES
from inference.triton.metrics import count_by_model, parse_samples
from tests.deploy.exported import list_families, list_samples

FOLDER = Path(__file__).resolve().parents[2] / "k8s/dashboards"
NAME = re.compile(r"\b(?:strongroom_[a-z]+|process|nv)_[a-z_]+")
# Prometheus' own: whether a scrape worked.
UP = re.compile(r"\bup\{")
# As the node reads them of its Triton.
TRITON = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_pending_request_count",
    "nv_inference_count",
    "nv_inference_exec_count",
}
RECORDED = re.compile(r"\bstrongroom:[a-z0-9_:]+")


def list_exported() -> set[str]:
    return TRITON | list_samples()


def list_expressions() -> Iterator[tuple[str, str]]:
    for path in sorted(FOLDER.glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{path.name}: {variable['name']}", variable["query"]["query"]
    for rule in list_rules():
        yield f"rules.yaml: {rule.get('alert') or rule['record']}", rule["expr"]


def list_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def find_strangers(expression: str) -> set[str]:
    recorded = {rule["record"] for rule in list_rules() if "record" in rule}
    strangers = set(NAME.findall(expression)) - list_exported()
    return strangers | set(RECORDED.findall(expression)) - recorded


@pytest.mark.parametrize(("place", "expression"), list(list_expressions()))
def test_every_metric_that_is_named_is_exported(place: str, expression: str) -> None:
    assert any(one.search(expression) for one in (NAME, RECORDED, UP))
    assert find_strangers(expression) == set()
    assert expression.count("(") == expression.count(")")


def test_a_stranger_is_found() -> None:
    assert find_strangers("rate(strongroom_gateway_requestz_total[5m])")
    assert find_strangers("strongroom_gateway_open_requests_bucket")
    assert find_strangers("nv_gpu_something")
    assert find_strangers("strongroom_platform_nodez")
    # A histogram has no samples of its own name.
    assert find_strangers("strongroom_node_load_seconds")
    assert not find_strangers("strongroom_node_load_seconds_bucket")
    assert find_strangers("strongroom:nothing:rate5m")


def test_the_names_of_triton_are_those_that_the_reader_knows() -> None:
    text = "\n".join(f'{name}{{model="m"}} 1' for name in TRITON)
    counts = count_by_model(parse_samples(text))["m"]

    assert (counts.succeeded, counts.failed, counts.pending) == (1, 1, 1)
    assert (counts.rows, counts.executions) == (1, 1)


def test_every_series_of_the_gateway_that_tells_of_models_is_drawn() -> None:
    drawn = {name for _, text in list_expressions() for name in NAME.findall(text)}
    missing = [
        family.name
        for family in FAMILIES.values()
        if not any(name.startswith(family.name) for name in drawn)
    ]

    assert {name.removeprefix("strongroom_gateway_") for name in missing} == {
        "idempotent_replays_total",
        "cache_entries",
        "process_start_time_seconds",
    }


def test_labels_that_are_asked_for_are_there() -> None:
    # Those of the pages, those of Triton and Prometheus, and the edge of a bucket.
    families = [one for process in list_families().values() for one in process]
    known = {label for one in families for label in one.labels}
    known |= {"model", "version", "protocol", "outcome", "code", "replica", "cache", "state"}
    known |= {"class", "instance", "job", "le", "pool", "part"}
    for place, text in list_expressions():
        for group in re.findall(r"\bby \(([^)]*)\)", text):
            assert {one.strip() for one in group.split(",")} <= known, place
        for labels in re.findall(r"\{([^}]*)\}", text):
            assert set(re.findall(r"([a-z_]+)(?:=|!)", labels)) <= known, place


def test_identifiers_of_dashboards_differ() -> None:
    found = [json.loads(path.read_text())["uid"] for path in FOLDER.glob("*.json")]
    assert len(found) == len(set(found)) == 5
