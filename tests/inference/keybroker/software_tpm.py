"""A TPM in software, as a node's machine has one in hardware."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

AK_HANDLE = "0x81010002"
START_TIMEOUT_S = 20.0
_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"


@dataclass
class SoftwareTpm:
    """A running one, with an attestation key at `AK_HANDLE`."""

    environment: dict[str, str]
    folder: Path

    def run(self, *command: str) -> str:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout

    def extend(self, register: int, digest: str) -> None:
        """Measure something into a register, as firmware does on the way up."""
        self.run("tpm2_pcrextend", f"{register}:sha256={digest}")

    def make_key(self, algorithm: str) -> None:
        for name in ("primary.ctx", "ak.pub", "ak.priv", "ak.ctx"):
            (self.folder / name).unlink(missing_ok=True)
        flush = ("tpm2_flushcontext", "-t")
        self.run("tpm2_createprimary", "-Q", "-C", "o", "-c", "primary.ctx")
        self.run(*flush)
        create = f"tpm2_create -Q -C primary.ctx -G {algorithm} -u ak.pub -r ak.priv"
        self.run(*create.split(), "-a", _ATTRIBUTES)
        self.run(*flush)
        load = "tpm2_load -Q -C primary.ctx -u ak.pub -r ak.priv -c ak.ctx"
        self.run(*load.split())
        self.run(*flush)
        self.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "ak.ctx", AK_HANDLE)
        self.run(*flush)


@contextmanager
def start_tpm(folder: Path, algorithm: str) -> Iterator[SoftwareTpm]:
    """Start one; `algorithm` is of the attestation key, as tpm2-tools name it."""
    # A socket's path has at most 107 letters.
    sockets = Path(tempfile.mkdtemp(prefix="tpm-"))
    state = folder / "tpm"
    state.mkdir()
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"]
    command += ["--server", f"type=unixio,path={sockets}/s"]
    # The tools look for it there.
    command += ["--ctrl", f"type=unixio,path={sockets}/s.ctrl"]
    command += ["--flags", "not-need-init,startup-clear"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        tcti = f"swtpm:path={sockets}/s"
        tpm = SoftwareTpm({"PATH": os.environ["PATH"], "TPM2TOOLS_TCTI": tcti}, folder)
        _wait_for(tpm)
        tpm.make_key(algorithm)
        yield tpm
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(sockets)


def _wait_for(tpm: SoftwareTpm) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            tpm.run("tpm2_getcap", "properties-fixed")
        except subprocess.CalledProcessError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
