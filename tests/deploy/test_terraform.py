"""The Terraform files: well formed, wired up, safe; and what they refuse they do refuse.

No cluster is made and no provider is loaded here. `docs/gke.md` says what was checked how.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import hcl2
import pytest

from tests.deploy import terraform
from tests.deploy.hcl_expression import MISUSE, TYPES, HclError, convert, evaluate
from tests.deploy.terraform import BLOCK, FILES, ROOT, Module, list_form_faults, unquote

CHECKOV = Path(sys.prefix) / "beside" / "checkov"
ENVIRONMENTS = ("dev", "staging", "prod")
# What is left as it is: each has its reason beside it, in the file.
SKIPPED = {
    ("CKV_GCP_12", "google_container_cluster.this"),
    ("CKV_GCP_65", "google_container_cluster.this"),
    ("CKV_GCP_66", "google_container_cluster.this"),
    ("CKV_GCP_6", "google_sql_database_instance.this"),
    ("CKV_GCP_108", "google_sql_database_instance.this"),
    ("CKV2_GCP_13", "google_sql_database_instance.this"),
    ("CKV_GCP_62", "google_storage_bucket.access_logs"),
}


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return terraform.read_all()


@pytest.fixture
def copied(tmp_path) -> Path:
    """The files, to be broken."""
    for path in ROOT.rglob("*.tf*"):
        target = tmp_path / "terraform" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    return tmp_path / "terraform"


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path.name}"
    path.write_text(text.replace(old, new))


# --- Form ---


def list_hcl_files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*") if path.suffix in {".tf", ".tfvars"})


def test_every_file_is_parsed_and_formatted() -> None:
    files = list_hcl_files()
    assert len(files) == 4 * 10 + len(ENVIRONMENTS)

    for path in files:
        assert hcl2.loads(path.read_text()), path
        assert list_form_faults(path.read_text()) == [], path


@pytest.mark.parametrize(
    ("_case", "old", "new", "fault"),
    [
        ("a tab", '  name    = "x"', '\tname    = "x"', "tab"),
        ("too far in", '  name    = "x"', '   name    = "x"', "indented by 2"),
        ("sign out of its column", "name    =", "name =", "sign in column 10"),
        ("all too far right", "one     = 1\n  project =", "one      = 1\n  project  =", "column"),
        ("a space at the end", "= 1\n", "= 1 \n", "space at its end"),
        ("braces without spaces", "{ a = 1 }", "{a = 1}", "inside braces"),
        ("no newline at the end", "}\n}\n", "}\n}", "one newline"),
        ("two newlines at the end", "}\n}\n", "}\n}\n\n", "one newline"),
        ("a list without spaces", "[1, 2]", "[1,2]", "commas"),
        ("a bracket with space", "[1, 2]", "[ 1, 2 ]", "brackets"),
        ("two spaces before a map", "  tags = {", "  tags    = {", "one space before"),
        ("a trailing comment", "one     = 1", "one     = 1 # why", "comments"),
        ("a closing brace too far in", "\n  }\n}", "\n    }\n}", "indented by 2"),
    ],
)
def test_what_terraform_fmt_would_change_is_a_fault(_case, old, new, fault) -> None:
    text = (
        'resource "a" "b" {\n  one     = 1\n  project = [1, 2]\n  name    = "x"\n\n'
        '  map = { a = 1 }\n\n  tags = {\n    "a" = 1\n  }\n}\n'
    )
    assert list_form_faults(text) == []
    assert old in text

    assert any(fault in one for one in list_form_faults(text.replace(old, new)))


# --- Wiring ---


def list_wiring_faults(module: Module, modules: dict[str, Module]) -> list[str]:
    """Names that are used and not declared, declared and not used, or told nothing of."""
    text = module.text
    used = set(re.findall(r"\bvar\.(\w+)", text))
    faults = [f"var.{name} is not declared" for name in used - set(module.variables)]
    faults += [f"var.{name} is not used" for name in set(module.variables) - used_outside(module)]
    local = set(re.findall(r"\blocal\.(\w+)", text))
    faults += [f"local.{name}" for name in local ^ set(module.locals)]
    resources = set(re.findall(r"(?<!data\.)\b(google_\w+)\.(\w+)", text))
    faults += [f"{kind}.{name} is not declared" for kind, name in resources - set(module.resources)]
    data = set(re.findall(r"\bdata\.(\w+)\.(\w+)", text))
    faults += [f"data.{kind}.{name}" for kind, name in data ^ set(module.data)]
    for kind, named in (("variable", module.variables), ("output", module.outputs)):
        faults += [
            f"{kind} {name}: description"
            for name, body in named.items()
            if len(unquote(body.get("description", ""))) < 10
        ]
    faults += [f"variable {name}: type" for name, b in module.variables.items() if "type" not in b]
    return faults + list_call_faults(module, modules)


def used_outside(module: Module) -> set[str]:
    """Variables that something other than their own block uses."""
    found = set()
    for file in module.path.glob("*.tf"):
        text = terraform.strip_comments(file.read_text())
        if file.name == "variables.tf":
            # The condition of another variable may need it; its own does not count.
            blocks = re.split(r"^variable ", text, flags=re.MULTILINE)[1:]
            for block in blocks:
                own = block.split('"')[1]
                found |= set(re.findall(r"\bvar\.(\w+)", block)) - {own}
        else:
            found |= set(re.findall(r"\bvar\.(\w+)", text))
    return found


def list_call_faults(module: Module, modules: dict[str, Module]) -> list[str]:
    faults = []
    taken = set(re.findall(r"\bmodule\.(\w+)\.(\w+)", module.text))
    for name, call in module.calls.items():
        callee = modules.get(name)
        if callee is None or unquote(call["source"]) != f"./modules/{name}":
            faults.append(f"module {name}: source")
            continue
        given = set(call) - {"source", "depends_on", BLOCK}
        needed = {one for one, body in callee.variables.items() if "default" not in body}
        faults += [f"module {name}: {one} is missing" for one in needed - given]
        faults += [f"module {name}: no variable {one}" for one in given - set(callee.variables)]
        outputs = {output for called, output in taken if called == name}
        faults += [f"module {name}: no output {one}" for one in outputs - set(callee.outputs)]
        faults += [f"module {name}: {one} is not used" for one in set(callee.outputs) - outputs]
    faults += [f"module {name} is not called" for name, _ in taken if name not in module.calls]
    return faults


def test_each_module_has_its_files_and_all_names_lead_somewhere(modules) -> None:
    assert set(modules["root"].calls) == set(modules) - {"root"}
    for module in modules.values():
        assert sorted(path.name for path in module.path.glob("*.tf")) == sorted(FILES)
        assert list_wiring_faults(module, modules) == [], module.name


@pytest.mark.parametrize(
    ("_case", "file", "old", "new", "fault"),
    [
        ("a variable that is gone", "modules/cache/variables.tf", '"kms_key_id"', '"k"', "kms_key"),
        ("one that nobody uses", "modules/cache/main.tf", "= var.kms_key_id", "= null", "not used"),
        ("no description", "variables.tf", '"Namespace of the Helm release."', '""', "description"),
        ("an argument that is missing", "main.tf", "writers = {", "readers = {", "writers is miss"),
        ("an output that is gone", "modules/cache/outputs.tf", '"host"', '"h"', "no output host"),
        (
            "a resource that is gone",
            "modules/store/main.tf",
            '"access_logs"',
            '"logs"',
            "access_lo",
        ),
        ("a local that is gone", "main.tf", "  name = ", "  title = ", "local.name"),
    ],
)
def test_a_name_that_leads_nowhere_is_found(copied, monkeypatch, _case, file, old, new, fault):
    rewrite(copied / file, old, new)
    monkeypatch.setattr(terraform, "ROOT", copied)

    broken = terraform.read_all()

    faults = [one for module in broken.values() for one in list_wiring_faults(module, broken)]
    assert any(fault in one for one in faults), faults


def test_versions_are_pinned_and_the_state_is_in_a_bucket(modules) -> None:
    root = hcl2.loads((ROOT / "versions.tf").read_text())["terraform"][0]
    provider = root["required_providers"][0]["google"]
    pinned = unquote(provider["version"])

    assert re.fullmatch(r"\d+\.\d+\.\d+", pinned)
    assert '"gcs"' in root["backend"][0]
    for name in set(modules) - {"root"}:
        block = hcl2.loads((ROOT / "modules" / name / "versions.tf").read_text())["terraform"][0]
        least, below = unquote(block["required_providers"][0]["google"]["version"]).split(", ")
        assert least.removeprefix(">= ") == pinned
        assert below == f"< {int(pinned.split('.')[0]) + 1}.0.0"
        assert block["required_version"] == root["required_version"]


# --- What the variables refuse ---


def read_environment(name: str) -> dict:
    """The values of one environment's file, as data."""
    text = (ROOT / "envs" / f"{name}.tfvars").read_text()
    found = hcl2.loads(terraform.strip_comments(text))
    return {key: plain(value) for key, value in found.items()}


def plain(value):
    """Data of the parser without its quotation marks and expressions."""
    if isinstance(value, dict):
        return {unquote(key): plain(one) for key, one in value.items() if key != BLOCK}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return unquote(value)


def expression(value) -> str:
    """The text of an expression: the parser puts `${}` around what is no literal."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text[2:-1] if text.startswith("${") and text.endswith("}") else text


def fill_in(module: Module, given: dict) -> dict:
    """All variables of a module, of their types and with their defaults."""
    unknown = set(given) - set(module.variables)
    if unknown:
        raise HclError(f"no variable {sorted(unknown)}")
    values = {}
    for name, body in module.variables.items():
        if name not in given and "default" not in body:
            raise HclError(f"{name} is missing")
        kind = evaluate(expression(body["type"]), TYPES)
        value = given[name] if name in given else plain(body["default"])
        values[name] = convert(kind, value, name)
    return values


def list_refusals(module: Module, values: dict) -> list[str]:
    """Error messages of the conditions that these values break."""
    return [
        unquote(rule["error_message"])
        for name, body in module.variables.items()
        if name in values
        for rule in body.get("validation", [])
        if evaluate(expression(rule["condition"]), {"var": values}) is not True
    ]


def pass_on(root: Module, values: dict, callee: Module) -> dict:
    """What a module gets from the root that does not come from another module."""
    scope = {"var": values}
    scope["local"] = {}
    for name in ("name", "labels", "secret_components"):
        scope["local"][name] = evaluate(local_text(root.locals[name]), scope)
    call = root.calls[callee.name]
    given = {}
    for name in set(call) & set(callee.variables):
        text = expression(call[name])
        if re.search(r"\b(module|data)\.", text) is None:
            given[name] = evaluate(text, scope)
    return given


def local_text(value) -> str:
    return expression(value) if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_environment_gets_past_every_condition(modules, environment) -> None:
    root = modules["root"]
    values = fill_in(root, read_environment(environment))
    assert values["environment"] == environment
    assert list_refusals(root, values) == []

    checked = 0
    for name in root.calls:
        module = modules[name]
        given = pass_on(root, values, module)
        defaults = {
            one: plain(body["default"])
            for one, body in module.variables.items()
            if "default" in body and one not in given
        }
        rules = [r for one in given | defaults for r in module.variables[one].get("validation", [])]
        assert list_refusals(module, defaults | given) == [], name
        checked += len(rules)
    assert checked > 25


def pools(**changes) -> dict:
    pool = {"machine_type": "g2-standard-8", "accelerator_type": "nvidia-l4"}
    pool |= {"accelerator_count": 1, "min_nodes": 0, "max_nodes": 2}
    return {"gpu_pools": {"l4": pool | changes}}


@pytest.mark.parametrize(
    ("_case", "name", "change", "message"),
    [
        ("no accelerator", "pools", pools(accelerator_type=""), "needs an accelerator_type"),
        ("none of them", "pools", pools(accelerator_count=0), "accelerator_count of at least 1"),
        ("three of them", "pools", pools(accelerator_count=3), "1, 2, 4, 8 or 16"),
        ("least above most", "pools", pools(min_nodes=3), "min_nodes must not be negative"),
        ("less than none", "pools", pools(min_nodes=-1), "min_nodes must not be negative"),
        ("never any", "pools", pools(max_nodes=0), "at least 1"),
        ("odd partition", "pools", pools(mig_partition="half"), "1g.10gb"),
        (
            "partitioned and shared",
            "pools",
            pools(mig_partition="1g.5gb", time_sharing_clients=2),
            "not both",
        ),
        ("shared by one", "pools", pools(time_sharing_clients=1), "between 2 and 48"),
        ("upgrade that stands", "pools", pools(unavailable_max=0), "An upgrade needs"),
        ("name with a capital", "pools", {"gpu_pools": {"L4": pools()["gpu_pools"]["l4"]}}, "a-z"),
        (
            "general pool of none",
            "pools",
            {"general": {"machine_type": "e2-standard-4", "min_nodes": 0, "max_nodes": 2}},
            "min_nodes must be at least 1",
        ),
        ("for everybody", "cluster", {"authorized_networks": {"all": "0.0.0.0/0"}}, "everybody"),
        ("no network", "cluster", {"authorized_networks": {"office": "here"}}, "must be a network"),
        ("odd channel", "cluster", {"release_channel": "NIGHTLY"}, "release_channel"),
        ("control plane /24", "cluster", {"control_plane_cidr": "172.16.0.0/24"}, "/28"),
        ("Redis 6", "cache", {"redis_version": "REDIS_6_X"}, "REDIS_7"),
        ("shared database", "database", {"tier": "db-f1-micro"}, "shared cores"),
        ("few backups", "database", {"backups_kept": 1}, "between 7 and 365"),
        ("no log", "database", {"log_retention_days": 0}, "between 1 and 7"),
        ("key for a year", "secrets", {"rotation_period": "31536000s"}, "rotation_period"),
        ("odd rotation", "secrets", {"rotation_period": "90 days"}, "rotation_period"),
        ("long name", "identity", {"name": "strongroom-preproduction"}, "3 to 18"),
        ("odd bucket", "store", {"bucket_name": "My_Bucket"}, "bucket_name"),
        ("odd environment", "root", {"environment": "test"}, "dev, staging or prod"),
        ("prod unprotected", "root", {"deletion_protection": False}, "Only dev"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(modules, _case, name, change, message) -> None:
    module = modules[name]
    values = fill_in(modules["root"], read_environment("prod"))
    if name != "root":
        given = pass_on(modules["root"], values, module)
        defaults = {k: plain(v["default"]) for k, v in module.variables.items() if "default" in v}
        values = defaults | given
    assert list_refusals(module, values) == []

    for one, value in change.items():
        kind = evaluate(expression(module.variables[one]["type"]), TYPES)
        values[one] = convert(kind, value, one)

    # A condition that has no value for it is refused by Terraform as well.
    found = list_refusals(module, values)
    assert any(message in one for one in found), found


@pytest.mark.parametrize(
    ("_case", "change"),
    [
        ("a field that does not exist", {"gpu_pools": {"l4": {"gpus": 1}}}),
        ("a field that is missing", {"cache": {"memory_size_gb": 1}}),
        ("a text for a number", {"cache": {"memory_size_gb": "1", "highly_available": True}}),
        ("a variable that does not exist", {"projekt": "x"}),
    ],
)
def test_a_value_of_another_form_is_refused(modules, _case, change) -> None:
    with pytest.raises(HclError):
        fill_in(modules["root"], read_environment("dev") | change)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3 == 7 && !false", True),
        ("[for x in [1, 2, 3] : x * 2 if x != 2]", [2, 6]),
        ('{ for k, v in { a = 1 } : "${k}-x" => v }', {"a-x": 1}),
        ('try(null.a, "b")', "b"),
        ("can(var.nothing)", False),
        ("var.a[*]", [3]),
        ('var.a > 2 ? "yes" : "no"', "yes"),
        (r'can(regex("^[1-7]g\\.[0-9]+gb$", "1g.5gb"))', True),
    ],
)
def test_expressions_have_the_values_that_terraform_gives_them(text, value) -> None:
    assert evaluate(text, {"var": {"a": 3}}) == value


def test_what_is_not_understood_is_an_error_and_no_value() -> None:
    for text in ("timestamp()", "1 +", "a b", "var.x", "[1, 2", "«»"):
        with pytest.raises(MISUSE):
            evaluate(text, {"var": {}})


# --- What must hold ---


def find(modules: dict[str, Module], module: str, kind: str, name: str) -> dict:
    return modules[module].resources[kind, name]


def list_policy_faults(modules: dict[str, Module]) -> list[str]:
    """Rules of ours that the files break."""
    cluster = find(modules, "cluster", "google_container_cluster", "this")
    private = cluster["private_cluster_config"][0]
    database = find(modules, "database", "google_sql_database_instance", "this")
    settings = database["settings"][0]
    backup = settings["backup_configuration"][0]
    address = settings["ip_configuration"][0]
    cache = find(modules, "cache", "google_redis_instance", "this")
    buckets = [
        r for (k, _), r in modules["store"].resources.items() if k == "google_storage_bucket"
    ]
    node_pools = [r["node_config"][0] for r in modules["pools"].resources.values()]
    keys = [r for (k, _), r in modules["secrets"].resources.items() if k == "google_kms_crypto_key"]
    rules = {
        "machines have private addresses": private["enable_private_nodes"] is True,
        "the control plane has its networks": "master_authorized_networks_config" in cluster,
        "Google's own public addresses are not let in": cluster[
            "master_authorized_networks_config"
        ][0]["gcp_public_cidrs_access_enabled"]
        is False,
        "workload identity": "workload_pool" in cluster["workload_identity_config"][0],
        "Dataplane V2": unquote(cluster["datapath_provider"]) == "ADVANCED_DATAPATH",
        "shielded nodes": cluster["enable_shielded_nodes"] is True,
        "no legacy rights": cluster["enable_legacy_abac"] is False,
        "secrets of the cluster are closed": unquote(cluster["database_encryption"][0]["state"])
        == "ENCRYPTED",
        "no public database": address["ipv4_enabled"] is False,
        "TLS to the database": unquote(address["ssl_mode"])
        in {"ENCRYPTED_ONLY", "TRUSTED_CLIENT_CERTIFICATE_REQUIRED"},
        "backups": backup["enabled"] is True,
        "any moment": backup["point_in_time_recovery_enabled"] is True,
        "Postgres 18": unquote(database["database_version"]) == "POSTGRES_18",
        "the database has our key": "encryption_key_name" in database,
        "TLS to the cache": unquote(cache["transit_encryption_mode"]) == "SERVER_AUTHENTICATION",
        "the cache has a password": cache["auth_enabled"] is True,
        "the cache has our key": "customer_managed_key" in cache,
        "no list of an object's own": all(
            b["uniform_bucket_level_access"] is True for b in buckets
        ),
        "no public object": all(
            unquote(b["public_access_prevention"]) == "enforced" for b in buckets
        ),
        "objects have our key": all("encryption" in b for b in buckets),
        "deleted objects come back": all(b["versioning"][0]["enabled"] is True for b in buckets),
        "machines do not lend their account": all(
            unquote(n["workload_metadata_config"][0]["mode"]) == "GKE_METADATA" for n in node_pools
        ),
        "machines boot what is signed": all(
            n["shielded_instance_config"][0]["enable_secure_boot"] is True for n in node_pools
        ),
        "disks have our key": all("boot_disk_kms_key" in n for n in node_pools),
        "images are streamed": all(n["gcfs_config"][0]["enabled"] is True for n in node_pools),
        "keys are not destroyed by mistake": all(
            k["lifecycle"][0]["prevent_destroy"] is True for k in keys
        ),
        "keys are rotated": all("rotation_period" in k for k in keys),
    }
    faults = [name for name, holds in rules.items() if not holds]
    return faults + list_open_networks(modules) + list_wide_rights(modules) + list_secrets(modules)


def list_open_networks(modules: dict[str, Module]) -> list[str]:
    """The one place that names all addresses is the rule that refuses them."""
    faults = []
    for module in modules.values():
        for (kind, name), body in module.resources.items():
            is_open = "0.0.0.0/0" in json.dumps(body) or "::/0" in json.dumps(body)
            if is_open and not (kind == "google_compute_firewall" and "deny" in body):
                faults.append(f"{kind}.{name} is open to all")
    return faults


def list_wide_rights(modules: dict[str, Module]) -> list[str]:
    faults = []
    for module in modules.values():
        for (kind, name), body in module.resources.items():
            if "_iam_" not in kind:
                continue
            role = unquote(body["role"])
            if re.search(r"roles/(owner|editor|viewer)$|[aA]dmin", role):
                faults.append(f"{kind}.{name} has {role}")
            if re.search(r"allUsers|allAuthenticatedUsers", str(body)):
                faults.append(f"{kind}.{name} is for everybody")
            if kind.endswith(("_binding", "_policy")):
                faults.append(f"{kind}.{name} takes away what others were given")
    return faults


def list_secrets(modules: dict[str, Module]) -> list[str]:
    """What would put a secret into the state."""
    kinds = {"google_secret_manager_secret_version", "google_storage_hmac_key", "google_sql_user"}
    kinds |= {"google_service_account_key", "random_password"}
    faults = [
        f"{kind}.{name} would lie in the state"
        for module in modules.values()
        for kind, name in module.resources
        if kind in kinds
    ]
    names = [name for module in modules.values() for name in module.outputs]
    return faults + [f"output {n}" for n in names if re.search("password|auth_string|token", n)]


def test_what_must_hold_holds(modules) -> None:
    assert list_policy_faults(modules) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        (
            "cluster/main.tf",
            "enable_private_nodes    = true",
            "enable_private_nodes    = false",
            "private addresses",
        ),
        ("cluster/main.tf", '"ADVANCED_DATAPATH"', '"LEGACY_DATAPATH"', "Dataplane V2"),
        ("cluster/main.tf", '"ENCRYPTED"', '"DECRYPTED"', "secrets of the cluster"),
        ("database/main.tf", '"ENCRYPTED_ONLY"', '"ALLOW_UNENCRYPTED_AND_ENCRYPTED"', "TLS to the"),
        ("database/main.tf", "_enabled = true", "_enabled = false", "any moment"),
        ("database/main.tf", "ipv4_enabled       = false", "ipv4_enabled = true", "no public"),
        ("database/main.tf", "encryption_key_name", "collation", "our key"),
        ("cache/main.tf", '"SERVER_AUTHENTICATION"', '"DISABLED"', "TLS to the cache"),
        ("store/main.tf", '"enforced"', '"inherited"', "no public object"),
        ("store/main.tf", "uniform_bucket_level_access = true", "a = 1", "KeyError"),
        ("store/main.tf", '"roles/storage.objectUser"', '"roles/storage.admin"', "storage.admin"),
        ("network/main.tf", "var.health_check_cidrs", '["0.0.0.0/0"]', "open to all"),
        ("secrets/main.tf", "prevent_destroy = true", "prevent_destroy = false", "by mistake"),
        ("pools/main.tf", '"GKE_METADATA"', '"GCE_METADATA"', "lend their account"),
        ("registry/main.tf", '"google_artifact_registry_repository_iam_member" "reader"',
         '"google_storage_hmac_key" "reader"', "in the state"),
    ],
)  # fmt: skip
def test_what_must_not_be_is_found(copied, monkeypatch, file, old, new, fault) -> None:
    rewrite(copied / "modules" / file, old, new)
    monkeypatch.setattr(terraform, "ROOT", copied)

    try:
        faults = list_policy_faults(terraform.read_all())
    except KeyError as error:
        faults = [f"KeyError {error}"]

    assert any(fault in one for one in faults), faults


def test_pools_carry_the_labels_and_taints_that_the_chart_asks_for(modules) -> None:
    pool = find(modules, "pools", "google_container_node_pool", "gpu")
    config = pool["node_config"][0]
    taint = config["taint"][0]

    assert unquote(taint["key"]) == "strongroom.dev/pool"
    assert (taint["value"], unquote(taint["effect"])) == ("${each.key}", "NO_SCHEDULE")
    labels = config["labels"]
    assert '"strongroom.dev/pool"  = each.key' in labels or '"strongroom.dev/pool"' in labels
    assert "each.key" in labels
    # No image of a registry, nor a registry, is named: the provider says where it is.
    registry = modules["registry"].outputs["image_registry"]["value"]
    assert registry == "${google_artifact_registry_repository.images.registry_uri}"


def test_the_charts_pools_follow_from_the_variables(modules) -> None:
    """The output is worked out for prod, as Terraform would, with the pools as made."""
    values = fill_in(modules["root"], read_environment("prod"))
    text = expression(modules["pools"].outputs["chart_pools"]["value"])
    made = {name: {"name": name} for name in values["gpu_pools"]}

    found = evaluate(text, {"var": values, "google_container_node_pool": {"gpu": made}})

    assert [pool["name"] for pool in found] == sorted(values["gpu_pools"])
    by_name = {pool["name"]: pool for pool in found}
    assert by_name["l4-spot"] == {
        "name": "l4-spot",
        "nodeSelector": {"strongroom.dev/pool": "l4-spot"},
        "gpu": {"class": "nvidia-l4", "count": 1},
        "spot": True,
    }
    slices = {"class": "nvidia-a100-80gb", "count": 1, "migProfile": "1g.10gb"}
    assert by_name["a100-slices"]["gpu"] == slices
    assert "spot" not in by_name["h100"]


# --- Checkov ---


def run_checkov(folder: Path) -> dict:
    assert (CHECKOV / "checkov").is_dir(), f"checkov is not in {CHECKOV}: bin/test installs it"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "checkov.main", "--directory", str(folder),
         "--framework", "terraform", "--output", "json", "--skip-download", "--soft-fail"],
        env={"PYTHONPATH": str(CHECKOV), "PATH": "/usr/bin:/bin", "LOG_LEVEL": "ERROR",
             "HOME": str(folder.parent)},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)["results"]


def name_checks(checks: list[dict]) -> set[tuple[str, str]]:
    return {
        (one["check_id"], re.sub(r"^module\.\w+\.|\[.*\]$", "", one["resource"])) for one in checks
    }


def test_checkov_finds_nothing_that_was_not_agreed_to(copied) -> None:
    results = run_checkov(copied)

    assert name_checks(results["failed_checks"]) == set()
    assert results["parsing_errors"] == []
    assert len(results["passed_checks"]) > 90
    assert name_checks(results["skipped_checks"]) == SKIPPED
    for one in results["skipped_checks"]:
        assert len(one["check_result"]["suppress_comment"]) > 20


def test_checkov_finds_what_was_broken(copied) -> None:
    rewrite(copied / "modules/network/main.tf", "var.health_check_cidrs", '["0.0.0.0/0"]')
    rewrite(copied / "modules/network/main.tf", '["8000", "8001", "8002"]', '["22"]')
    rewrite(copied / "modules/store/main.tf", '"enforced"', '"inherited"')
    rewrite(copied / "modules/cluster/main.tf", "_client_certificate = false", "_c = true")
    rewrite(copied / "modules/cache/main.tf", "auth_enabled            = true", "a = 1")

    found = name_checks(run_checkov(copied)["failed_checks"])

    assert ("CKV_GCP_2", "google_compute_firewall.allow_health_checks") in found
    assert ("CKV_GCP_114", "google_storage_bucket.artifacts") in found
    assert ("CKV_GCP_13", "google_container_cluster.this") in found
    assert ("CKV_GCP_95", "google_redis_instance.this") in found
