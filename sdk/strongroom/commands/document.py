"""Documents that prove something: JSON files, written once and read with care."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from strongroom.errors import StrongroomError


class DocumentFileError(StrongroomError):
    """A file cannot be read or written."""


def write_document(document: dict[str, Any], out: Path | None, *, force: bool) -> None:
    """Write a document to a file, or to stdout if there is none to write to.

    Raises:
        DocumentFileError: `file_exists` without `force`, `file_unwritable`.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False)
    if out is None:
        click.echo(text)
        return
    try:
        with out.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        detail = f"{out} exists already; --force replaces it, or keep both to compare them."
        raise DocumentFileError("file_exists", detail) from None
    except OSError as error:
        raise DocumentFileError("file_unwritable", f"{out}: {error.strerror}.") from None


def save_pieces(
    pieces: Iterable[bytes], out: Path, *, force: bool, check: Callable[[Path], object]
) -> None:
    """Write a document as it comes; it gets its name once it is whole and was checked.

    Args:
        pieces: Its bytes.
        out: The file.
        force: Whether it may replace one that is there; that one stays until then.
        check: Raises if what was written is not what was wanted.

    Raises:
        DocumentFileError: `file_exists` without `force`, `file_unwritable`.
    """
    if out.exists() and not force:
        raise DocumentFileError("file_exists", f"{out} exists already; --force replaces it.")
    part = out.with_name(f"{out.name}.part")
    try:
        with part.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        check(part)
        part.replace(out)
    except OSError as error:
        raise DocumentFileError("file_unwritable", f"{out}: {error.strerror}.") from None
    finally:
        part.unlink(missing_ok=True)


def read_document(
    path: Path, *, max_bytes: int, refuse: Callable[[str], StrongroomError]
) -> dict[str, Any]:
    """Read a document.

    Args:
        path: The file.
        max_bytes: The most that is read.
        refuse: Makes the error for what is no JSON object, of a sentence that says why.

    Raises:
        DocumentFileError: `file_too_large`.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise DocumentFileError("file_too_large", f"{path} has more than {max_bytes} bytes.")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        raise refuse(f"{path} is no JSON file.") from None
    if not isinstance(document, dict):
        raise refuse(f"{path} is no JSON object.")
    return document
