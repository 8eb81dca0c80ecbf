"""The load test for the k6 operator fits its scripts, and its pods are as restricted as ours."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.test_chart import NEWEST, OLDEST

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "bench/k6"
TEST_RUN = yaml.safe_load((ROOT / "k8s/load/testrun.yaml").read_text())
PODS = ("runner", "starter", "initializer")
# Of a pod of a TestRun: whose they are in a pod of Kubernetes' own.
OF_CONTAINER = ("image", "env", "resources", "volumeMounts")
OF_POD = ("securityContext", "volumes")
OTHERS = {"automountServiceAccountToken", "containerSecurityContext"}


def make_pod(given: dict[str, Any]) -> dict[str, Any]:
    """The pod that the operator makes of it."""
    assert set(given) <= {*OF_CONTAINER, *OF_POD, *OTHERS}
    container = {name: given[name] for name in OF_CONTAINER if name in given}
    container |= {"name": "k6", "securityContext": given["containerSecurityContext"]}
    container.setdefault("image", "k6")
    spec = {name: given[name] for name in OF_POD if name in given}
    spec |= {"containers": [container], "restartPolicy": "Never"}
    spec["automountServiceAccountToken"] = given["automountServiceAccountToken"] == "true"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "k6"}, "spec": spec}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", PODS)
def test_its_pods_are_known_to_kubernetes(name, version):
    pod = make_pod(TEST_RUN["spec"][name])
    kubernetes_validate.validate(pod, version, strict=True)

    # The control: a field that does not exist.
    wrong = copy.deepcopy(pod)
    wrong["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_its_pods_are_restricted(name):
    given = TEST_RUN["spec"][name]
    container = given["containerSecurityContext"]

    assert given["automountServiceAccountToken"] == "false"
    assert given["securityContext"]["runAsNonRoot"] is True
    assert given["securityContext"]["runAsUser"] > 0
    assert given["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert set(given["resources"]) == {"requests", "limits"}
    # No registry is named here, as for no image of ours.
    assert "/" not in given.get("image", "")


def read_names(script: str) -> set[str]:
    """What a script, and those that it imports, read of the environment."""
    text = (SCRIPTS / script).read_text()
    names = set(re.findall(r"__ENV\.([A-Z0-9_]+)", text))
    for imported in re.findall(r'from "\./([a-z_]+\.js)"', text):
        names |= read_names(imported)
    return names


def test_the_script_gets_what_it_reads_and_no_more():
    spec = TEST_RUN["spec"]
    script = spec["script"]["configMap"]["file"]
    given = {one["name"]: one for one in spec["runner"]["env"]}

    assert set(given) == read_names(script)
    assert json.loads(given["INPUT"]["value"])
    assert "value" not in given["KEY"]
    mounted = [one["mountPath"] for one in spec["runner"]["volumeMounts"]]
    assert str(Path(given["SUMMARY"]["value"]).parent) in mounted


def test_the_guide_makes_what_it_names():
    guide = (ROOT / "docs/load-tests.md").read_text()
    config_map = TEST_RUN["spec"]["script"]["configMap"]["name"]
    [key] = [one for one in TEST_RUN["spec"]["runner"]["env"] if one["name"] == "KEY"]
    secret = key["valueFrom"]["secretKeyRef"]

    [made] = re.findall(rf"kubectl create configmap {config_map} (.*)", guide)
    files = {Path(one).name for one in re.findall(r"--from-file=(\S+)", made)}
    script = TEST_RUN["spec"]["script"]["configMap"]["file"]
    imported = re.findall(r'from "\./([a-z_]+\.js)"', (SCRIPTS / script).read_text())
    assert files == {script, *imported}
    assert f"kubectl create secret generic {secret['name']} --from-file={secret['key']}=" in guide
