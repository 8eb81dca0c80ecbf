"""Who was given the key of a version: fetch the platform's log of it, and check it offline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from strongroom.client import WebClient
from strongroom.commands.context import answer_json, answer_table, as_json, load_web, say
from strongroom.commands.document import read_document, write_document
from strongroom.config import ConfigFolder
from strongroom.errors import StrongroomError
from strongroom.platform_key import follow
from strongroom.sealing import release_log, signature
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.release_log import ReleaseLogError

# The platform exports at most a hundred thousand entries, some 60 MB.
MAX_FILE_BYTES = 256 * 1024 * 1024
_VERSION = re.compile(r"([^/\s:]+/[^/\s:]+):(\d{1,9})")


class AuditError(StrongroomError):
    """The log cannot be fetched or read."""


@click.group()
def audit() -> None:
    """See and check who was given the key of a version.

    The platform's key broker writes an entry each time the key of a version is asked for,
    and signs it. `export` fetches that log, `verify` checks a file without any network:
    that no entry was changed, removed, put in between or cut off.
    """


@audit.command()
@click.argument("version")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; else stdout.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def export(version: str, out: Path | None, force: bool) -> None:
    """Fetch the log of VERSION (owner/name:3), checked before it is written."""
    config, profile, web = load_web()
    document = web.get_release_log(_find_version_id(web, version))
    release_log.verify_export(document, _pinned_keys(config, profile.web_url, document))
    write_document(document, out, force=force)
    if out is not None:
        entries = len(document["entries"])
        say(f"Wrote {entries} entries to {out}. They are as the platform signed them.")


@audit.command()
@click.argument("version")
@click.option(
    "--last",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="How many entries to show.",
)
@as_json
def show(version: str, last: int, is_json: bool) -> None:
    """Show the latest entries of VERSION (owner/name:3), checked."""
    config, profile, web = load_web()
    document = web.get_release_log(_find_version_id(web, version))
    release_log.verify_export(document, _pinned_keys(config, profile.web_url, document))
    entries = document["entries"][-last:]
    if is_json:
        answer_json(entries)
        return
    table = Table("no.", "when", "what", "node", "purpose", "evidence", "lease ends", box=None)
    for one in entries:
        what = f"{one['outcome']} {one['reason_code']}".strip()
        table.add_row(
            str(one["seq"]),
            *(escape(str(one[name] or "")) for name in ("at",)),
            escape(what),
            *(
                escape(str(one[name] or ""))
                for name in ("node_name", "purpose", "evidence", "lease_expires_at")
            ),
        )
    answer_table(table)


@audit.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--previous",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An earlier export: everything in it must still be there.",
)
@click.option(
    "--platform-key",
    "fingerprint",
    help="Fingerprint (SHA256:…) that you got from the platform's operator; else the pinned key.",
)
@as_json
def verify(file: Path, previous: Path | None, fingerprint: str | None, is_json: bool) -> None:
    """Check an exported log offline; exit code 1 names the first entry that is wrong."""
    document = _read(file)
    keys = _trusted_keys(document, fingerprint)
    found = release_log.verify_export(document, keys)
    if previous is not None:
        earlier = _read(previous)
        release_log.verify_export(earlier, keys)
        release_log.check_continues(document, earlier)
    if is_json:
        answer_json({name: getattr(found, name) for name in found.__slots__})
        return
    say(
        f"Right: {found.entries} entries of version {found.artifact_id}, of them "
        f"{found.released} releases and {found.refused} refusals; the log ended there when it "
        f"was exported, {found.checked_at}."
    )
    if found.shredded_at:
        say(f"The platform has signed that it destroyed the key on {found.shredded_at}.")


def _find_version_id(web: WebClient, version: str) -> str:
    match = _VERSION.fullmatch(version)
    if match is None:
        raise AuditError("version_invalid", "Name a version as owner/name:3.")
    for one in web.list_versions(match[1]):
        if one.get("version") == int(match[2]):
            return str(one["id"])
    raise AuditError("version_unknown", f"{match[1]} has no version {match[2]}.")


def _trusted_keys(document: dict[str, Any], fingerprint: str | None) -> list[bytes]:
    if fingerprint is None:
        return _pinned_keys(ConfigFolder(), str(document.get("platform")), document)
    try:
        key = decode_base64(document["platform_key"]["public_key"])
    except (KeyError, TypeError, StrongroomError):
        raise ReleaseLogError("not_a_release_log", "The file names no platform key.") from None
    if signature.fingerprint(key) != fingerprint:
        detail = f"The file was signed by {signature.fingerprint(key)}, not by {fingerprint}."
        raise ReleaseLogError("signature_invalid", detail)
    return [key]


def _pinned_keys(config: ConfigFolder, web_url: str, document: dict[str, Any]) -> list[bytes]:
    """The pinned key, those before it, and those after it that it leads to.

    An entry is signed by the key that the platform had when it was written.
    """
    pinned = config.list_pins(web_url)
    if not pinned:
        detail = f"The key of {web_url} is not known here. Log in, or name it by --platform-key."
        raise AuditError("platform_key_unknown", detail)
    shown = document.get("platform_key")
    if not isinstance(shown, dict):
        return list(pinned)
    try:
        key = decode_base64(shown.get("public_key"), size_bytes=signature.PUBLIC_KEY_BYTES)
    except StrongroomError:
        return list(pinned)
    return [*pinned, *(follow(pinned[0], key, shown.get("successions")) or [])]


def _read(path: Path) -> dict[str, Any]:
    return read_document(
        path,
        max_bytes=MAX_FILE_BYTES,
        refuse=lambda detail: ReleaseLogError("not_a_release_log", detail),
    )
