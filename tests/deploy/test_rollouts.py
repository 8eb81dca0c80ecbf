"""Canary releases: what is rendered, what is asked of Prometheus, and what an answer leads to.

The queries are run: promtool works them out over made-up series, as Prometheus would.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from inference.gateway.metrics_page import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "k8s/chart"
BESIDE = ROOT / ".venv/beside"
HASHES = {"canary-hash": "6f7d8c9b5", "stable-hash": "58c4f6d7b9"}
COMPONENTS = ("web", "gateway")
ADDRESS = "http://prometheus.monitoring:9090"
KEDA = {"enabled": True, "gateway": {"enabled": True}}
BASE = {"rollouts": {"enabled": True, "prometheus": {"serverAddress": ADDRESS}}}


def find_tool(path: str) -> str:
    """A program beside the environment, or of the machine."""
    found = BESIDE / path if (BESIDE / path).exists() else shutil.which(Path(path).name)
    assert found, f"{BESIDE / path} is missing: bin/test puts it there"
    return str(found)


@pytest.fixture(scope="module")
def chart(tmp_path_factory) -> Path:
    """The chart with nothing in it but the releases, so that no other values are needed."""
    folder = tmp_path_factory.mktemp("chart")
    (folder / "templates").mkdir()
    for path in (CHART / "templates/rollouts").iterdir():
        (folder / "templates" / path.name).write_text(path.read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())["rollouts"]
    (folder / "values.yaml").write_text(yaml.safe_dump({"rollouts": values}))
    schema = read_schema()
    schema = {"type": "object", "properties": {"rollouts": schema["properties"]["rollouts"]}}
    (folder / "values.schema.json").write_text(json.dumps(schema))
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: strongroom\nversion: 0.1.0\n")
    return folder


def read_schema() -> dict[str, Any]:
    return json.loads((CHART / "values.schema.json").read_text())


def render(chart: Path, values: dict | None = None) -> list[dict]:
    done = subprocess.run(
        [find_tool("helm/helm"), "template", "strongroom", chart, "--namespace", "market",
         "--values", "-"],
        input=yaml.safe_dump(merge(BASE, values or {})), capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def merge(under: dict, over: dict) -> dict:
    merged = dict(under)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(name), dict)
        merged[name] = merge(under[name], value) if both else value
    return merged


def get(objects: list[dict], kind: str, component: str) -> dict:
    [found] = [
        one
        for one in objects
        if one["kind"] == kind and one["metadata"]["name"] == f"strongroom-{component}"
    ]
    return found


def test_nothing_is_rendered_while_it_is_off(chart) -> None:
    assert render(chart, {"rollouts": {"enabled": False}}) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_release_takes_the_pods_of_its_deployment_step_by_step(chart, component) -> None:
    spec = get(render(chart), "Rollout", component)["spec"]
    canary = spec["strategy"]["canary"]

    assert spec["workloadRef"]["kind"] == "Deployment"
    assert spec["workloadRef"]["name"] == f"strongroom-{component}"
    assert spec["selector"]["matchLabels"] == {
        "app.kubernetes.io/name": "strongroom",
        "app.kubernetes.io/instance": "strongroom",
        "app.kubernetes.io/component": component,
    }
    assert [step["setWeight"] for step in canary["steps"][::2]] == [5, 25, 50, 100]
    assert all(re.fullmatch(r"\d+s", step["pause"]["duration"]) for step in canary["steps"][1::2])
    # Never fewer copies than before, and both versions rather not on one machine.
    assert (canary["maxSurge"], canary["maxUnavailable"]) == (1, 0)
    assert canary["antiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]["weight"] == 50
    assert spec["progressDeadlineAbort"] is True
    # Delays of the scaling down are refused by Argo Rollouts without a router.
    assert not {"scaleDownDelaySeconds", "abortScaleDownDelaySeconds"} & set(canary)


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_analysis_that_a_release_names_is_there_and_is_told_both_versions(chart, component):
    objects = render(chart)
    background = get(objects, "Rollout", component)["spec"]["strategy"]["canary"]["analysis"]
    template = get(objects, "AnalysisTemplate", component)

    assert background["templates"] == [{"templateName": template["metadata"]["name"]}]
    given = {one["name"]: one["valueFrom"]["podTemplateHashValue"] for one in background["args"]}
    assert given == {"canary-hash": "Latest", "stable-hash": "Stable"}
    assert {one["name"] for one in template["spec"]["args"]} == set(given)
    assert background["startingStep"] == 1


def test_with_a_router_shares_are_exact_and_pods_stay_for_what_is_open(chart) -> None:
    routing = {"plugins": {"example/router": {"httpRoute": "gateway"}}}

    objects = render(chart, {"rollouts": {"trafficRouting": {"gateway": routing}}})

    canary = get(objects, "Rollout", "gateway")["spec"]["strategy"]["canary"]
    assert canary["trafficRouting"] == routing
    assert canary["scaleDownDelaySeconds"] == canary["abortScaleDownDelaySeconds"] == 60
    for track in ("canary", "stable"):
        assert canary[f"{track}Service"] == f"strongroom-gateway-{track}"
        ports = get(objects, "Service", f"gateway-{track}")["spec"]["ports"]
        assert [port["port"] for port in ports] == [8001, 8002]
    assert "trafficRouting" not in get(objects, "Rollout", "web")["spec"]["strategy"]["canary"]


@pytest.mark.parametrize(
    ("_case", "values", "replicas"),
    [
        ("fixed", {"gateway": {"replicas": 5}}, 5),
        ("scaled by the CPU", {"gateway": {"replicas": 5, "autoscaling": {"enabled": True}}}, None),
        (
            "scaled by KEDA",
            {"gateway": {"replicas": 5}, "autoscaling": KEDA},
            None,
        ),
    ],
)  # fmt: skip
def test_who_scales_says_how_many(chart, _case, values, replicas) -> None:
    assert get(render(chart, values), "Rollout", "gateway")["spec"].get("replicas") == replicas


@pytest.mark.parametrize(
    ("_case", "values"),
    [
        ("no Prometheus", {"rollouts": {"prometheus": {"serverAddress": ""}}}),
        ("not an address", {"rollouts": {"prometheus": {"serverAddress": "prometheus"}}}),
        ("more than all", {"rollouts": {"steps": [{"weight": 101, "pauseSeconds": 60}]}}),
        ("no pause", {"rollouts": {"steps": [{"weight": 5, "pauseSeconds": 0}]}}),
        ("no steps", {"rollouts": {"steps": []}}),
        ("an unknown word", {"rollouts": {"canary": True}}),
        ("always slower", {"rollouts": {"analysis": {"latencyRatioMax": 1}}}),
    ],
)
def test_values_that_make_no_sense_are_refused(chart, _case, values) -> None:
    with pytest.raises(AssertionError, match="Error"):
        render(chart, values)


def test_the_defaults_fit_their_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rules = read_schema()["properties"]["rollouts"]

    jsonschema.validate(values["rollouts"], rules)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values["rollouts"] | {"enabled": "yes"}, rules)


# --- What is asked ---


def list_exported() -> dict[str, str]:
    """Kinds of all metrics of gateway and site, by their full names."""
    found = {family.name: family.kind for family in FAMILIES.values()}
    text = (ROOT / "marketplace/web_metrics.py").read_text()
    [prefix] = re.findall(r'Registry\("(\w+)"\)', text)
    kinds = {"counter": "counter", "timer": "histogram", "gauge": "gauge"}
    for kind, name in re.findall(r'REGISTRY\.(counter|timer|gauge)\(\s*"(\w+)"', text):
        found[f"{prefix}{name}"] = kinds[kind]
    return found


def list_unknown(query: str, exported: dict[str, str]) -> list[str]:
    """Metrics that a query names and that nobody exports, or not in this form."""
    unknown = []
    for name in set(re.findall(r"\b(strongroom_\w+)\{", query)):
        is_histogram = exported.get(name.removesuffix("_bucket")) == "histogram"
        if not (is_histogram if name.endswith("_bucket") else exported.get(name) == "counter"):
            unknown.append(name)
    return unknown


def list_queries(chart: Path, component: str) -> dict[str, str]:
    metrics = get(render(chart), "AnalysisTemplate", component)["spec"]["metrics"]
    return {one["name"]: one["provider"]["prometheus"]["query"] for one in metrics}


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_query_names_what_is_exported(chart, component) -> None:
    exported = list_exported()
    queries = list_queries(chart, component)

    assert set(queries) == {"error-share", "latency-ratio"}
    for query in queries.values():
        assert len(re.findall(r"\bstrongroom_\w+\{", query)) >= 3
        assert list_unknown(query, exported) == []
        # The control: a name that has changed.
        assert list_unknown(query.replace("strongroom_", "strongroom_x_"), exported)


# Requests per minute of each version: those that succeed, and those that fail.
CASES = {
    "as good as before": ((100, 0, 0.1), (100, 0, 0.1), "success", "success"),
    "both fail alike": ((100, 20, 0.1), (100, 20, 0.1), "success", "success"),
    "one of ten fails": ((90, 10, 0.1), (100, 0, 0.1), "failure", "success"),
    "slower": ((100, 0, 2.5), (100, 0, 0.1), "success", "failure"),
    "both slow": ((100, 0, 2.5), (100, 0, 2.5), "success", "success"),
    "hardly any requests": ((1, 1, 2.5), (100, 0, 0.1), "inconclusive", "inconclusive"),
    "no new pods": (None, (100, 0, 0.1), "inconclusive", "inconclusive"),
}
EDGES_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


def make_series(component: str, version: str, load: tuple[int, int, float] | None) -> list[dict]:
    """Ten minutes of one pod, as it is scraped each minute."""
    if load is None:
        return []
    good, bad, seconds = load
    pod = f"strongroom-{component}-{HASHES[version]}-x2x4z"
    total, good_labels, bad_labels, buckets = {
        "web": ("strongroom_web_requests_total", 'status="200"', 'status="502"',
                "strongroom_web_request_duration_seconds_bucket"),
        "gateway": ("strongroom_gateway_requests_total", 'outcome="ok"', 'outcome="server_error"',
                    "strongroom_gateway_request_seconds_bucket"),
    }[component]  # fmt: skip
    rows = [(f'{total}{{pod="{pod}",{good_labels}}}', good)]
    if bad:
        rows.append((f'{total}{{pod="{pod}",{bad_labels}}}', bad))
    for edge in (*EDGES_S, float("inf")):
        label = "+Inf" if edge == float("inf") else edge
        rows.append((f'{buckets}{{pod="{pod}",le="{label}"}}', good if edge >= seconds else 0))
    return [{"series": name, "values": f"0+{step}x10"} for name, step in rows]


def ask(tmp_path: Path, query: str, series: list[dict]) -> list[float]:
    """The answer of Prometheus after ten minutes: one number, or none."""
    for name, value in HASHES.items():
        query = query.replace("{{args." + name + "}}", value)
    assert "{{" not in query
    # What nobody expects: promtool says what it got instead.
    unexpected = [{"labels": "{x='1'}", "value": 0}]
    test = {
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m", "input_series": series,
            "promql_expr_test": [
                {"expr": query, "eval_time": "10m", "exp_samples": unexpected}
            ],
        }],
    }  # fmt: skip
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [find_tool("prometheus/usr/bin/promtool"), "test", "rules", path],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = re.search(r"got:\s*(.*)", done.stdout + done.stderr)
    assert found, done.stdout + done.stderr
    return [float(one) for one in re.findall(r"\{\}\s+([-+0-9.eENaInf]+)", found.group(1))]


def judge(metric: dict, result: list[float]) -> str:
    """What Argo Rollouts makes of an answer: its conditions, said in Python."""

    def holds(condition: str) -> bool:
        text = condition.replace("&&", "and").replace("!isNaN(", "not isnan(")
        return bool(eval(text, {"len": len, "isnan": lambda x: x != x, "result": result}))

    good, bad = holds(metric["successCondition"]), holds(metric["failureCondition"])
    assert not (good and bad)
    return "success" if good else "failure" if bad else "inconclusive"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("component", COMPONENTS)
def test_the_new_version_is_judged_beside_the_old_one(chart, tmp_path, component, case) -> None:
    canary, stable, of_errors, of_latency = CASES[case]
    series = make_series(component, "canary-hash", canary)
    series += make_series(component, "stable-hash", stable)
    # Pods of the other component and of an older version count for neither.
    series += [
        {"series": one["series"].replace(HASHES["stable-hash"], "7c9f"), "values": "0+900x10"}
        for one in make_series(component, "stable-hash", (1, 900, 5.0))
    ]
    metrics = get(render(chart), "AnalysisTemplate", component)["spec"]["metrics"]

    found = {
        one["name"]: judge(one, ask(tmp_path, one["provider"]["prometheus"]["query"], series))
        for one in metrics
    }

    assert found == {"error-share": of_errors, "latency-ratio": of_latency}


def test_what_is_not_known_stops_a_release_and_does_not_pass_it(chart) -> None:
    for component in COMPONENTS:
        for metric in get(render(chart), "AnalysisTemplate", component)["spec"]["metrics"]:
            assert [judge(metric, one) for one in ([], [float("nan")])] == ["inconclusive"] * 2
            assert metric["failureLimit"] < metric["inconclusiveLimit"]
            assert metric["consecutiveErrorLimit"] > 0
            # Control: without its guard an empty answer would be an error, not a doubt.
            bare = metric | {"successCondition": "result[0] <= 1"}
            with pytest.raises(IndexError):
                judge(bare, [])
