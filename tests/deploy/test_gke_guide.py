"""The guide to GKE: what it names is there, and each step says how far it was tried."""

from __future__ import annotations

import re
from pathlib import Path

from tests.deploy import terraform, test_terraform
from tests.deploy.test_rollouts import CASES

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs/gke.md"
MARKS = ("*Rendered and checked here*", "*Not run*", "*Not run.*")


def list_faults(text: str) -> list[str]:
    """Outputs, modules and paths that are not there; steps that do not say how far they went."""
    modules = terraform.read_all()
    outputs = re.findall(r"(?<!-)\boutput (?:-raw |-json )?([a-z_]+)", " ".join(find_code(text)))
    faults = [f"output {name}" for name in set(outputs) - set(modules["root"].outputs)]
    faults += [f"module {name}" for name in set(find_modules(text)) ^ (set(modules) - {"root"})]
    # Of `envs/$ENV.tfvars` and its like this is the folder.
    paths = re.findall(r"\b(?:k8s|tests|docs)/[\w./-]*\w", text)
    faults += [path for path in paths if not (ROOT / path).exists()]
    for title, body in find_sections(text):
        is_step = title[0].isdigit() or title in {"Releases", "Promotion and rollback", "Destroy"}
        if is_step and not any(mark in body for mark in MARKS):
            faults.append(f"step {title}")
    return faults


def find_code(text: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def find_modules(text: str) -> list[str]:
    table = text[text.index("| module | makes |") :].split("\n\n", maxsplit=1)[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def find_sections(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def test_what_the_guide_names_is_there() -> None:
    text = GUIDE.read_text()
    assert list_faults(text) == []
    assert [title[:2] for title, _ in find_sections(text)[:9]] == [f"{n}." for n in range(1, 10)]

    # Controls: an output, a module, a folder and a mark that are not there.
    for old, new, fault in (
        ("-raw database_ca", "-raw database_authority", "output database_authority"),
        ("| `cache` |", "| `redis` |", "module redis"),
        ("`k8s/argo`", "`k8s/argo/roots.yaml`", "k8s/argo/roots.yaml"),
        ("*Not run.* A pod without", "A pod without", "step 8. The first node"),
    ):
        assert old in text
        assert fault in list_faults(text.replace(old, new)), fault


def test_the_numbers_in_the_guide_are_those_of_the_files_and_tests() -> None:
    text = GUIDE.read_text()
    modules = terraform.read_all()
    resources = sum(len(module.resources) for module in modules.values())
    refused = test_terraform.test_what_cannot_be_is_refused_with_its_reason
    [parameters] = [mark.args[1] for mark in refused.pytestmark if mark.name == "parametrize"]

    assert f"all {resources} resources" in text
    assert f"for {len(parameters)} values that must be refused" in text
    assert len(CASES) == 7
    assert "seven cases each" in text
    provider = re.search(r'version = "(\d[\d.]+)"', (terraform.ROOT / "versions.tf").read_text())
    assert provider is not None
    assert text.count(f"provider {provider[1]}") == 2
