"""What the chart tells KEDA, as helm renders it; its queries are answered by Prometheus' engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cloudcoil.models.keda import v1alpha1

from inference.core import scaling
from inference.core.scaling import Bounds
from inference.gateway.metrics_page import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
BESIDE = ROOT / ".venv" / "beside"
CHART = ROOT / "k8s" / "chart"

SHAPE = {
    "nodeSelector": {"kind": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "32Gi"}},
}
# What these templates use of the chart's other ones: where the nodes of a pool run, on what.
HELPERS = """
{{ define "strongroom.nodeSelector" }}{{ (index . 1).nodeSelector | toYaml }}{{ end }}
{{ define "strongroom.nodeTolerations" }}{{ .tolerations | toYaml }}{{ end }}
{{ define "strongroom.nodeResources" }}{{ (index . 1).resources | toYaml }}{{ end }}
"""
PLAIN = {"name": "gpu", "minNodes": 0, "maxNodes": 12, "coldStartSeconds": 60}
SLOW = {"name": "large", "minNodes": 1, "maxNodes": 3, "coldStartSeconds": 900}
SPOT = {"pool": "gpu-spot", "maxNodes": 20, "patienceSeconds": 120, "onDemandMin": 1}


def find_tool(name: str, folder: str) -> str:
    found = shutil.which(name, path=str(BESIDE / folder)) or shutil.which(name)
    assert found, f"{name} is missing: bin/test puts it into {BESIDE / folder}"
    return found


@pytest.fixture(scope="module")
def chart(tmp_path_factory) -> Path:
    """A chart of these templates alone, with their part of the values."""
    folder = tmp_path_factory.mktemp("chart")
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: alone\nversion: 0.0.1\n")
    shutil.copytree(CHART / "templates" / "scaling", folder / "templates" / "scaling")
    (folder / "templates" / "_helpers.tpl").write_text(HELPERS)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    mine = {"autoscaling": values["autoscaling"], "pools": []}
    (folder / "values.yaml").write_text(yaml.safe_dump(mine))
    schema = json.loads((CHART / "values.schema.json").read_text())
    mine = {"type": "object", "properties": {"autoscaling": schema["properties"]["autoscaling"]}}
    (folder / "values.schema.json").write_text(json.dumps(mine))
    return folder


class RefusedError(Exception):
    """What helm said."""


def render(chart: Path, pools: Sequence[Mapping[str, Any]], **changes: Any) -> list[Any]:
    """The objects, for pools that are scaled and those that they need."""
    names = {one["name"] for one in pools} | {one["spot"]["pool"] for one in pools if "spot" in one}
    autoscaling = {
        "enabled": True,
        "pools": list(pools),
        "prometheus": {"serverAddress": "http://prometheus:9090"},
        "buffer": {"image": "example/pause:3"},
        "worker": {"redis": {"address": "redis:6379"}},
    }
    values = {"autoscaling": autoscaling, "pools": [SHAPE | {"name": name} for name in names]}
    values |= changes.pop("values", {})
    autoscaling.update(changes)
    done = subprocess.run(
        [find_tool("helm", "helm"), "template", "shop", str(chart), "-n", "models", "-f", "-"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RefusedError(done.stderr)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def find(objects: Sequence[Any], kind: str, name: str) -> Any:
    [found] = [
        one for one in objects if one["kind"] == kind and one["metadata"]["name"] == f"shop-{name}"
    ]
    return found


def list_scaled(objects: Sequence[Any]) -> list[Any]:
    return [one for one in objects if one["kind"] == "ScaledObject"]


def find_faults(scaled: Any) -> list[str]:
    """What KEDA or the HorizontalPodAutoscaler would refuse, or take otherwise than it is meant."""
    spec = scaled["spec"]
    found = find_faults_of_counts(spec)
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    for rules in behavior.values():
        found["window"] = not 0 <= rules.get("stabilizationWindowSeconds", 0) <= 3600
        found["policy"] = not all(
            one["value"] >= 1 and 1 <= one["periodSeconds"] <= 1800 for one in rules["policies"]
        )
    faults = [name for name, is_found in found.items() if is_found]
    for trigger in spec["triggers"]:
        faults += find_faults_of_trigger(trigger)
    return faults


def find_faults_of_counts(spec: Any) -> dict[str, bool]:
    least, most = spec["minReplicaCount"], spec["maxReplicaCount"]
    only_cpu = all(one["type"] in ("cpu", "memory") for one in spec["triggers"])
    kinds = {one.get("metricType", "AverageValue") for one in spec["triggers"]}
    fallback = spec.get("fallback", {"failureThreshold": 1, "replicas": 1})
    return {
        "bounds": not 0 <= least <= most or most < 1,
        "idle count": spec.get("idleReplicaCount", -1) >= least,
        "cpu alone": only_cpu and (least == 0 or "fallback" in spec),
        "fallback": fallback["failureThreshold"] < 1
        or ("fallback" in spec and kinds != {"AverageValue"}),
        "fallback replicas": not 0 < fallback["replicas"] <= most,
    }


def find_faults_of_trigger(trigger: Any) -> list[str]:
    metadata = trigger["metadata"]
    # All of them are texts: the API server refuses a number or a truth value.
    found = {"metadata": not all(isinstance(value, str) for value in metadata.values())}
    if trigger["type"] == "prometheus":
        found |= {
            "silence counts as zero": metadata.get("ignoreNullValues") != "false",
            "threshold": not float(metadata["threshold"]) > 0,
            "address": not metadata["serverAddress"].startswith("http"),
        }
    return [name for name, is_found in found.items() if is_found]


def find_unknown(one: Any) -> set[str]:
    """Fields of an object that KEDA's definition of its kind does not have, at any depth."""
    kinds = {
        "ScaledObject": v1alpha1.ScaledObject,
        "TriggerAuthentication": v1alpha1.TriggerAuthentication,
    }
    parsed = kinds[one["kind"]].model_validate(one)
    kept = parsed.model_dump(by_alias=True, exclude_none=True, mode="json")
    return {".".join(map(str, path)) for path in list_paths(one) if not has_path(kept, path)}


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [one for key, inner in items for one in list_paths(inner, (*path, key))]
    return [path]


def has_path(value: Any, path: Sequence[Any]) -> bool:
    for step in path:
        if isinstance(value, dict) and step not in value:
            return False
        value = value[step]
    return True


# The definitions at hand are KEDA 2.16's, which knows no behavior of a fallback yet.
NEWER = {"spec.fallback.behavior"}


def test_all_fields_are_those_of_kedas_own_definitions(chart):
    prometheus = {"serverAddress": "http://x", "authMode": "basic", "secretName": "secret"}
    redis = {"address": "redis:6379", "secretName": "redis-user"}
    objects = render(
        chart, [PLAIN | {"spot": SPOT}, SLOW], prometheus=prometheus, worker={"redis": redis}
    )

    assert len(objects) == 7
    for one in objects:
        assert one["apiVersion"] == "keda.sh/v1alpha1"
        assert find_unknown(one) <= NEWER


def test_an_unknown_field_would_be_seen(chart):
    scaled = find(render(chart, [PLAIN]), "ScaledObject", "node-gpu")
    scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behaviour"] = "slow"
    scaled["spec"]["triggers"][0]["treshold"] = "1"

    assert find_unknown(scaled) - NEWER == {
        "spec.advanced.horizontalPodAutoscalerConfig.behaviour",
        "spec.triggers.0.treshold",
    }


def test_nothing_is_rendered_unless_it_is_asked_for(chart):
    assert render(chart, [PLAIN], enabled=False) == []


def test_each_pool_is_scaled_by_its_demand(chart):
    objects = render(chart, [PLAIN, SLOW])

    assert {one["metadata"]["name"] for one in list_scaled(objects)} == {
        "shop-node-gpu",
        "shop-node-large",
        "shop-gateway",
        "shop-worker",
    }
    for one in list_scaled(objects):
        assert find_faults(one) == []
        assert one["spec"]["scaleTargetRef"] == {"name": one["metadata"]["name"]}
    gpu = find(objects, "ScaledObject", "node-gpu")["spec"]
    assert (gpu["minReplicaCount"], gpu["maxReplicaCount"]) == (0, 12)
    [trigger] = gpu["triggers"]
    assert trigger["metadata"]["threshold"] == "1"
    assert trigger["metadata"]["activationThreshold"] == "0"
    assert "authModes" not in trigger["metadata"]
    assert "authenticationRef" not in trigger


@pytest.mark.parametrize("pool", [PLAIN, SLOW], ids=lambda one: one["name"])
def test_nodes_are_kept_as_long_as_the_formulas_say(chart, pool):
    spec = find(render(chart, [pool]), "ScaledObject", f"node-{pool['name']}")["spec"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    bounds = Bounds(pool["minNodes"], pool["maxNodes"], pool["coldStartSeconds"])

    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == bounds.scale_down_s
    assert spec["cooldownPeriod"] == bounds.scale_down_s
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    # All that is wanted is ordered at once.
    assert behavior["scaleUp"]["policies"] == [
        {"type": "Pods", "value": pool["maxNodes"], "periodSeconds": 15}
    ]


@pytest.mark.parametrize(
    ("fault", "path", "value"),
    [
        ("bounds", ["minReplicaCount"], 13),
        ("idle count", ["idleReplicaCount"], 0),
        ("fallback", ["fallback", "failureThreshold"], 0),
        ("fallback", ["triggers", 0, "metricType"], "Value"),
        ("fallback replicas", ["fallback", "replicas"], 0),
        ("silence counts as zero", ["triggers", 0, "metadata", "ignoreNullValues"], "true"),
        ("metadata", ["triggers", 0, "metadata", "threshold"], 1),
        ("threshold", ["triggers", 0, "metadata", "threshold"], "0"),
        ("cpu alone", ["triggers"], [{"type": "cpu", "metadata": {"value": "70"}}]),
    ],
)
def test_what_keda_refuses_would_be_seen(chart, fault, path, value):
    scaled = find(render(chart, [PLAIN]), "ScaledObject", "node-gpu")
    place = scaled["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    assert fault in find_faults(scaled)


def test_the_queries_ask_for_metrics_that_the_gateway_has(chart):
    objects = render(chart, [PLAIN | {"spot": SPOT}, SLOW])
    queries = [
        trigger["metadata"]["query"]
        for one in list_scaled(objects)
        for trigger in one["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    ]

    used = {name for query in queries for name in re.findall(r"strongroom_[a-z_]+", query)}
    assert used == {
        "strongroom_pool_demand_nodes",
        "strongroom_pool_ready_nodes",
        "strongroom_gateway_open_requests",
    }
    assert used <= {one.name for one in FAMILIES.values()}


def test_prometheus_is_asked_with_a_secret(chart):
    prometheus = {
        "serverAddress": "https://prometheus:9090",
        "authMode": "bearer",
        "secretName": "prometheus-token",
    }
    objects = render(chart, [PLAIN], prometheus=prometheus)

    [trigger] = find(objects, "ScaledObject", "node-gpu")["spec"]["triggers"]
    assert trigger["authenticationRef"] == {"name": "shop-prometheus"}
    assert trigger["metadata"]["authModes"] == "bearer"
    secret = find(objects, "TriggerAuthentication", "prometheus")["spec"]["secretTargetRef"]
    assert secret == [
        {"parameter": "bearerToken", "name": "prometheus-token", "key": "bearerToken"}
    ]


def test_the_queue_of_tasks_is_asked_with_a_secret(chart):
    redis = {"address": "redis:6379", "secretName": "redis-user", "enableTLS": True}
    objects = render(chart, [PLAIN], worker={"redis": redis})

    worker = find(objects, "ScaledObject", "worker")
    assert find_faults(worker) == []
    [trigger] = worker["spec"]["triggers"]
    assert trigger["authenticationRef"] == {"name": "shop-redis"}
    assert trigger["metadata"]["enableTLS"] == "true"
    told = find(objects, "TriggerAuthentication", "redis")["spec"]["secretTargetRef"]
    assert [one["parameter"] for one in told] == ["username", "password"]


def test_the_gateway_is_scaled_by_requests_and_cpu_and_never_to_zero(chart):
    spec = find(render(chart, []), "ScaledObject", "gateway")["spec"]

    assert [one["type"] for one in spec["triggers"]] == ["prometheus", "cpu"]
    assert spec["minReplicaCount"] >= 1
    # With one the load of the CPU would no longer count while Prometheus is away.
    assert "fallback" not in spec


def test_a_gateway_that_is_rolled_out_by_argo_is_scaled_as_such(chart):
    objects = render(chart, [], values={"rollouts": {"enabled": True}})

    assert find(objects, "ScaledObject", "gateway")["spec"]["scaleTargetRef"] == {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "name": "shop-gateway",
    }


def test_a_buffer_takes_as_much_as_a_node_and_gives_way_to_it(chart):
    objects = render(chart, [PLAIN | {"buffer": {"nodes": 2}}, SLOW])

    [pause] = [one for one in objects if one["kind"] == "Deployment"]
    [priority] = [one for one in objects if one["kind"] == "PriorityClass"]
    pod = pause["spec"]["template"]["spec"]
    assert pause["spec"]["replicas"] == 2
    assert pause["spec"]["selector"]["matchLabels"].items() <= (
        pause["spec"]["template"]["metadata"]["labels"].items()
    )
    assert pod["priorityClassName"] == priority["metadata"]["name"]
    # Below every pod that has none, and not ignored by the cluster's autoscaler.
    assert -10 <= priority["value"] < 0
    assert priority["preemptionPolicy"] == "Never"
    assert not priority["globalDefault"]
    [container] = pod["containers"]
    assert container["image"] == "example/pause:3"
    assert container["resources"] == SHAPE["resources"]
    assert pod["nodeSelector"] == SHAPE["nodeSelector"]
    assert pod["tolerations"] == SHAPE["tolerations"]
    assert pod["terminationGracePeriodSeconds"] == 0
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_without_a_buffer_there_is_no_priority_of_the_cluster(chart):
    kinds = {one["kind"] for one in render(chart, [PLAIN])}

    assert kinds == {"ScaledObject"}


def test_the_example_of_the_documents_works(chart):
    text = (ROOT / "docs" / "autoscaling.md").read_text()
    [example] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    told = yaml.safe_load(example)["autoscaling"]
    pools = told.pop("pools")

    objects = render(chart, pools, **told)

    assert [find_faults(one) for one in list_scaled(objects)] == [[]] * 4
    kinds = [one["kind"] for one in objects]
    assert (kinds.count("Deployment"), kinds.count("TriggerAuthentication")) == (1, 1)


def test_older_keda_is_told_nothing_that_it_does_not_know(chart):
    fallback = {"failureThreshold": 3, "replicas": 5, "behavior": ""}

    spec = find(render(chart, [PLAIN], fallback=fallback), "ScaledObject", "node-gpu")["spec"]

    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 5}


@pytest.mark.parametrize(
    ("pools", "changes", "words"),
    [
        ([PLAIN], {"prometheus": {"serverAddress": ""}}, "serverAddress must be set"),
        ([PLAIN], {"prometheus": {"serverAddress": "prometheus:9090"}}, "serverAddress"),
        (
            [PLAIN],
            {"prometheus": {"serverAddress": "http://x", "authMode": "bearer"}},
            "secretName must be set",
        ),
        ([PLAIN | {"minNodes": 13}], {}, "minNodes above maxNodes"),
        ([PLAIN | {"minNodes": -1}], {}, "minNodes"),
        ([PLAIN | {"coldStartSeconds": 3601}], {}, "coldStartSeconds"),
        ([PLAIN | {"speed": 9}], {}, "speed"),
        ([PLAIN], {"values": {"pools": []}}, "gpu is no pool of pools"),
        ([PLAIN | {"spot": SPOT | {"pool": "gpu"}}], {}, "a pool is named twice"),
        ([PLAIN, PLAIN], {}, "a pool is named twice"),
        ([PLAIN], {"values": {"worker": {"autoscaling": {"enabled": True}}}}, "cannot both be"),
        ([PLAIN | {"buffer": {"nodes": 1}}], {"buffer": {"image": ""}}, "buffer.image must be set"),
        ([PLAIN], {"worker": {"redis": {"address": ""}}}, "redis.address must be set"),
    ],
)
def test_values_that_cannot_work_are_refused(chart, pools, changes, words):
    with pytest.raises(RefusedError, match=re.escape(words)):
        render(chart, pools, **changes)


# Prometheus' own engine answers the queries, over series as gateways would have told them.


def get_query(chart: Path, pool: Mapping[str, Any], name: str) -> str:
    spec = find(render(chart, [pool]), "ScaledObject", f"node-{name}")["spec"]
    return str(spec["triggers"][0]["metadata"]["query"])


def ask(folder: Path, queries: Sequence[tuple[str, float | None]], **series: Sequence[Any]) -> None:
    """Fail unless each query gives its number, or nothing for None, at the end of the series.

    A series is told every 15 seconds. Its name is metric__pool__gateway__part.
    """
    told = []
    length = max(len(values) for values in series.values())
    for key, values in series.items():
        metric, pool, gateway, part = key.split("__")
        labels = {"pool": pool.replace("_", "-"), "instance": gateway}
        if part:
            labels["part"] = part
        inner = ",".join(f'{name}="{value}"' for name, value in labels.items())
        texts = " ".join("_" if value is None else str(value) for value in values)
        told.append({"series": f"strongroom_pool_{metric}{{{inner}}}", "values": texts})
    tests = [
        {
            "expr": query,
            "eval_time": f"{15 * (length - 1)}s",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for query, value in queries
    ]
    (folder / "rules.yaml").write_text("groups: []\n")
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": told, "promql_expr_test": tests}],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [find_tool("promtool", "prometheus/usr/bin"), "test", "rules", "test.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_queue_is_counted_once_and_the_requests_of_all_gateways(chart, tmp_path):
    query = get_query(chart, PLAIN, "gpu")

    ask(
        tmp_path,
        [(query, 4.5)],
        demand_nodes__gpu__a__queue=[3],
        demand_nodes__gpu__b__queue=[3],
        demand_nodes__gpu__a__requests=[1],
        demand_nodes__gpu__b__requests=[0.5],
        demand_nodes__other__a__queue=[50],
    )


def test_a_wrong_answer_would_be_seen(chart, tmp_path):
    query = get_query(chart, PLAIN, "gpu")

    with pytest.raises(AssertionError, match="FAILED"):
        ask(
            tmp_path,
            # A sum would count the queue twice.
            [(query, 6)],
            demand_nodes__gpu__a__queue=[3],
            demand_nodes__gpu__b__queue=[3],
            demand_nodes__gpu__a__requests=[0],
        )


def test_a_pool_that_nothing_is_said_of_has_no_load(chart, tmp_path):
    query = get_query(chart, PLAIN, "gpu")

    ask(tmp_path, [(query, 0)], demand_nodes__default__a__queue=[5])


def test_silent_gateways_are_no_answer_and_not_zero(chart, tmp_path):
    query = get_query(chart, PLAIN, "gpu")
    # Postgres is away: a gateway tells of nothing that it does not know.
    ask(tmp_path, [(query, None)], ready_nodes__gpu__a__=[2])


PAIR = PLAIN | {"spot": SPOT}
# As many looks as the time that spot nodes are waited for has: 120 s, both ends counted.
LOOKS = SPOT["patienceSeconds"] // 15 + 1


@pytest.mark.parametrize(
    "case",
    [
        # (nodes wanted, spot nodes ready), look by look.
        [(10, 0)] * 12,
        [(1, 0)] * 8 + [(10, 0)] * 4,
        [(10, 9)] * 12,
        [(10, 9)] * 11 + [(10, 5)],
        [(10, 9)] * 4 + [(10, 0)] * 8,
        [(20, 19)] * 6 + [(4, 3)] * 6,
        [(20, 19)] * 11 + [(4, 3)],
        [(10, 4)] * 12,
        [(0, 0)] * 12,
        [(1, 0)] * 12,
        [(30, 20)] * 12,
        [(3, 0)] * 6 + [(9, 2)] * 3 + [(9, 1)] * 3,
    ],
    ids=str,
)
def test_the_queries_for_spot_nodes_give_what_the_formula_gives(chart, tmp_path, case):
    least = SPOT["onDemandMin"]
    missing = [max(0, wanted - least) - ready for wanted, ready in case[-LOOKS:]]
    split = scaling.split_nodes(
        case[-1][0],
        missing=missing,
        ready=[ready for _, ready in case[-LOOKS:]],
        on_demand_min=least,
    )

    ask(
        tmp_path,
        [
            (get_query(chart, PAIR, "gpu-spot"), split.spot),
            (get_query(chart, PAIR, "gpu"), split.on_demand),
        ],
        # A part of the load is counted for the one pool, the rest for the other.
        demand_nodes__gpu__a__queue=[wanted * 0.25 for wanted, _ in case],
        demand_nodes__gpu_spot__a__queue=[wanted * 0.75 for wanted, _ in case],
        demand_nodes__gpu__a__requests=[0] * len(case),
        ready_nodes__gpu_spot__a__=[ready for _, ready in case],
    )
