"""Batches from the command line: a file of inputs in, files of outputs and errors out."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO

import click

from strongroom.client import ApiError, Transport
from strongroom.commands.api_key import allow_http_option, check_way, key_option, need_key
from strongroom.commands.context import answer_json, say
from strongroom.config import ConfigFolder
from strongroom.listing import format_price

_OPEN = frozenset({"reading", "running", "paused", "canceling", "expiring"})
_POLL_S = 3.0
_CHUNK_BYTES = 256 * 1024
# A whole file is sent and sealed before the answer comes.
_SEND_TIMEOUT_S = 300.0


def _with_platform(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the platform, with the key of its options."""

    @key_option
    @click.option("--url", envvar="STRONGROOM_WEB_URL", help="[default: the login's platform]")
    @allow_http_option
    @wraps(command)
    def wrapped(key: str | None, url: str | None, allow_http: bool, **said: Any) -> None:
        key = need_key(key)
        url = url or ConfigFolder().load_profile().web_url
        check_way(url, allow_http=allow_http)
        transport = Transport(url, key)
        try:
            command(transport, **said)
        finally:
            transport.close()

    return wrapped


@click.group()
def batch() -> None:
    """Run a model on each line of a file."""


@batch.command()
@click.argument("model")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tag", default="", help="A word of your own, to find and sum its cost by.")
@click.option("--name", default="", help="For people; by default that of the file.")
@click.option("--webhook", default="", help="An address that is told when all is over.")
@click.option("--cancel-after", "cancel_after_s", type=int, help="Seconds; by default a day.")
@_with_platform
def create(transport: Transport, model: str, file: Path, **said: Any) -> None:
    """Begin a batch of MODEL (owner/name) with FILE, and print its id.

    Each line of FILE is an object with "input" and, if you like, "custom_id". Files up to
    16 MiB are sent like this; larger ones are uploaded first.
    """
    params = {name: str(value) for name, value in said.items() if value}
    params = {"model": model, "name": file.name} | params
    found = transport.call(
        "POST",
        "/api/batches",
        content=lambda: _read_file(file),
        headers={
            "Content-Type": "application/jsonl",
            "Content-Length": str(file.stat().st_size),
            "Idempotency-Key": str(uuid.uuid4()),
        },
        params=params,
        # With its key the same request again begins nothing.
        is_idempotent=True,
        timeout_s=_SEND_TIMEOUT_S,
    )
    click.echo(found["id"])


@batch.command()
@click.argument("batch_id")
@_with_platform
def status(transport: Transport, batch_id: str) -> None:
    """Print how far BATCH_ID is, in JSON."""
    answer_json(_get(transport, batch_id))


@batch.command()
@click.argument("batch_id")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=1), help="Seconds to wait.")
@_with_platform
def wait(transport: Transport, batch_id: str, timeout_s: float | None) -> None:
    """Wait until BATCH_ID is over; exit code 1 unless it has completed."""
    ends_s = None if timeout_s is None else time.monotonic() + timeout_s
    told = ""
    while True:
        found = _get(transport, batch_id)
        if (text := _tell(found)) != told:
            say(text)
            told = text
        if found["status"] not in _OPEN:
            break
        if ends_s is not None and time.monotonic() >= ends_s:
            raise ApiError("deadline", "The batch is not over yet.")
        time.sleep(_POLL_S)
    if found["status"] != "completed":
        raise ApiError(f"batch_{found['status']}", found["detail"] or "It has not completed.")


@batch.command()
@click.argument("batch_id")
@click.option("--errors", is_flag=True, help="The lines that failed, instead of the others.")
@click.option("-o", "--out", type=click.File("wb"), default="-", help="[default: stdout]")
@_with_platform
def output(transport: Transport, batch_id: str, errors: bool, out: BinaryIO) -> None:
    """Write what came out of BATCH_ID as JSON Lines, in the order of its file."""
    what = "errors" if errors else "output"
    out.writelines(transport.stream(f"/api/batches/{batch_id}/{what}"))


@batch.command()
@click.argument("batch_id")
@_with_platform
def cancel(transport: Transport, batch_id: str) -> None:
    """Give up what of BATCH_ID has not run."""
    say(_tell(transport.call("POST", f"/api/batches/{batch_id}/cancel")))


@batch.command()
@click.argument("batch_id")
@_with_platform
def resume(transport: Transport, batch_id: str) -> None:
    """Have BATCH_ID, which is paused, go on now."""
    say(_tell(transport.call("POST", f"/api/batches/{batch_id}/resume")))


def _get(transport: Transport, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = transport.call("GET", f"/api/batches/{batch_id}")
    return found


def _tell(found: dict[str, Any]) -> str:
    counts = found["counts"]
    done = counts["succeeded"] + counts["failed"] + counts["canceled"]
    text = f"{found['status']}: {done} of {counts['total']} lines, {counts['failed']} failed, "
    text += f"{format_price(found['cost_nano_usd'])} dollars"
    return f"{text} ({found['detail']})" if found["reason"] else text


def _read_file(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        yield from iter(lambda: stream.read(_CHUNK_BYTES), b"")
