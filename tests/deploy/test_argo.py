"""What Argo CD is given: each path is there, each kind allowed, each environment renders.

Nothing of this has run in a cluster; helm renders the chart as Argo CD would.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy import terraform
from tests.deploy.test_rollouts import find_tool
from tests.deploy.test_terraform import ENVIRONMENTS, read_environment

ROOT = Path(__file__).resolve().parents[2]
ARGO = ROOT / "k8s/argo"
CHART = ROOT / "k8s/chart"
REPOSITORY = "https://git.invalid/strongroom.git"
# Where a person puts in their repository: how often in each file.
PLACES = {"root.yaml": 2, "apps/project.yaml": 1, "apps/applications.yaml": 3}


def read(path: str) -> Any:
    return yaml.safe_load((ARGO / path).read_text())


@pytest.fixture(scope="module")
def project() -> dict:
    return read("apps/project.yaml")


@pytest.fixture(scope="module")
def applications() -> dict:
    return read("apps/applications.yaml")


def count_repositories(root: Path) -> dict[str, int]:
    """How often the placeholder is in each file below a folder."""
    found = {
        str(path.relative_to(root)): path.read_text().count(REPOSITORY)
        for path in root.rglob("*.yaml")
    }
    return {path: count for path, count in found.items() if count}


def test_the_repository_is_to_be_put_in_at_known_places_only(tmp_path) -> None:
    assert count_repositories(ARGO) == PLACES
    for folder in ("k8s/chart", "k8s/terraform", "marketplace", "inference", "billing", "bin"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in {".yaml", ".tf", ".tfvars", ".py", ".sh", ".tpl"}:
                assert REPOSITORY not in path.read_text(), path

    # The control: one more, in a file where nobody would look for it.
    (tmp_path / "values.yaml").write_text(f"repo: {REPOSITORY}\n")
    assert count_repositories(tmp_path) != PLACES


def test_every_file_is_one_object_of_the_kind_that_it_should_be() -> None:
    kinds = {
        str(path.relative_to(ARGO)): yaml.safe_load(path.read_text())["kind"]
        for path in [ARGO / "root.yaml", *(ARGO / "apps").iterdir()]
    }
    assert kinds == {
        "root.yaml": "Application",
        "apps/project.yaml": "AppProject",
        "apps/applications.yaml": "ApplicationSet",
    }
    for path in kinds:
        found = read(path)
        assert found["apiVersion"] == "argoproj.io/v1alpha1"
        assert found["metadata"]["namespace"] == "argocd"


def test_the_root_brings_in_the_project_before_the_applications(project, applications) -> None:
    source = read("root.yaml")["spec"]["source"]

    assert ROOT / source["path"] == ARGO / "apps"
    assert read("root.yaml")["spec"]["syncPolicy"]["automated"]["prune"] is False
    wave = "argocd.argoproj.io/sync-wave"
    assert int(project["metadata"]["annotations"][wave]) < int(
        applications["metadata"]["annotations"][wave]
    )


def fill(text: str, environment: str) -> str:
    """A template of the set as Argo CD fills it in for one environment."""
    values = read(f"environments/{environment}.yaml") | {"server": "https://10.0.0.1"}
    text = text.replace('{{ index .metadata.labels "strongroom.dev/environment" }}', environment)
    filled = re.sub(
        r"\{\{ \.(\w+) \}\}", lambda found: json.dumps(values[found[1]]).strip('"'), text
    )
    assert "{{" not in filled, filled
    return filled


def list_paths(applications: dict, environment: str) -> list[Path]:
    """Files and folders of this repository that the application of an environment is made of."""
    spec = applications["spec"]
    files = spec["generators"][0]["matrix"]["generators"][1]["git"]["files"]
    chart, values = spec["template"]["spec"]["sources"]
    assert values["ref"] == "values"
    paths = [one["path"] for one in files] + [chart["path"]]
    paths += [one.removeprefix("$values/") for one in chart["helm"]["valueFiles"]]
    return [ROOT / fill(path, environment) for path in paths]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_path_of_each_environment_is_there(applications, environment) -> None:
    paths = list_paths(applications, environment)

    assert len(paths) == 5
    assert [path for path in paths if not path.exists()] == []
    text = json.dumps(applications).replace("values/common.yaml", "values/general.yaml")
    # The control: a file that was renamed.
    assert not all(path.exists() for path in list_paths(json.loads(text), environment))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_environment_says_what_is_done_by_itself(applications, environment) -> None:
    state = read(f"environments/{environment}.yaml")
    filled = yaml.safe_load(fill(applications["spec"]["templatePatch"], environment))

    assert state["environment"] == environment
    assert filled["spec"]["syncPolicy"]["automated"] == {
        "prune": environment != "prod",
        "selfHeal": True,
    }
    # Only dev moves with main: the others get what has a version.
    assert (state["revision"] == "main") == (environment == "dev")
    if environment != "dev":
        assert re.fullmatch(r"v\d+\.\d+\.\d+", state["revision"])
        assert read(f"values/{environment}.yaml")["image"]["tag"] == state["revision"]


def test_clusters_are_chosen_by_the_environments_that_there_are(applications) -> None:
    clusters = applications["spec"]["generators"][0]["matrix"]["generators"][0]["clusters"]
    [rule] = clusters["selector"]["matchExpressions"]

    assert rule["values"] == list(ENVIRONMENTS)
    assert {path.stem for path in (ARGO / "environments").iterdir()} == set(ENVIRONMENTS)
    assert "missingkey=error" in applications["spec"]["goTemplateOptions"]


def test_who_scales_is_not_overruled(applications) -> None:
    spec = applications["spec"]["template"]["spec"]

    ignored = {
        (one["group"], one["kind"]): one["jsonPointers"] for one in spec["ignoreDifferences"]
    }
    assert ignored == {
        ("apps", "Deployment"): ["/spec/replicas"],
        ("argoproj.io", "Rollout"): ["/spec/replicas"],
    }
    # Without it the difference is not shown, and is written over all the same.
    assert "RespectIgnoreDifferences=true" in spec["syncPolicy"]["syncOptions"]


def test_the_project_is_one_namespace_and_no_rights(project, applications) -> None:
    spec = project["spec"]
    target = applications["spec"]["template"]["spec"]

    assert target["project"] == project["metadata"]["name"]
    assert spec["sourceRepos"] == [REPOSITORY]
    assert {one["repoURL"] for one in target["sources"]} == {REPOSITORY}
    assert [one["namespace"] for one in spec["destinations"]] == [
        target["destination"]["namespace"]
    ]
    kinds = {one["kind"] for one in spec["namespaceResourceWhitelist"]}
    kinds |= {one["kind"] for one in spec["clusterResourceWhitelist"]}
    assert not {"*", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Secret"} & kinds


# --- What comes out ---


def render(environment: str, *more: str) -> list[dict]:
    """All objects of an environment: the chart with its three files of values."""
    names = ("common", f"{environment}-cluster", environment)
    values = [flag for name in names for flag in ("--values", ARGO / f"values/{name}.yaml")]
    done = subprocess.run(
        [find_tool("helm/helm"), "template", "strongroom", CHART, "--namespace", "strongroom",
         *values, *more],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def list_forbidden(objects: list[dict], project: dict) -> set[tuple[str, str]]:
    """Kinds that the project does not let in."""
    spec = project["spec"]
    rules = spec["namespaceResourceWhitelist"] + spec["clusterResourceWhitelist"]
    allowed = {(one["group"], one["kind"]) for one in rules}
    found = {(one["apiVersion"].rpartition("/")[0], one["kind"]) for one in objects}
    return found - allowed


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_everything_that_an_environment_renders_is_allowed(project, environment) -> None:
    objects = render(environment)

    assert len(objects) > 30
    assert list_forbidden(objects, project) == set()
    kinds = [one["kind"] for one in objects]
    # Releases in steps are tried in staging before they are relied upon in prod.
    assert kinds.count("Rollout") == (0 if environment == "dev" else 2)
    # The control: the chart with a kind that nobody has allowed.
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    assert list_forbidden([*objects, role], project) == {
        ("rbac.authorization.k8s.io", "ClusterRole")
    }


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_values_fit_the_schema_of_the_chart(environment) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in ("common", f"{environment}-cluster", environment):
        values = merge(values, read(f"values/{name}.yaml"))

    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merge(values, {"rollouts": {"steps": "all"}}), schema)


def merge(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return under | {name: merge(under.get(name), value) for name, value in over.items()}


# --- What Terraform makes and what the chart asks for ---


def describe_pool(pool: dict) -> dict:
    """What a pool of the chart has to find on a machine."""
    gpu = pool["gpu"]
    return {
        "class": gpu["class"],
        "mig": gpu.get("migProfile"),
        "clients": gpu.get("timeSlicing", {}).get("clients"),
        "spot": pool.get("spot", False),
        "selector": pool["nodeSelector"],
    }


def describe_machines(name: str, pool: dict) -> dict:
    """The same of a pool of machines."""
    return {
        "class": pool["accelerator_type"],
        "mig": pool.get("mig_partition"),
        "clients": pool.get("time_sharing_clients"),
        "spot": pool.get("spot", False),
        "selector": {"strongroom.dev/pool": name},
    }


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_pools_of_the_chart_are_those_that_terraform_makes(environment) -> None:
    machines = read_environment(environment)["gpu_pools"]
    made = {name: describe_machines(name, pool) for name, pool in machines.items()}
    asked = {one["name"]: describe_pool(one) for one in read(f"values/{environment}.yaml")["pools"]}

    assert asked == made
    # The control: a pool of machines that was renamed.
    assert asked != {f"{name}-2": pool for name, pool in made.items()}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_nodes_fit_on_the_machines_at_most(environment) -> None:
    for pool in read(f"values/{environment}.yaml")["pools"]:
        machines = read_environment(environment)["gpu_pools"][pool["name"]]
        slots = machines["accelerator_count"] * (7 if "mig_partition" in machines else 1)
        assert pool["replicas"] <= machines["max_nodes"] * slots, pool["name"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_secret_that_is_asked_for_has_a_place(environment) -> None:
    root = terraform.read_module(terraform.ROOT)
    text = root.locals["secret_components"]
    places = {f"strongroom-{environment}-{one}" for one in re.findall(r'"([\w-]+)"', str(text))}
    pools = read_environment(environment)["gpu_pools"]
    places |= {f"strongroom-{environment}-node-{name}" for name in pools}

    asked = {
        data["remoteRef"]["key"]
        for one in render(environment)
        if one["kind"] == "ExternalSecret"
        for data in one["spec"]["data"]
    }
    assert asked
    assert asked - places == set()


def list_unsaid(values: dict) -> set[str]:
    """Names in the values of a cluster that no output of Terraform says."""
    root = terraform.read_module(terraform.ROOT)
    said = set(re.findall(r"\b(\w+)\s+=", str(root.outputs["helm_values"]["value"])))
    components = re.findall(r'"(\w+)"', str(terraform.read_all()["identity"].locals["components"]))
    accounts = values["serviceAccounts"]
    inner = {name for one in values.values() if isinstance(one, dict) for name in one}
    return ((set(values) | inner) - set(accounts) - said) | (set(accounts) ^ set(components))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_values_of_a_cluster_are_those_that_terraform_says(environment) -> None:
    """Names only: the values themselves are known when something was made."""
    values = read(f"values/{environment}-cluster.yaml")

    assert list_unsaid(values) == set()
    # The control: one that a person has put in.
    assert list_unsaid(values | {"logLevel": "DEBUG"}) == {"logLevel"}
