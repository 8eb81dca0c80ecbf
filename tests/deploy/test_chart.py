"""The chart: what it renders is valid, safe, and says what the code needs; what would not be is
refused. Nothing here runs on a cluster."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from embedded import environment as embedded_environment
from inference.gateway.config import DEADLINE_S, JOB_RUN_MAX_S, SETTLE_WAIT_S
from inference.node.agent import DRAIN_TIMEOUT_S
from marketplace import settings as product_settings
from tests.deploy import chart
from tests.deploy.chart import CHART, COMPONENT, POOL, Object, Rendered, render
from tests.embedded.places import make_place

ROOT = chart.ROOT
PROBES = ("startup", "liveness", "readiness")
# Every option that adds or removes objects is on in one of these, and off in another.
COMBINATIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "small": (("small",), {}),
    "production": (("production",), {}),
    "gpu": (("production", "gpu"), {}),
    "gcsfuse": (
        ("production", "gpu"),
        {"weights": {"mirror": "gcsfuse", "prefetch": True}, "objectStore": {"makeBucket": True}},
    ),
    "scaled": (
        ("production",),
        {
            "autoscaling": {
                "enabled": True,
                "prometheus": {"serverAddress": "http://prometheus.monitoring:9090"},
                "pools": [
                    {
                        "name": "cpu",
                        "minNodes": 1,
                        "maxNodes": 10,
                        "coldStartSeconds": 180,
                        "spot": {"pool": "cpu-spot", "maxNodes": 10, "patienceSeconds": 180},
                    }
                ],
                "worker": {
                    "enabled": True,
                    "redis": {"address": "redis.strongroom.example:6379", "secretName": "keda"},
                },
            },
            # KEDA's in the place of the plain one.
            "worker": {"autoscaling": {"enabled": False}},
            "rollouts": {
                "enabled": True,
                "prometheus": {"serverAddress": "http://prometheus.monitoring:9090"},
            },
        },
    ),
    "local-keys": (
        ("small",),
        {
            "keybroker": {"kms": {"kind": "local", "local": {"claim": "keys"}}},
            "checks": {"schema": False},
            "network": {"enabled": False},
            "ingress": {"enabled": False},
            "monitoring": {"metricsToken": False},
        },
    ),
    "aws-keys": (
        ("small",),
        {
            "keybroker": {
                "kms": {"kind": "aws", "aws": {"region": "eu-west-1", "credentialsInSecret": True}}
            },
            "worker": {"receiptKeyRotates": True},
        },
    ),
}
# Kinds that are not Kubernetes' own; their forms are checked below.
FOREIGN_KINDS = {
    *("ExternalSecret", "PodMonitor", "PrometheusRule", "Rollout", "AnalysisTemplate"),
    *("ScaledObject", "TriggerAuthentication"),
}
OLDEST, NEWEST = "1.30", "1.37"
# What checkov asks for and the chart leaves to its user.
SKIPPED_CHECKS = {
    # Tags are of one release, and a registry that is away must not keep a pod from starting anew.
    "CKV_K8S_15": "pull policy Always",
    # Digests exist once images were built: `image.digests`; with them the check passes, see below.
    "CKV_K8S_43": "digests",
}


@pytest.fixture(scope="module", params=COMBINATIONS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    examples, values = COMBINATIONS[request.param]
    return render(*examples, values=values)


@pytest.fixture(scope="module")
def production() -> Rendered:
    return render("production", "gpu")


# Valid.


def list_invalid(objects: list[Object], version: str) -> list[str]:
    """What Kubernetes' own schemas say, with no field that they do not know."""
    faults = []
    for found in objects:
        if found["kind"] in FOREIGN_KINDS:
            continue
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{found['kind']} {found['metadata']['name']}: {error.message}")
    return faults


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_valid(rendered, version):
    assert list_invalid(rendered.objects, version) == []


def test_the_validator_sees_an_unknown_field_and_a_wrong_type(production):
    web = copy.deepcopy(production.get("Deployment", "web"))
    web["spec"]["template"]["spec"]["restartPolitics"] = "Always"
    worker = copy.deepcopy(production.get("Deployment", "worker"))
    worker["spec"]["revisionHistoryLimit"] = "five"

    assert [fault.split(":")[0] for fault in list_invalid([web, worker], NEWEST)] == [
        "Deployment strongroom-web",
        "Deployment strongroom-worker",
    ]


def test_every_object_has_a_name_of_its_own_and_its_namespace(rendered):
    names = [(it["kind"], it["metadata"]["name"]) for it in rendered.objects]
    assert len(names) == len(set(names))
    assert {it["metadata"]["namespace"] for it in rendered.objects} == {chart.NAMESPACE}


@pytest.mark.parametrize("combination", ["small", "gpu"])
def test_checkov_finds_nothing_but_what_is_skipped(tmp_path, combination):
    examples, values = COMBINATIONS[combination]
    file = write_yaml(tmp_path, render(*examples, values=values).objects)
    assert chart.check_with_checkov(file, tuple(SKIPPED_CHECKS)) == ""


def test_checkov_has_no_complaint_about_digests_where_there_are_some(tmp_path):
    digests = dict.fromkeys(
        ("web", "worker", "gateway", "keybroker", "nodeCpu", "nodeGpu"), f"sha256:{'a' * 64}"
    )
    file = write_yaml(tmp_path, render("small", values={"image": {"digests": digests}}).objects)
    assert chart.check_with_checkov(file, ("CKV_K8S_15",)) == ""


def test_checkov_finds_a_pod_that_may_be_root(tmp_path, production):
    web = copy.deepcopy(production.get("Deployment", "web"))
    for part in (chart.pod_spec(web), *chart.containers(web)):
        part["securityContext"] = {"runAsNonRoot": False, "privileged": True}
    found = chart.check_with_checkov(write_yaml(tmp_path, [web]), tuple(SKIPPED_CHECKS))
    assert "CKV_K8S_16" in found  # Privileged.
    assert "CKV_K8S_23" in found  # Root.


def write_yaml(folder: Path, objects: list[Object]) -> Path:
    file = folder / "rendered.yaml"
    # JSON is YAML, and anchors for what is the same twice are not what helm writes.
    file.write_text("\n---\n".join(json.dumps(found, indent=1) for found in objects))
    return file


# Safe: the restricted standard of Kubernetes' pod security, and more.


def is_unsafe(workload: Object) -> list[str]:
    """Each rule that the pods of a workload break."""
    spec, faults = chart.pod_spec(workload), []
    if spec.get("automountServiceAccountToken") is not False:
        faults.append("token")
    if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        faults.append("host namespaces")
    kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
    if kinds - {"emptyDir", "secret", "ephemeral", "persistentVolumeClaim", "csi", "configMap"}:
        faults.append("volumes")
    if not spec["securityContext"].get("runAsUser"):
        faults.append("user")
    for container in chart.containers(workload):
        faults += list_container_faults(container)
    return faults


def list_container_faults(container: Object) -> Iterator[str]:
    wanted = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if container.get("securityContext") != wanted:
        yield "security context"
    for side in ("requests", "limits"):
        if not {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"].get(side, {})):
            yield side
    if not re.fullmatch(r"[a-z0-9./-]+:(?!latest)[\w.-]+", container["image"]):
        yield "image"
    if any(entry.get("valueFrom", {}).get("secretKeyRef") for entry in container.get("env", [])):
        yield "secret in the environment"


def test_every_pod_is_restricted(rendered):
    assert {it["metadata"]["name"]: is_unsafe(it) for it in rendered.workloads()} == {
        it["metadata"]["name"]: [] for it in rendered.workloads()
    }


def _break_token(spec: Object) -> None:
    spec["automountServiceAccountToken"] = True


def _break_host(spec: Object) -> None:
    spec["hostPID"] = True


def _break_volumes(spec: Object) -> None:
    spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}})


def _break_user(spec: Object) -> None:
    spec["securityContext"]["runAsUser"] = 0


def _break_context(spec: Object) -> None:
    spec["initContainers"][0]["securityContext"]["capabilities"] = {"add": ["SYS_ADMIN"]}


def _break_limits(spec: Object) -> None:
    del spec["initContainers"][0]["resources"]["limits"]["memory"]


def _break_image(spec: Object) -> None:
    spec["containers"][0]["image"] = "strongroom-web:latest"


def _break_secret(spec: Object) -> None:
    source = {"secretKeyRef": {"name": "strongroom-web", "key": "STRONGROOM_SECRET_KEY"}}
    spec["containers"][0]["env"].append({"name": "STRONGROOM_SECRET_KEY", "valueFrom": source})


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [
        (_break_token, "token"),
        (_break_host, "host namespaces"),
        (_break_volumes, "volumes"),
        (_break_user, "user"),
        (_break_context, "security context"),
        (_break_limits, "limits"),
        (_break_image, "image"),
        (_break_secret, "secret in the environment"),
    ],
)
def test_what_is_not_restricted_is_seen(
    production: Rendered, break_it: Callable[[Object], None], fault: str
) -> None:
    web = copy.deepcopy(production.get("Deployment", "web"))
    break_it(chart.pod_spec(web))
    assert is_unsafe(web) == [fault]


def test_what_pods_write_fits_into_what_they_may_use(rendered):
    for workload in rendered.workloads():
        main = chart.pod_spec(workload)["containers"][0]
        written = sum(
            parse_bytes(volume["emptyDir"]["sizeLimit"])
            for volume in chart.pod_spec(workload).get("volumes", [])
            if "emptyDir" in volume and volume["emptyDir"].get("medium") != "Memory"
        )
        limit = parse_bytes(main["resources"]["limits"]["ephemeral-storage"])
        assert written <= limit, workload["metadata"]["name"]


def test_sizes_are_read():
    assert [parse_bytes(text) for text in ("16Mi", "2Gi", "1Ti")] == [16 << 20, 2 << 30, 1 << 40]


def parse_bytes(text: str) -> int:
    return int(text[:-2]) << {"Mi": 20, "Gi": 30, "Ti": 40}[text[-2:]]


# Survives.


def test_every_kind_of_pod_has_a_budget_for_disruptions(rendered):
    selectors = [
        it["spec"]["selector"]["matchLabels"] for it in rendered.of_kind("PodDisruptionBudget")
    ]
    for workload in rendered.of_kind("Deployment"):
        labels = chart.pod_labels(workload)
        covering = [it for it in selectors if it.items() <= labels.items()]
        assert len(covering) == 1, workload["metadata"]["name"]


def test_every_process_is_probed_and_spread(rendered):
    for workload in rendered.of_kind("Deployment"):
        main = chart.pod_spec(workload)["containers"][0]
        assert {f"{kind}Probe" for kind in PROBES} <= set(main)
        keys = {it["topologyKey"] for it in chart.pod_spec(workload)["topologySpreadConstraints"]}
        assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


def test_what_a_server_depends_on_does_not_restart_it(rendered):
    for name in ("web", "gateway"):
        container = chart.pod_spec(rendered.get("Deployment", name))["containers"][0]
        asked = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in PROBES}
        assert asked == {
            "startup": "/health/ready",
            "liveness": "/health/live",
            "readiness": "/health/ready",
        }


def test_pods_outlive_what_they_are_in_the_middle_of(rendered):
    grace_s = {
        chart.pod_labels(it)[COMPONENT]: chart.pod_spec(it)["terminationGracePeriodSeconds"]
        for it in rendered.of_kind("Deployment")
        if not is_spot(it)
    }
    gateway = chart.pod_spec(rendered.get("Deployment", "gateway"))["containers"][0]
    waits_s = int(chart.environment(gateway)["STRONGROOM_GATEWAY_DRAIN_S"])

    assert grace_s["node"] >= JOB_RUN_MAX_S + DRAIN_TIMEOUT_S + 30  # Triton's own end.
    assert grace_s["worker"] > product_settings.CELERY_TASK_TIME_LIMIT
    assert waits_s > readiness_s(gateway)
    assert grace_s["gateway"] > waits_s + DEADLINE_S + SETTLE_WAIT_S
    for workload in rendered.of_kind("Deployment"):
        if chart.pod_labels(workload)[COMPONENT] == "node":
            drain_s = chart.environment(chart.pod_spec(workload)["containers"][0])
            spare_s = 8 if is_spot(workload) else JOB_RUN_MAX_S
            assert int(drain_s["STRONGROOM_NODE_DRAIN_S"]) == spare_s


def readiness_s(container: Object) -> int:
    """After so long its Service has heard that it is not ready, however its end is told."""
    probe = container["readinessProbe"]
    return probe["periodSeconds"] * (probe["failureThreshold"] - 1)


def is_spot(workload: Object) -> bool:
    selector = chart.pod_spec(workload).get("nodeSelector", {})
    return "cloud.google.com/gke-spot" in selector


def test_the_least_that_the_schema_allows_is_what_the_code_needs():
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]

    def least(component: str, key: str = "terminationGracePeriodSeconds") -> int:
        return int(schema[component]["properties"][key]["minimum"])

    assert least("worker") >= product_settings.CELERY_TASK_TIME_LIMIT + 30
    assert least("node", "drainSeconds") >= JOB_RUN_MAX_S
    assert least("node") >= JOB_RUN_MAX_S + DRAIN_TIMEOUT_S + 30
    assert least("gateway") > DEADLINE_S + SETTLE_WAIT_S


def test_beat_is_alone_and_never_two():
    beat = render("production").get("Deployment", "beat")["spec"]
    assert (beat["replicas"], beat["strategy"]) == (1, {"type": "Recreate"})


def test_what_is_fetched_ahead_is_named_and_asked_for():
    """Each side has a switch: with one alone nothing would be fetched."""
    for example, wanted in (("production", ("8", "on")), ("small", (None, "off"))):
        rendered = render(example)
        web = chart.environment(chart.containers(rendered.get("Deployment", "web"))[-1])
        pools = [it for it in rendered.of_kind("Deployment") if "-node-" in it["metadata"]["name"]]
        assert pools
        for pool in pools:
            node = chart.environment(chart.containers(pool)[-1])
            found = (web.get("STRONGROOM_PREFETCH_VERSIONS"), node["STRONGROOM_NODE_PREFETCH"])
            assert found == wanted, example


def test_whoever_scales_is_not_overruled():
    plain, scaled = (
        render("production"),
        render(*COMBINATIONS["scaled"][0], values=COMBINATIONS["scaled"][1]),
    )
    replicas = {
        it["metadata"]["name"].removeprefix("strongroom-"): it["spec"].get("replicas")
        for it in scaled.of_kind("Deployment")
    }
    assert replicas == {
        "web": 0,
        "gateway": 0,  # Rollouts run their pods.
        "worker": None,
        "node-cpu": None,
        "node-cpu-spot": None,
        "beat": 1,
        "keybroker": 3,
    }
    assert plain.get("Deployment", "node-cpu")["spec"]["replicas"] == 3
    assert plain.get("Deployment", "gateway")["spec"]["replicas"] == 4
    # The Deployment of the web leaves the number to its autoscaler.
    assert "replicas" not in plain.get("Deployment", "web")["spec"]
    targets = {
        it["metadata"]["name"]: it["spec"]["scaleTargetRef"]["kind"]
        for it in scaled.of_kind("HorizontalPodAutoscaler")
    }
    assert targets == {"strongroom-web": "Rollout"}
    assert len(plain.of_kind("HorizontalPodAutoscaler")) == 2


def test_the_schema_is_migrated_before_and_checked_at_each_start(production):
    [job] = production.of_kind("Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert [step["command"][-1] for step in chart.containers(job)] == ["migrate", "grant_roles"]
    # What it needs is there before it.
    needed = [
        production.get("ServiceAccount", "migrate"),
        production.get("ExternalSecret", "migrate"),
    ]
    for it in needed:
        assert int(it["metadata"]["annotations"]["helm.sh/hook-weight"]) < int(
            job["metadata"]["annotations"]["helm.sh/hook-weight"]
        )
    for name in ("web", "worker"):
        [check] = chart.pod_spec(production.get("Deployment", name))["initContainers"]
        assert check["command"] == ["python", "manage.py", "check_schema"]
    unchecked = render(*COMBINATIONS["local-keys"][0], values=COMBINATIONS["local-keys"][1])
    assert "initContainers" not in chart.pod_spec(unchecked.get("Deployment", "web"))


# Secrets and settings.


def told(workload: Object) -> set[str]:
    """Names of what a process is told, however it reads them."""
    names = chart.environment(chart.pod_spec(workload)["containers"][0])
    return {name.removesuffix("_FILE") for name in names}


# Secrets of `embedded/environment.py` are recognised by what they are.
SECRET = re.compile(
    r"STRONGROOM_(?:SECRET_KEY|RECEIPT_KEY|SEARCH_KEY|PLAYGROUND_SECRET|KEYBROKER_TOKEN"
    r"|STRIPE_SECRET_KEY|STRIPE_WEBHOOK_SECRET|REDIS_URL|NODE_JOIN_TOKEN"
    r"|(?:GATEWAY_|KEYBROKER_)?DATABASE_URL)"
)


@pytest.mark.parametrize("component", ["web", "worker", "beat", "gateway", "keybroker", "node"])
def test_each_process_is_told_the_secrets_that_it_is_told_on_one_machine(tmp_path, component):
    place = make_place(tmp_path, person={})
    embedded = {
        name.removesuffix("_FILE") for name in embedded_environment.for_process(place, component)
    }
    name = "node-cpu" if component == "node" else component
    found = told(render("small").get("Deployment", name))

    assert {it for it in found if SECRET.fullmatch(it)} == {
        it for it in embedded if SECRET.fullmatch(it)
    }
    # All else that is needed to start is there as well, but for what one machine alone has.
    own = {"STRONGROOM_HOME", "STRONGROOM_OBJECTS_DIR", "STRONGROOM_STRIPE_API_BASE"}
    ports = {it for it in embedded if re.fullmatch(r"STRONGROOM_NODE_TRITON_\w+_PORT", it)}
    assert {it for it in embedded if it.startswith("STRONGROOM_")} - own - ports <= found


def test_the_key_store_and_the_owner_are_known_to_one_process_each(production):
    holders: dict[str, set[str]] = {}
    for workload in production.workloads():
        for name in told(workload):
            holders.setdefault(name, set()).add(chart.pod_labels(workload)[COMPONENT])

    assert holders["STRONGROOM_KEYBROKER_KMS"] == {"keybroker"}
    assert holders["STRONGROOM_KEYBROKER_VAULT_SECRET_ID"] == {"keybroker"}
    assert holders["STRONGROOM_RECEIPT_KEY"] == {"worker"}
    assert holders["STRONGROOM_NODE_JOIN_TOKEN"] == {"node"}
    assert holders["STRONGROOM_GATEWAY_DATABASE_URL"] == {"gateway"}
    # The owner's address is in a Secret that only the migrations mount.
    mounted = {
        (chart.pod_labels(it)[COMPONENT], volume["secret"]["secretName"])
        for it in production.workloads()
        for volume in chart.pod_spec(it)["volumes"]
        if volume["name"] == "secrets"
    }
    assert mounted == {
        (component, f"strongroom-{component}")
        for component in ("web", "worker", "beat", "gateway", "keybroker", "node", "migrate")
    }


def test_every_file_that_a_variable_names_is_mounted(rendered):
    for workload in rendered.workloads():
        volumes = {it["name"]: it for it in chart.pod_spec(workload)["volumes"]}
        for container in chart.containers(workload):
            mounts = {it["mountPath"]: volumes[it["name"]] for it in container["volumeMounts"]}
            for name, value in chart.environment(container).items():
                if not value.startswith(("/run/secrets/", "/etc/strongroom/")):
                    continue
                folder, _, file = value.rpartition("/")
                secret = mounts[folder]["secret"]
                items = {item["path"] for item in secret.get("items", [])}
                assert not items or file in items, f"{name} of {workload['metadata']['name']}"


def test_external_secrets_are_those_that_pods_mount(production):
    wanted: dict[str, set[str]] = {}
    for workload in production.workloads():
        for volume in chart.pod_spec(workload)["volumes"]:
            if volume["name"] in ("secrets", "join"):
                secret = volume["secret"]
                wanted.setdefault(secret["secretName"], set()).update(
                    item["key"] for item in secret["items"]
                )
    made = {
        it["metadata"]["name"]: {entry["secretKey"] for entry in it["spec"]["data"]}
        for it in production.of_kind("ExternalSecret")
    }
    assert made == wanted
    assert {it["apiVersion"] for it in production.of_kind("ExternalSecret")} == {
        "external-secrets.io/v1"
    }


def test_every_setting_is_one_that_the_documents_list(rendered):
    table = (ROOT / "docs/operations.md").read_text()
    known = set(re.findall(r"`(STRONGROOM_[A-Z_]+)`", table))
    for workload in rendered.workloads():
        for container in chart.containers(workload):
            names = {
                name.removesuffix("_FILE")
                for name in chart.environment(container)
                if name.startswith("STRONGROOM_")
            }
            assert names <= known, workload["metadata"]["name"]


# Pools.


def test_a_pool_lands_on_the_machines_that_it_names(production):
    def place(name: str) -> tuple[dict[str, str], set[str]]:
        spec = chart.pod_spec(production.get("Deployment", f"node-{name}"))
        selector = {k: v for k, v in spec["nodeSelector"].items() if k != "kubernetes.io/arch"}
        return selector, {it["key"] for it in spec["tolerations"]}

    google = "cloud.google.com"
    assert place("cpu") == ({}, {POOL})
    assert place("l4") == (
        {f"{google}/gke-accelerator": "nvidia-l4"},
        {POOL, "nvidia.com/gpu"},
    )
    assert place("a100-mig") == (
        {
            f"{google}/gke-accelerator": "nvidia-tesla-a100",
            f"{google}/gke-gpu-partition-size": "1g.5gb",
        },
        {POOL, "nvidia.com/gpu"},
    )
    assert place("t4-shared") == (
        {
            f"{google}/gke-accelerator": "nvidia-tesla-t4",
            f"{google}/gke-gpu-sharing-strategy": "time-sharing",
            f"{google}/gke-max-shared-clients-per-gpu": "4",
            f"{google}/gke-spot": "true",
        },
        {POOL, "nvidia.com/gpu", f"{google}/gke-spot"},
    )


def test_other_clusters_name_gpus_in_their_own_way():
    gpu = {"class": "NVIDIA-L4", "resource": "nvidia.com/mig-1g.5gb"}
    pools = [{"name": "mig", "gpu": gpu, "nodeSelector": {"zone": "a"}}]
    spec = chart.pod_spec(render("small", values={"pools": pools}).get("Deployment", "node-mig"))
    assert spec["nodeSelector"]["nvidia.com/gpu.product"] == "NVIDIA-L4"
    assert spec["nodeSelector"]["zone"] == "a"
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.5gb"] == 1
    assert spec["containers"][0]["image"] == "strongroom-node-gpu:0.1.0"


def test_the_cache_leaves_room_on_its_volume(production):
    for name, volume_bytes in (("cpu", 50 << 30), ("l4", 300 << 30)):
        spec = chart.pod_spec(production.get("Deployment", f"node-{name}"))
        cache_bytes = int(chart.environment(spec["containers"][0])["STRONGROOM_NODE_CACHE_BYTES"])
        assert 0.8 * volume_bytes < cache_bytes <= 0.9 * volume_bytes


def test_a_node_is_named_as_its_pod_and_serves_at_its_address(production):
    """Of the names that the agent takes; a pod's name has at most 63 characters as well."""
    node = chart.environment(
        chart.pod_spec(production.get("Deployment", "node-l4"))["containers"][0]
    )
    assert node["STRONGROOM_NODE_NAME"] == "<metadata.name>"
    assert node["STRONGROOM_NODE_TRITON_HOST"] == "<status.podIP>"
    assert node["STRONGROOM_NODE_POOL"] == "l4"


def test_what_is_said_of_a_pool_goes_before_what_is_said_of_all():
    values = {
        "node": {"settings": {"STRONGROOM_NODE_SLOTS": 2, "STRONGROOM_NODE_CANARY_INTERVAL_S": 5}},
        "pools": [{"name": "cpu", "settings": {"STRONGROOM_NODE_SLOTS": 4}}],
    }
    spec = chart.pod_spec(render("small", values=values).get("Deployment", "node-cpu"))
    found = chart.environment(spec["containers"][0])
    assert found["STRONGROOM_NODE_SLOTS"] == "4"
    assert found["STRONGROOM_NODE_CANARY_INTERVAL_S"] == "5"


def test_weights_come_over_loopback_from_a_bucket_that_is_mounted():
    examples, values = COMBINATIONS["gcsfuse"]
    workload = render(*examples, values=values).get("Deployment", "node-l4")
    spec = chart.pod_spec(workload)
    [sidecar] = spec["initContainers"]
    [volume] = [it for it in spec["volumes"] if it["name"] == "weights"]

    assert workload["spec"]["template"]["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
    assert volume["csi"]["readOnly"]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "strongroom-artifacts"
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["command"][-4:] == ["--bind", "127.0.0.1", "--directory", "/mnt/weights"]
    mirror = chart.environment(spec["containers"][0])["STRONGROOM_NODE_MIRROR_URL"]
    assert mirror == f"http://127.0.0.1:{sidecar['command'][3]}"


# Metrics.


def test_dashboards_and_rules_are_those_of_the_repository(production):
    folder = ROOT / "k8s/dashboards"
    shown = production.get("ConfigMap", "dashboards")["data"]
    assert {name: json.loads(text) for name, text in shown.items()} == {
        path.name: json.loads(path.read_text()) for path in folder.glob("*.json")
    }
    rules = yaml.safe_load((folder / "rules.yaml").read_text())
    assert production.get("PrometheusRule", "rules")["spec"] == rules
    assert rules["groups"]


def test_every_port_of_metrics_is_read_with_the_token(production):
    read = {
        (it["metadata"]["name"].removeprefix("strongroom-"), endpoint["port"]): endpoint
        for it in production.of_kind("PodMonitor")
        for endpoint in it["spec"]["podMetricsEndpoints"]
    }
    for workload in production.of_kind("Deployment"):
        component = chart.pod_labels(workload)[COMPONENT]
        for port in chart.containers(workload)[-1]["ports"]:
            if port["name"].endswith("metrics"):
                assert (component, port["name"]) in read
    assert {component for component, _ in read} == {
        "web",
        "gateway",
        "worker",
        "beat",
        "keybroker",
        "node",
    }
    for (component, port), endpoint in read.items():
        if port != "triton-metrics":  # Triton has no token; the policies let Prometheus alone in.
            key = endpoint["authorization"]["credentials"]
            assert key == {"name": f"strongroom-{component}", "key": "STRONGROOM_METRICS_TOKEN"}
