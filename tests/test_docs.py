"""What the documents promise to list is all there, and nothing that is gone."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import billing
import inference
import marketplace
from billing.services.stripe_event import HANDLERS
from inference.gateway.metrics_page import FAMILIES
from inference.selectors.remedies import REMEDIES
from marketplace.core.errors import MarketplaceError

ROOT = Path(__file__).resolve().parent.parent
# Only importable inside Triton's python backend.
INSIDE_TRITON = ("inference.serving.loader", "inference.serving.model_stub")
VARIABLE = re.compile(r"\b(?:STRONGROOM|FAKESTRIPE)_[A-Z_]*[A-Z]\b")


def list_error_codes() -> set[str]:
    """Codes of the product; tests make errors of their own."""
    packages = (marketplace, inference, billing)
    for package in packages:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not (
                module.name.startswith(INSIDE_TRITON)
                or module.name.endswith("__main__")
                or ".migrations" in module.name
            ):
                importlib.import_module(module.name)
    names = {package.__name__ for package in packages}
    return {
        error.code
        for error in subclasses(MarketplaceError)
        if error.__module__.split(".")[0] in names
    }


def subclasses(base: type[MarketplaceError]) -> Iterator[type[MarketplaceError]]:
    for subclass in base.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def test_every_error_code_is_documented() -> None:
    text = (ROOT / "docs/api.md").read_text()
    errors = text[text.index("## Errors") : text.index("### What is refused in")]

    documented = set(re.findall(r"^\| `([a-z_0-9]+)` \|", errors, re.MULTILINE))
    assert documented == list_error_codes() | {MarketplaceError.code}


def list_refusal_codes() -> set[str]:
    """Codes that are an instance's own: those of `RefusedError`, and of the SDK's sealing."""
    folders = ("inference/services", "inference/views", "inference/api", "sdk/strongroom/sealing")
    calls = [
        call
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "canonical.py"  # Its codes get a prefix.
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    ]
    places = {"RefusedError": 0, "_fail": 0, "_one_of": 2, "ManifestError": 0}
    places |= {"WrapError": 0, "HeaderError": 0}
    found = set()
    for call in calls:
        place = places.get(call.func.id, len(call.args))
        if place < len(call.args) and isinstance(call.args[place], ast.Constant):
            found.add(str(call.args[place].value))
    return found


def test_every_refusal_of_an_upload_is_documented() -> None:
    text = (ROOT / "docs/api.md").read_text()
    begin, end = text.index("### What is refused in"), text.index("### Reasons of onboarding")
    own = set(re.findall(r"^\| `([a-z_0-9]+)` \|", text[begin:end], re.MULTILINE))
    codes = list_refusal_codes()

    assert {"part_checksum_missing", "no_files", "kind_unknown", "key_wrap_invalid"} <= codes
    assert own - codes == set()
    assert codes - own - set(REMEDIES) - list_error_codes() == set()


def test_every_reason_code_is_documented() -> None:
    text = (ROOT / "docs/api.md").read_text()
    reasons = text[text.index("### Reasons of onboarding") :]

    assert set(re.findall(r"^\| `([a-z_0-9]+)` \|", reasons, re.MULTILINE)) == set(REMEDIES)


def test_every_variable_is_documented() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    documented = set(VARIABLE.findall(text))

    folders = ("marketplace", "inference", "billing", "embedded", "fakestripe", "sdk/strongroom")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "bin/up", ROOT / "bin/install.sh", ROOT / "manage.py"]
    used = {name for path in files for name in VARIABLE.findall(path.read_text())}
    # A name with _FILE is the same variable read from a file; a bare prefix is a family.
    used = {name.removesuffix("_FILE") for name in used}
    families = {name for name in used if any(other.startswith(f"{name}_") for other in used)}

    assert used - families - documented == set()
    assert documented - used == set()


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    table = text[text.index("| metric | kind |") : text.index("Alerts to begin with")]
    documented = {
        (name, row.split("|")[2].strip())
        for row in table.splitlines()[2:]
        for name in re.findall(r"`([a-z_]+)`", row.split("|")[1] if row.startswith("|") else "")
    }

    assert documented == {(name, family.kind) for name, family in FAMILIES.items()}
    alerts = text[text.index("Alerts to begin with") : text.index("## Traces")]
    used = {
        re.sub("_bucket$", "", name) for name in re.findall(r"\b(?:sg|process)_[a-z_]+", alerts)
    }
    assert {name.removeprefix("sg_") for name in used} <= set(FAMILIES)


def test_links_between_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def read_threats() -> list[list[str]]:
    """The rows of the threat model, as cells."""
    text = (ROOT / "docs/threat-model.md").read_text()
    rows = [line.strip().strip("|").split("|") for line in text.splitlines()]
    return [[cell.strip() for cell in row] for row in rows if row[0].strip().isdecimal()]


def test_every_threat_names_a_test_and_every_test_a_threat() -> None:
    rows = read_threats()
    named = [re.findall(r"`(tests/[^`]+)`", row[4]) for row in rows]

    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    # The first is the row's own, where its attack and its control are told.
    own = [tests[0] for tests in named]
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "tests/threats").glob("test_*.py")]
    assert sorted(own) == sorted(modules)
    for path in {path for tests in named for path in tests}:
        assert re.search(r"^ *(async )?def test_", (ROOT / path).read_text(), re.MULTILINE), path
    for path in own:
        assert "control" in (ROOT / path).read_text().lower(), path


def list_lost_controls(text: str) -> list[str]:
    """Of a table of what is broken on purpose: the tests that are not there."""
    found = re.findall(r"\| `([\w/]+\.py)::(\w+)` \|$", text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\|.*::", text, re.MULTILINE)) > 30
    lost = []
    for path, name in found:
        place = ROOT / path if path.startswith("tests/") else ROOT / "tests/billing" / path
        if not place.exists() or f"def {name}(" not in place.read_text():
            lost.append(f"{path}::{name}")
    return lost


def test_everything_that_is_broken_on_purpose_names_its_test() -> None:
    text = (ROOT / "docs/ledger.md").read_text()
    assert list_lost_controls(text) == []
    # The control: one that was renamed.
    wrong = text.replace("::test_a_float_is_found`", "::test_a_float_is_lost`")
    assert list_lost_controls(wrong) == ["test_no_floats.py::test_a_float_is_lost"]


def test_every_threat_names_code_that_is_there_and_what_remains() -> None:
    folders = ("inference", "marketplace", "sdk/strongroom", "embedded")
    files = {f"/{path.relative_to(ROOT)}" for name in folders for path in (ROOT / name).rglob("*")}

    for row in read_threats():
        assert len(row) == 6, row[0]
        assert all(row), row[0]
        places = re.findall(r"`([a-z_/]+(?:\.py|\.sql)|[a-z_]+/[a-z_/]+)`", row[3])
        assert places, row[0]
        for place in places:
            assert any(path.endswith(f"/{place}") for path in files), f"row {row[0]}: {place}"


def test_every_event_that_is_handled_is_in_the_list_for_going_live() -> None:
    text = (ROOT / "docs/stripe.md").read_text()
    webhooks = text[text.index("## 3. Webhooks") : text.index("## 4. Tax")]

    named = set(re.findall(r"`([a-z0-9_]+\.[a-z0-9_.\[\]]+)`", webhooks))
    assert named == set(HANDLERS)
