"""docker-compose.yml: valid, closed, and with the settings that the processes read."""

from __future__ import annotations

import copy
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from embedded import postgres, redis
from tests.deploy import compose_file
from tests.deploy.compose_file import ROOT, changed, list_networks, read_environment

DOCUMENT = compose_file.load()
SERVICES = DOCUMENT["services"]
TASKS = {"volumes", "migrate", "grant-roles", "make-bucket", "check"}
# Programs of others, with variables of their own.
STRANGERS = {"volumes", "postgres", "redis", "objects", "edge"}
OURS = sorted(SERVICES.keys() - STRANGERS)
NODES = ("node", "node-gpu")


def check_schema(document: dict[str, Any]) -> None:
    """Raises ValueError if it is no Compose document, or names what is not there."""
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(document)).validate()


def find_unsafe(document: dict[str, Any]) -> list[str]:
    """What of each service is open that should not be."""
    faults = []
    for name, service in document["services"].items():
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        wanted = {
            "read_only": service.get("read_only") is True,
            "cap_drop": service.get("cap_drop") == ["ALL"],
            "no-new-privileges": service.get("security_opt") == ["no-new-privileges:true"],
            "limits": {"cpus", "memory", "pids"} <= limits.keys(),
            "user": service.get("user") == ("0:0" if name == "volumes" else "1000:1000"),
            "network": bool(service.get("networks")) != (service.get("network_mode") == "none"),
            "privileged": not service.get("privileged") and "pid" not in service,
            "ports": name == "edge" or "ports" not in service,
            "health": name in TASKS or bool(service.get("healthcheck", {}).get("test")),
            "restart": service["restart"] == ("no" if name in TASKS else "unless-stopped"),
        }
        faults += [f"{name}: {what}" for what, is_good in wanted.items() if not is_good]
    return faults


def find_open_ways(document: dict[str, Any]) -> list[str]:
    """Pairs that reach each other and must not."""
    services = document["services"]
    kept_apart = [
        *((node, other) for node in NODES for other in ("postgres", "redis", "objects", "worker")),
        *((other, "postgres") for other in ("edge", "objects", "redis")),
        ("edge", "keybroker"),
        ("gateway", "objects"),
        *((other, "redis") for other in ("edge", "keybroker")),
    ]
    faults = [
        f"{one} reaches {other}"
        for one, other in kept_apart
        if list_networks(services[one]) & list_networks(services[other])
    ]
    in_serving = {name for name, service in services.items() if "serving" in list_networks(service)}
    if in_serving != {"gateway", *NODES}:
        faults.append(f"Triton is reached by {sorted(in_serving)}")
    closed = set(document["networks"]) - {"edge", "outside"}
    faults += [f"{name} leads out" for name in closed if not document["networks"][name]["internal"]]
    return faults


def find_key_holders(document: dict[str, Any]) -> set[str]:
    """Services that have the volume of the key store, or its address."""
    return {
        name
        for name, service in document["services"].items()
        if any(str(volume).startswith("keys:") for volume in service.get("volumes", ()))
        or any("KMS" in variable for variable in read_environment(service))
    }


def list_read_variables() -> set[str]:
    """Every variable that our code reads, by name."""
    pattern = re.compile(r"\bSTRONGROOM_[A-Z_]*[A-Z]\b")
    folders = ("marketplace", "inference", "billing")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    names = {name for path in files for name in pattern.findall(path.read_text())}
    triton = {f"STRONGROOM_NODE_TRITON_{plane}_PORT" for plane in ("HTTP", "GRPC", "METRICS")}
    return names | triton


def find_lost_settings(document: dict[str, Any]) -> list[str]:
    """Variables that nobody reads, and secrets that are named and not mounted, or the reverse."""
    known = list_read_variables()
    faults = []
    for name in OURS:
        service = document["services"][name]
        environment = read_environment(service)
        ours = {one for one in environment if not one.startswith("AWS_")}
        unread = sorted(one for one in ours if one.removesuffix("_FILE") not in known)
        faults += [f"{name}: nobody reads {variable}" for variable in unread]
        named = {
            value.removeprefix("/run/secrets/")
            for value in environment.values()
            if str(value).startswith("/run/secrets/")
        }
        faults += [f"{name}: {secret} is not mounted" for secret in named - set(service["secrets"])]
        faults += [f"{name}: {secret} is not named" for secret in set(service["secrets"]) - named]
    return faults


def test_it_is_a_compose_document() -> None:
    check_schema(DOCUMENT)


@pytest.mark.parametrize(
    ("service", "members"),
    [
        ("web", {"helthcheck": {}}),
        ("web", {"healthcheck": {"tets": ["CMD", "true"]}}),
        ("web", {"depends_on": {"redis": {"condition": "service_well"}}}),
        ("web", {"networks": ["nowhere"]}),
        ("web", {"secrets": ["nothing"]}),
    ],
)
def test_what_is_none_is_found(service: str, members: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"extension key|unknown variant|not defined"):
        check_schema(changed(DOCUMENT, service, **members))


def test_a_variable_that_is_needed_is_asked_for() -> None:
    example = compose_file.read_example()
    for name in ("STRONGROOM_UID", "STRONGROOM_TAG", "STRONGROOM_WEB_URL", "EDGE_TLS"):
        with pytest.raises(compose_file.UnsetError, match=name):
            compose_file.load({**example, name: ""})


def test_the_example_has_every_variable_that_is_asked_for() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    asked = set(re.findall(r"\$\{([A-Z_]+):\?", text))

    assert asked - compose_file.read_example().keys() == set()


def test_every_service_is_closed() -> None:
    assert find_unsafe(DOCUMENT) == []


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"read_only": False}, "read_only"),
        ({"cap_drop": None}, "cap_drop"),
        ({"security_opt": []}, "no-new-privileges"),
        ({"user": "0:0"}, "user"),
        ({"privileged": True}, "privileged"),
        ({"network_mode": "host", "networks": None}, "network"),
        ({"ports": ["8443:8443"]}, "ports"),
        ({"healthcheck": None}, "health"),
        ({"deploy": {"resources": {"limits": {"cpus": "1"}}}}, "limits"),
    ],
)
def test_a_service_that_is_open_is_found(members: dict[str, Any], expected: str) -> None:
    assert find_unsafe(changed(DOCUMENT, "keybroker", **members)) == [f"keybroker: {expected}"]


def test_rights_are_given_to_two_services_only() -> None:
    given = {name: service["cap_add"] for name, service in SERVICES.items() if "cap_add" in service}

    assert given == {"volumes": ["CHOWN"], "edge": ["NET_BIND_SERVICE"]}


def test_nobody_reaches_more_than_it_needs() -> None:
    assert find_open_ways(DOCUMENT) == []
    wrong = changed(DOCUMENT, "node", networks=["nodes", "serving", "database"])
    assert find_open_ways(wrong) == ["node reaches postgres", "node reaches worker"]
    wrong = changed(DOCUMENT, "worker", networks=["serving"])
    reached = "Triton is reached by ['gateway', 'node', 'node-gpu', 'worker']"
    assert reached in find_open_ways(wrong)
    wrong = copy.deepcopy(DOCUMENT)
    wrong["networks"]["database"]["internal"] = False
    assert find_open_ways(wrong) == ["database leads out"]


def test_only_the_key_broker_has_the_keys() -> None:
    # The first gives the folder away, and has no network.
    assert find_key_holders(DOCUMENT) == {"volumes", "keybroker"}
    wrong = changed(DOCUMENT, "web", volumes=["keys:/keys"])
    assert find_key_holders(wrong) == {"volumes", "keybroker", "web"}


def test_nodes_have_no_credentials_but_their_own() -> None:
    assert set(SERVICES["node"]["secrets"]) == {"keybroker_ca", "node_join_token"}
    assert set(SERVICES["node-gpu"]["secrets"]) == {"keybroker_ca", "node_gpu_join_token"}


@pytest.mark.parametrize(
    ("secret", "holders"),
    [
        ("database_url_owner", {"migrate", "grant-roles"}),
        ("database_url_keybroker", {"keybroker"}),
        ("database_url_gateway", {"gateway"}),
        ("postgres_password", {"postgres"}),
        ("redis_url_gateway", {"gateway"}),
        ("keybroker_key", {"keybroker"}),
        ("keybroker_token", {"check", "web", "worker", "keybroker"}),
        ("playground_secret", {"check", "web", "gateway"}),
        ("receipt_key", {"worker"}),
        ("stripe_secret_key", {"check", "web", "worker"}),
    ],
)
def test_each_secret_reaches_its_holders_only(secret: str, holders: set[str]) -> None:
    assert {name for name, one in SERVICES.items() if secret in one.get("secrets", ())} == holders


def test_every_variable_is_read_and_every_secret_is_mounted() -> None:
    assert find_lost_settings(DOCUMENT) == []
    wrong = copy.deepcopy(DOCUMENT)
    wrong["services"]["gateway"]["environment"]["STRONGROOM_GATEWAY_COLOUR"] = "red"
    wrong["services"]["gateway"]["secrets"].remove("metrics_token")
    assert find_lost_settings(wrong) == [
        "gateway: nobody reads STRONGROOM_GATEWAY_COLOUR",
        "gateway: metrics_token is not mounted",
    ]


@pytest.mark.parametrize("name", OURS)
def test_each_process_has_what_it_must_have(name: str, tmp_path: Path) -> None:
    folder = make_secrets(tmp_path)
    environment = place_secrets(read_environment(SERVICES[name]), folder)

    if "STRONGROOM_NODE_TRITON_DIR" in environment:
        environment["STRONGROOM_NODE_TRITON_DIR"] = str(make_triton(tmp_path))

    outcome = start(name, environment)
    assert outcome.returncode == 0, outcome.stderr

    # The control: without one that has no default it does not start, and says which.
    wanted = REQUIRED[name]
    lacking = {key: value for key, value in environment.items() if not key.startswith(wanted)}
    assert lacking != environment
    outcome = start(name, lacking)
    assert outcome.returncode != 0
    assert wanted in outcome.stderr


REQUIRED = {
    **dict.fromkeys(("migrate", "grant-roles", "make-bucket", "beat"), "STRONGROOM_DATABASE_URL"),
    **dict.fromkeys(("check", "web", "worker"), "STRONGROOM_KEYBROKER_TOKEN"),
    "gateway": "STRONGROOM_GATEWAY_DATABASE_URL",
    "keybroker": "STRONGROOM_KEYBROKER_TLS_KEY",
    "node": "STRONGROOM_NODE_NAME",
    "node-gpu": "STRONGROOM_NODE_NAME",
}
# Each reads its settings as the process does, and nothing more.
_SETTINGS = "import marketplace.settings"
_READERS = {
    **dict.fromkeys(("migrate", "grant-roles", "make-bucket"), _SETTINGS),
    **{
        name: f"from marketplace.__main__ import check_settings; check_settings('{process}')"
        for name, process in (("check", "web"), ("web", "web"), ("worker", "worker"))
    },
    "beat": "from marketplace.__main__ import check_settings; check_settings('beat')",
    "gateway": "from inference.gateway.config import GatewayConfig as C; C.from_env()",
    "keybroker": "from inference.keybroker.config import KeyBrokerConfig as C; C.from_env()",
    **dict.fromkeys(NODES, "from inference.node.config import NodeConfig as C; C.from_env()"),
}


def start(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    paths = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT}/sdk"}
    return subprocess.run(
        [sys.executable, "-P", "-c", _READERS[name]],
        env=paths | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def make_secrets(folder: Path) -> Path:
    subprocess.run(
        ["sh", ROOT / "k8s/compose/make-secrets", folder / "secrets"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return folder / "secrets"


def make_triton(folder: Path) -> Path:
    """What NVIDIA's image has, as far as it is looked at."""
    program = folder / "tritonserver" / "bin" / "tritonserver"
    program.parent.mkdir(parents=True)
    program.touch()
    return program.parents[1]


def place_secrets(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """The environment with each secret's file where it was made."""
    files = {name: Path(one["file"]).name for name, one in DOCUMENT["secrets"].items()}
    return {
        name: str(folder / files[value.removeprefix("/run/secrets/")])
        if value.startswith("/run/secrets/")
        else value
        for name, value in environment.items()
    }


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    folder = make_secrets(tmp_path)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    used = {Path(one["file"]).name for one in DOCUMENT["secrets"].values()}

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes == {0o600}
    assert used <= files.keys()
    assert len(files["secret_key"].strip()) == 64
    make_secrets(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    # One that was lost is made anew, and nothing else is.
    (folder / "metrics_token").unlink()
    make_secrets(tmp_path)
    again = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in files if again[name] != files[name]} == {"metrics_token"}


def test_addresses_hold_the_passwords_that_the_roles_have(tmp_path: Path) -> None:
    folder = make_secrets(tmp_path)

    for role in ("owner", "app", "gateway", "keybroker"):
        password = (folder / f"{role}_password").read_text().strip()
        url = (folder / f"database_url_{role}").read_text().strip()
        assert url == f"postgresql://strongroom_{role}:{password}@postgres:5432/strongroom"
    written = (folder / "redis.conf").read_text()
    assert f"requirepass {(folder / 'redis_password').read_text()}" in written
    assert f"on >{(folder / 'redis_gateway_password').read_text().strip()} ~" in written
    assert "@" not in written.replace("-@all", "")
    store = json.loads((folder / "object-store.json").read_text())
    key = store["identities"][0]["credentials"][0]["secretKey"]
    assert key == (folder / "object_store_password").read_text().strip()
    assert key in (folder / "object_store_credentials").read_text()


def test_redis_has_what_it_has_under_bin_up(tmp_path: Path) -> None:
    redis.prepare(tmp_path, port=6379, password="a", gateway_password="b")
    embedded = set((tmp_path / "redis.conf").read_text().splitlines())
    text = (ROOT / "k8s/compose/redis.conf").read_text()
    text = text.replace("@REDIS_PASSWORD@", "a").replace("@REDIS_GATEWAY_PASSWORD@", "b")
    composed = {line for line in text.splitlines() if not line.startswith("#")}

    assert embedded - composed == {
        "bind 127.0.0.1",
        f'dir "{tmp_path}"',
        "daemonize no",
    }
    assert composed - embedded == {"dir /tmp"}


def test_the_roles_are_those_of_bin_up() -> None:
    text = (ROOT / "k8s/compose/postgres/roles.sql").read_text()
    made = dict(re.findall(r"^CREATE ROLE (\w+) (LOGIN .*) PASSWORD", text, re.MULTILINE))

    assert made == dict.fromkeys(postgres.ROLES, "LOGIN NOSUPERUSER NOCREATEROLE NOBYPASSRLS")
    assert f"CREATE DATABASE {postgres.DATABASE} OWNER {postgres.OWNER};" in text
    assert "CREATE EXTENSION vector;" in text


def test_images_are_pinned_and_name_no_registry() -> None:
    for name, service in SERVICES.items():
        image, _, tag = service["image"].partition(":")
        assert tag not in {"", "latest"}, name
        assert "." not in image.split("/")[0], name
    prefixed = compose_file.load({**compose_file.read_example(), "IMAGE_REGISTRY": "r.example/a/"})
    assert prefixed["services"]["web"]["image"] == "r.example/a/strongroom-web:0.1.0"


def test_targets_of_builds_are_those_of_the_dockerfile() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    built = {one["build"]["target"] for one in SERVICES.values() if "build" in one}

    assert built == {"web", "worker", "gateway", "keybroker", "node-cpu", "node-gpu", "postgres"}
    assert built <= stages


def test_the_gpu_is_asked_for_in_its_profile_only() -> None:
    gpu = {name for name, one in SERVICES.items() if "reservations" in one["deploy"]["resources"]}

    assert gpu == {"node-gpu"}
    assert {name for name, one in SERVICES.items() if "profiles" in one} == {"node-gpu"}


def test_processes_wait_for_what_they_need() -> None:
    def waits(name: str) -> set[str]:
        return set(SERVICES[name].get("depends_on", ()))

    assert waits("migrate") == {"postgres"}
    assert waits("grant-roles") == {"migrate"}
    assert waits("check") == {"grant-roles"}
    assert waits("web") == {"check", "make-bucket", "redis", "keybroker"}
    for name, service in SERVICES.items():
        for other, rule in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in TASKS else "service_healthy"
            assert rule["condition"] == expected, f"{name} waits for {other}"


def test_scripts_of_the_folder_are_posix() -> None:
    shell = shutil.which("dash") or shutil.which("sh")
    assert shell is not None
    script = ROOT / "k8s/compose/make-secrets"
    assert subprocess.run([shell, "-n", script], check=False, timeout=10).returncode == 0
