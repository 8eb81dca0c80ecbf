"""The chart as its tests see it: rendered by helm, read back as objects."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "k8s/chart"
BESIDE = ROOT / ".venv/beside"
RELEASE = "strongroom"
NAMESPACE = "market"
COMPONENT = "app.kubernetes.io/component"
POOL = "strongroom.dev/pool"
# In C: some ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Object = dict[str, Any]


class ChartError(Exception):
    """Helm refused to render; the text is what it says."""


def find_tool(folder: str, name: str) -> Path:
    """A program that `bin/test` puts beside the environment.

    Raises:
        RuntimeError: It is not there.
    """
    path = BESIDE / folder / name
    if not path.exists():
        raise RuntimeError(f"{path} is missing: bin/test puts it there")
    return path


@dataclass(frozen=True)
class Rendered:
    """All objects of one rendering."""

    objects: list[Object] = field(repr=False)

    def of_kind(self, *kinds: str) -> list[Object]:
        """Objects of some kinds."""
        return [found for found in self.objects if found["kind"] in kinds]

    def get(self, kind: str, name: str) -> Object:
        """The one object of a kind and a name, without the release's."""
        full_name = f"{RELEASE}-{name}"
        [found] = [it for it in self.of_kind(kind) if it["metadata"]["name"] == full_name]
        return found

    def workloads(self) -> list[Object]:
        """What makes pods."""
        return self.of_kind("Deployment", "Job", "CronJob", "StatefulSet", "DaemonSet")


def render(*examples: str, values: Mapping[str, Any] | None = None) -> Rendered:
    """Render the chart with some of its examples, and with values on top of them.

    Raises:
        ChartError: Helm refused.
    """
    text = yaml.safe_dump(values) if values else ""
    return Rendered(_render(examples, text))


@functools.cache
def _render(examples: Sequence[str], values: str) -> list[Object]:
    command: list[str | Path] = [find_tool("helm", "helm"), "template", RELEASE, CHART]
    command += ["--namespace", NAMESPACE]
    for example in examples:
        command += ["--values", CHART / f"examples/{example}.yaml"]
    if values:
        command += ["--values", "-"]
    done = subprocess.run(
        command, check=False, input=values, capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise ChartError(done.stderr)
    return [found for found in yaml.load_all(done.stdout, _LOADER) if found]


def pod_spec(workload: Object) -> Object:
    """The specification of the pods that a workload makes."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def pod_labels(workload: Object) -> dict[str, str]:
    """The labels of the pods that a workload makes."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(workload: Object) -> list[Object]:
    """All containers of a pod, those included that run before the others."""
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(container: Object) -> dict[str, str]:
    """Variables of a container; those that are read from the pod itself are `<field>`."""
    return {
        entry["name"]: entry.get("value") or f"<{entry['valueFrom']['fieldRef']['fieldPath']}>"
        for entry in container.get("env", [])
    }


def check_with_checkov(file: Path, skipped: Sequence[str]) -> str:
    """What checkov says about a file; empty where it has nothing to say."""
    find_tool("checkov", "checkov")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "checkov.main", "--file", str(file)),
            *("--framework", "kubernetes", "--quiet", "--compact"),
            *("--skip-check", ",".join(skipped), "--skip-download"),
        ],
        env={
            "PYTHONPATH": str(BESIDE / "checkov"),
            "PATH": "/usr/bin:/bin",
            "HOME": str(file.parent),
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    return done.stdout.strip() if done.returncode else ""
