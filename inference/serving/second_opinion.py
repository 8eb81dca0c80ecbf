"""A second opinion on the files of a version that is scanned: that of modelaudit.

Our validators say what a file may be; that is the real control. modelaudit knows what
attacks have looked like so far: it is depth, and it fails closed. It only opens paths, and
plaintext has none. So before the sandbox closes, each file gets an empty memfd and a link
to it in a folder of this replica's own; after decryption the memfd is filled, locked,
closed to further writing, looked at, overwritten and closed. The folder holds names
alone, and what they lead to exists for this process only: the memory is on no disk, in no
`/dev/shm`, and the kernel opens `/proc/self/fd` of an undumpable process to nobody else.

Only loads with the purpose `scan` import this.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import mmap
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from inference.serving import kernel
from inference.serving.decryption import PlainFile
from inference.serving.errors import LoadError
from strongroom.sealing.manifest import Manifest

SCANNER = "modelaudit"
# All files of a version together; less than what the node waits for a load.
TIME_LIMIT_S = 150.0
# What of the findings goes into the report, and how many rules a refusal names.
FINDINGS_MAX = 20
RULES_MAX = 8

# Weights must have been looked at by the scanner that knows them, not waved through.
_EXPECTED_SCANNERS: Mapping[str, str] = {"onnx": "onnx", "safetensors": "safetensors"}

# Where an analysis that did not come to its end is no reason to refuse.
_INCOMPLETE_ALLOWED = frozenset(
    {
        # Statistics over the weights, which look for planted neurons. It leaves out biases
        # and embeddings of every honest graph; nothing that could run is left out.
        "onnx_weight_distribution_analysis_incomplete",
    }
)
_INCOMPLETE_ALLOWED_WITH_EXTERNAL_DATA = frozenset(
    {
        # onnx.checker is not called where weights lie in other files. Our own parser has
        # checked the graph, and which files it may name.
        "onnx_schema_validation_failed",
    }
)
# Rules whose critical findings are known to be wrong about honest files; a line here needs
# such a file as a test. Without external data there is none.
_CRITICAL_ALLOWED_WITH_EXTERNAL_DATA = frozenset(
    {
        # "Resolves through a symlink": the link is ours. An artifact has no links, and paths
        # that lead out of its folder have rules of their own (S402, S405).
        "S406",
    }
)

_REFUSING, _ALLOWED = "critical", "allowed"
_RULE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_MADV_DONTDUMP = 16
_MLOCK_ONFAULT = 1
# New maps and writes are refused; the map that exists stays writable, to be wiped.
_SEAL_FUTURE_WRITE = 0x10
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | _SEAL_FUTURE_WRITE

Scan = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class _Finding:
    rule: str
    severity: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one file will be: a link, and the memfd that it leads to."""

    link: Path
    handle: int


class SecondOpinion:
    """Asks modelaudit; `prepare` before the sandbox closes, `ask` after decryption.

    Args:
        places: One for each file of the manifest, in its order.
        scan: Takes a path, returns modelaudit's result.
    """

    def __init__(self, places: Sequence[_Place], scan: Scan) -> None:
        self._places = places
        self._scan = scan
        self._unused = {one.handle for one in places}

    @classmethod
    def prepare(cls, manifest: Manifest, folder: Path) -> SecondOpinion:
        """Import the scanner, and make links and memfds.

        Args:
            manifest: Names the files; its paths have been checked.
            folder: Of this replica; whoever removes the replica removes it.

        Raises:
            LoadError: `second_opinion_failed`.
        """
        scan = _import_scanner()
        places = []
        try:
            for one in manifest.files:
                link = folder / PurePosixPath(one.path)
                link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                handle = os.memfd_create("plain", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                places.append(_Place(link, handle))
                link.symlink_to(f"/proc/self/fd/{handle}")
        except OSError as error:
            for place in places:
                os.close(place.handle)
            detail = f"No memory could be shown to the scanner: {error.strerror}."
            raise LoadError("second_opinion_failed", detail) from None
        return cls(places, scan)

    def ask(self, files: Sequence[PlainFile]) -> dict[str, Any]:
        """Have every file looked at; returns what goes into the report.

        Graphs and their external data are looked at together. Of other files one at a time
        is held twice.

        Raises:
            LoadError: `second_opinion_refused`, or `second_opinion_failed` where the
                scanner broke, did not come to its end, or not to one in time.
        """
        begin = time.monotonic()
        deadline = begin + TIME_LIMIT_S
        findings: list[_Finding] = []
        has_external_data = any(one.kind == "external_data" for one in files)
        pairs = list(zip(files, self._places, strict=True))
        groups = [pairs] if has_external_data else [[one] for one in pairs]
        with _quiet():
            for group in groups:
                with ExitStack() as shown:
                    for file, place in group:
                        self._unused.discard(place.handle)
                        shown.enter_context(_filled(place.handle, file.data))
                    for file, place in group:
                        result = self._look(place.link, deadline)
                        found = _read_findings(result, has_external_data=has_external_data)
                        _refuse_critical(found)
                        _check_coverage(file, result, has_external_data=has_external_data)
                        findings += found
        return {
            "scanner": SCANNER,
            "version": version(SCANNER),
            "duration_s": round(time.monotonic() - begin, 3),
            "clean": not findings,
            "findings": _summarise(findings),
        }

    def close(self) -> None:
        """Close what was not used; what was is closed already."""
        while self._unused:
            os.close(self._unused.pop())

    def _look(self, path: Path, deadline: float) -> Any:
        """Scan in a thread: a scanner that hangs must not keep the load hanging."""
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append(self._scan(str(path)))
            # A panic of the scanner's Rust is no Exception.
            except BaseException as error:  # noqa: BLE001 - its text may quote the file
                outcome.append(error)

        thread = threading.Thread(target=run, name="scan", daemon=True)
        thread.start()
        thread.join(max(0.0, deadline - time.monotonic()))
        if not outcome:
            detail = f"The scanner did not come to an end within {TIME_LIMIT_S:g} s."
            raise LoadError("second_opinion_failed", detail)
        if isinstance(outcome[0], BaseException):
            detail = f"The scanner failed ({type(outcome[0]).__name__})."
            raise LoadError("second_opinion_failed", detail)
        return outcome[0]


def _import_scanner() -> Scan:
    # Its caches and its reports to its makers are switched off; see environment.py.
    try:
        from modelaudit.core import scan_file
    except ImportError as error:
        detail = f"The scanner is not installed ({type(error).__name__})."
        raise LoadError("second_opinion_failed", detail) from None
    config = {"cache_enabled": False, "timeout": int(TIME_LIMIT_S)}
    return lambda path: scan_file(path, dict(config))


@contextmanager
def _filled(handle: int, content: memoryview) -> Iterator[None]:
    """A memfd with this content, overwritten and closed at the end of the block."""
    try:
        if not content:
            yield
            return
        os.ftruncate(handle, len(content))
        with mmap.mmap(handle, len(content)) as mapped:
            address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
            try:
                kernel.libc.madvise(address, len(content), _MADV_DONTDUMP)
                # Where the limit does not allow it, `locked_scope` of the load says so.
                kernel.libc.mlock2(address, len(content), _MLOCK_ONFAULT)
                mapped[:] = content
                fcntl.fcntl(handle, fcntl.F_ADD_SEALS, _SEALS)
                yield
            finally:
                ctypes.memset(address, 0, len(content))
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from None
        detail = f"A file could not be shown to the scanner: {error.strerror}."
        raise LoadError("second_opinion_failed", detail) from None
    finally:
        os.close(handle)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the scanner write nothing into Triton's log: it may quote what it reads."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _check_coverage(file: PlainFile, result: Any, *, has_external_data: bool) -> None:
    """Refuse to go on where the scanner has not seen all that it should."""
    expected = _EXPECTED_SCANNERS.get(file.kind)
    if expected is not None and result.scanner_name != expected:
        detail = f"The scanner did not take {file.path[:100]} for what it is."
        raise LoadError("second_opinion_failed", detail)
    reasons = set(result.metadata.get("scan_outcome_reasons") or ())
    allowed = _INCOMPLETE_ALLOWED
    if has_external_data:
        allowed |= _INCOMPLETE_ALLOWED_WITH_EXTERNAL_DATA
    left = sorted(_clean(one) for one in reasons - allowed)
    is_unexplained = not result.success and not reasons
    if left or is_unexplained or result.metadata.get("operational_error"):
        named = ", ".join(left[:RULES_MAX]) or "no reason given"
        detail = f"The scanner did not look at all of {file.path[:100]}: {named}."
        raise LoadError("second_opinion_failed", detail)


def _read_findings(result: Any, *, has_external_data: bool) -> list[_Finding]:
    allowed = _CRITICAL_ALLOWED_WITH_EXTERNAL_DATA if has_external_data else frozenset()
    found = []
    for one in result.issues:
        rule, severity = _clean(one.rule_code or one.type), str(one.severity.value)
        is_allowed = severity == _REFUSING and rule in allowed
        found.append(_Finding(rule, _ALLOWED if is_allowed else severity))
    return found


def _refuse_critical(findings: Sequence[_Finding]) -> None:
    rules = {one.rule for one in findings if one.severity == _REFUSING}
    if rules:
        named = ", ".join(sorted(rules)[:RULES_MAX])
        raise LoadError("second_opinion_refused", f"{SCANNER} found what it refuses: {named}.")


def _summarise(findings: Sequence[_Finding]) -> list[dict[str, Any]]:
    """How often each rule was broken, worst first; never what stood in the file."""
    order = ("warning", "info", "debug", _ALLOWED)
    counted = Counter(findings)
    ranked = sorted(counted, key=lambda one: (order.index(one.severity), one.rule))
    return [
        {"rule": one.rule, "severity": one.severity, "count": counted[one]}
        for one in ranked[:FINDINGS_MAX]
    ]


def _clean(name: Any) -> str:
    """A rule's name as the scanner spells it; anything else is not repeated."""
    text = str(name)
    return text if _RULE.fullmatch(text) else "unnamed"
