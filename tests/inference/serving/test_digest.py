from __future__ import annotations

import shutil

import pytest

from inference.serving.digest import ROOT, compute_loader_digest, list_files
from tests.inference.serving.children import run_child

_COVERED = [
    "inference/serving/loader.py",
    "inference/serving/runtimes/onnx.py",
    "inference/serving/model_stub.py",
    "inference/artifact/safetensors.py",
    "sdk/strongroom/sealing/floe.py",
    "sdk/strongroom/interface.py",
    "sdk/strongroom/errors.py",
    "sdk/strongroom/__init__.py",
    "inference/triton/tensors.py",
    "inference/triton/media.py",
    "marketplace/core/errors.py",
]


@pytest.fixture
def copy(tmp_path):
    for package in ("inference", "marketplace"):
        (tmp_path / package).mkdir()
        shutil.copy(ROOT / package / "__init__.py", tmp_path / package)
    folders = ("inference/serving", "inference/artifact", "inference/triton", "sdk/strongroom")
    for folder in (*folders, "marketplace/core"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def test_same_code_has_the_same_digest_wherever_it_lies(copy):
    assert compute_loader_digest(copy) == compute_loader_digest()
    assert len(compute_loader_digest()) == 64


@pytest.mark.parametrize("_path", _COVERED)
def test_changed_file_changes_the_digest(copy, _path):
    before = compute_loader_digest(copy)
    with (copy / _path).open("a") as file:
        file.write("\n")

    assert compute_loader_digest(copy) != before


@pytest.mark.parametrize("_change", ["add", "rename", "remove", "move_a_line"])
def test_other_set_of_files_changes_the_digest(copy, _change):
    before = compute_loader_digest(copy)
    first, second = copy / _COVERED[0], copy / "inference/serving/digest.py"
    if _change == "add":
        (copy / "inference/artifact/evil.py").write_text("")
    elif _change == "rename":
        first.rename(first.with_name("loader2.py"))
    elif _change == "remove":
        second.unlink()
    else:
        # The same bytes in the same order, cut at another place.
        head, _, tail = second.read_text().partition("\n")
        second.write_text(tail)
        (second.with_name("demo.py")).write_text(head + "\n")

    assert compute_loader_digest(copy) != before


def test_files_that_do_not_run_in_the_stub_do_not_count(copy):
    before = compute_loader_digest(copy)
    (copy / "inference/serving/notes.txt").write_text("x")
    (copy / "sdk/strongroom/cli.py").write_text("x")

    assert compute_loader_digest(copy) == before


def test_every_module_of_ours_that_the_loader_imports_is_covered():
    modules = run_child(
        """
        import inference.serving.loader, inference.serving.runtimes.onnx
        import inference.serving.runtimes.transformers, inference.serving.runtimes.weights
        ours = ("inference", "strongroom", "marketplace", "billing")
        found = [one for name, one in sys.modules.items() if name.partition(".")[0] in ours]
        answer([str(Path(one.__file__).relative_to(ROOT)) for one in found])
        """
    )

    assert set(modules) <= set(list_files(ROOT))
    assert "inference/serving/runtimes/weights.py" in modules
