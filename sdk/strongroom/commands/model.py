"""Describe a model, push it, follow its onboarding, and publish it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from strongroom.client import ApiError, WebClient
from strongroom.commands.bar import BarReporter
from strongroom.commands.context import (
    answer_json,
    answer_table,
    answers,
    as_json,
    check_platform,
    is_interactive,
    load_web,
    register_signing_key,
    say,
)
from strongroom.config import ConfigError, ConfigFolder
from strongroom.errors import StrongroomError
from strongroom.inspect import ModelFolder, draft_interface, guess_task, read_folder
from strongroom.interface import MAX_LABELS, Interface
from strongroom.listing import (
    LISTING_FILE,
    PUBLISH_CHANNELS,
    VISIBILITIES,
    Listing,
    ListingError,
    parse_price,
    parse_test_vectors,
)
from strongroom.push import DEFAULT_THREADS, MAX_THREADS, Push
from strongroom.sealing.manifest import TestVector
from strongroom.source import FolderSources

POLL_INTERVAL_S = 1.0
WAIT_TIMEOUT_S = 1800.0
# In these states a version waits for a person, or for nobody any more.
_RESTING_STATES = frozenset(
    {"in_review", "approved", "published", "refused", "failed", "withdrawn"}
)
_REFUSED_STATES = frozenset({"refused", "failed", "withdrawn"})
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


# --- init -------------------------------------------------------------------------


@click.command()
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default="."
)
@click.option("--owner", help="The account that offers the model. [default: the login's]")
@click.option("--name", help="The model's name, as in owner/name. [default: the folder's]")
@click.option("--title", help="The title on the model's page.")
@click.option("--summary", help="One sentence for search results.")
@click.option("--task", help="What it does, such as image-classification. Guessed if possible.")
@click.option("--licence", help="SPDX expression, such as Apache-2.0.")
@click.option("--industry", help="Where it is used, such as health. May be left out.")
@click.option(
    "--visibility",
    type=click.Choice(VISIBILITIES),
    default="public",
    show_default=True,
    help="Private models can be found and run by their own account only.",
)
@click.option("--price", "price", help="Dollars per prediction, such as 0.0005.")
@click.option(
    "--publish",
    type=click.Choice(["prod", "none"]),
    default="prod",
    show_default=True,
    help="Put an approved version on sale at once, or wait for `strongroom publish`.",
)
@click.option("--card", help="Markdown file of the model's page. [default: README.md if there]")
@click.option(
    "--labels-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Names of the classes, one a line (or a JSON list), in the order of the scores.",
)
@click.option(
    "--test-vectors-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSON list of {"input": …, "expected": …, "tolerance": …}.',
)
@click.option("--force", is_flag=True, help="Replace an existing strongroom.toml.")
@as_json
def init(folder: Path, **options: Any) -> None:
    """Look at a model folder and write its strongroom.toml.

    Finds out what the model takes and gives, and asks for what no file says. Nothing is
    sent anywhere. Edit the result, then run `strongroom push`.
    """
    path = folder / LISTING_FILE
    if path.exists() and not options["force"]:
        raise ListingError(LISTING_FILE, "Exists already; --force replaces it.")
    card = options["card"]
    if card is None:
        card = "README.md" if (folder / "README.md").is_file() else ""
    found = read_folder(folder, ignore={card})
    labels = _read_labels(options["labels_file"])
    interface = Interface.parse(draft_interface(found, labels))
    listing = Listing(
        **_ask_for(folder, options, guess_task(found, labels)),
        interface=interface,
        visibility=options["visibility"],
        publish=PUBLISH_CHANNELS[0] if options["publish"] == "prod" else "",
        card=card,
        test_vectors=_ask_vectors(options["test_vectors_file"], interface),
    )
    path.write_text(listing.to_toml(), encoding="utf-8")
    if options["is_json"]:
        answer_json({"path": str(path), "model": listing.model, "interface": interface.to_json()})
        return
    _say_what_was_found(found)
    if not listing.test_vectors:
        say("No test vectors: nobody will notice if the model answers wrongly once it is served.")
    say(f"Wrote {path}. Look it over, then run `strongroom push {folder}`.")


def _ask_for(folder: Path, options: dict[str, Any], task: str) -> dict[str, Any]:
    """What only a person can say: from a flag, a default, or a question."""
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("._-")[:63]
    asker = _Asker(options)
    values = {
        "owner": asker.ask("owner", "Account", _logged_in_account()),
        "name": asker.ask("name", "Name", name, _check_name),
        "title": asker.ask("title", "Title"),
        "task": asker.ask("task", "Task", task),
        "licence": asker.ask("licence", "Licence (SPDX)"),
        "price_nanos": parse_price(
            asker.ask("price", "Dollars per prediction", check=_check_price)
        ),
        "summary": asker.ask("summary", "Summary", "", is_optional=True),
        "industry": asker.ask("industry", "Industry", "", is_optional=True),
    }
    asker.finish()
    return values


class _Asker:
    """Takes flags; asks for the rest on a terminal; else collects what is missing."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._is_interactive = is_interactive()
        self._missing: list[str] = []

    def ask(
        self,
        name: str,
        question: str,
        default: str = "",
        check: Callable[[str], str] = str,
        *,
        is_optional: bool = False,
    ) -> str:
        given = self._options[name]
        if given is not None:
            return check(given)
        if self._is_interactive:
            answer = click.prompt(
                question,
                default=default if default or is_optional else None,
                show_default=bool(default),
                value_proc=check,
                err=True,
            )
            return str(answer)
        if default or is_optional:
            return default
        self._missing.append(f"--{name}")
        return "0"

    def finish(self) -> None:
        if self._missing:
            raise click.UsageError(f"Missing option {', '.join(self._missing)}.")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        detail = "Lowercase letters and digits, with dots, hyphens and underscores inside."
        raise click.UsageError(f"--name: {detail}")
    return name


def _check_price(price: str) -> str:
    try:
        parse_price(price)
    except ListingError as error:
        raise click.UsageError(f"--price: {error.detail}") from None
    return price


def _logged_in_account() -> str:
    try:
        return ConfigFolder().load_profile().account
    except ConfigError:
        return ""


def _read_labels(path: Path | None) -> list[str]:
    if path is None:
        return []
    text = path.read_text(encoding="utf-8")
    try:
        labels = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except ValueError:
        labels = None
    if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
        raise click.UsageError("--labels-file: must hold one label a line, or a JSON list.")
    labels = [one.strip() for one in labels if one.strip()]
    if not 1 <= len(labels) <= MAX_LABELS:
        raise click.UsageError(f"--labels-file: must hold 1 to {MAX_LABELS} labels.")
    return labels


def _ask_vectors(path: Path | None, interface: Interface) -> tuple[TestVector, ...]:
    """The test vectors of the flag's file, or of one that a person names; they may have none."""
    if path is not None:
        return _read_vectors(path, interface)
    if not is_interactive():
        return ()
    vectors: tuple[TestVector, ...] = click.prompt(
        "File of test vectors (JSON)",
        default="",
        show_default=False,
        value_proc=lambda text: _read_named_vectors(text.strip(), interface),
        err=True,
    )
    return vectors


def _read_named_vectors(name: str, interface: Interface) -> tuple[TestVector, ...]:
    """What a faulty answer raises makes the question be asked again."""
    if not name:
        return ()
    try:
        return _read_vectors(Path(name).expanduser(), interface)
    except (OSError, RuntimeError) as error:
        raise click.UsageError(f"{name}: {error}") from None
    except ListingError as error:
        raise click.UsageError(error.detail) from None


def _read_vectors(path: Path, interface: Interface) -> tuple[TestVector, ...]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise click.UsageError("--test-vectors-file: is not valid JSON.") from None
    return parse_test_vectors(value, interface)


def _say_what_was_found(found: ModelFolder) -> None:
    say(f"Runtime {found.runtime}; {len(found.files)} files, {found.size_bytes:,} bytes:")
    for one in found.files:
        say(f"  {one.kind:<16} {one.path}")
    if found.ignored:
        say(f"Not sent: {', '.join(found.ignored)}.")


# --- push -------------------------------------------------------------------------


@click.command()
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default="."
)
@click.option("--wait", "is_waiting", is_flag=True, help="Follow the onboarding to its end.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=WAIT_TIMEOUT_S,
    show_default=True,
    help="Seconds to wait with --wait.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    default=DEFAULT_THREADS,
    show_default=True,
    help="Parts sealed and sent at the same time; 64 MiB of memory each.",
)
@click.option("--fresh", is_flag=True, help="Do not go on with an interrupted push.")
@as_json
def push(
    folder: Path, is_waiting: bool, timeout_s: float, threads: int, fresh: bool, is_json: bool
) -> None:
    """Seal a model folder on this machine and upload it as a new version.

    Reads strongroom.toml, updates the model's listing and price, and sends sealed parts.
    After a cut, the same command goes on where it stopped.
    """
    listing = Listing.load(folder)
    card = listing.read_card(folder)
    found = read_folder(folder, ignore={listing.card})
    config, profile, web = load_web()
    platform_keys = check_platform(config, profile, web)
    identity = config.load_identity()
    _say_what_was_found(found)
    web.put_model(listing.model, _listing_fields(listing, card))
    web.put_price(listing.model, listing.price_nanos)
    register_signing_key(web, listing.owner, identity)
    with BarReporter("Uploading") as reporter:
        version = Push(
            web,
            platform_keys=platform_keys,
            identity=identity,
            draft=listing.draft_manifest(found.runtime),
            sources=FolderSources(found),
            state_folder=config.uploads,
            threads=threads,
            reporter=reporter,
        ).run(is_fresh=fresh)
    if is_waiting:
        version = _follow(web, version, listing.publish, timeout_s)
    if is_json:
        answer_json(version)
    else:
        answers.print(f"{listing.model}:{version.get('version')} {version.get('state')}")
    if is_waiting and version.get("state") in _REFUSED_STATES:
        raise _find_reason(version)


def _listing_fields(listing: Listing, card: str) -> dict[str, Any]:
    return {
        "title": listing.title,
        "summary": listing.summary,
        "card": card,
        "task": listing.task,
        "licence": listing.licence,
        "industry": listing.industry,
        "visibility": listing.visibility,
    }


def _follow(
    web: WebClient, version: dict[str, Any], channel: str, timeout_s: float
) -> dict[str, Any]:
    """Tell each change of each step, until the version rests."""
    ends_at = time.monotonic() + timeout_s
    told: dict[str, str] = {}
    while True:
        version = web.get_version(str(version["id"]))
        for step in version.get("steps") or []:
            name, state = str(step.get("name")), str(step.get("state"))
            if state != "pending" and told.get(name) != state:
                told[name] = state
                reason = f" ({step['reason_code']})" if step.get("reason_code") else ""
                say(f"  {name:<10} {state}{reason}")
        if _is_resting(version, channel):
            return version
        if time.monotonic() >= ends_at:
            detail = f"The version is still {version.get('state')}. Onboarding goes on."
            raise ApiError("deadline", detail)
        time.sleep(POLL_INTERVAL_S)


def _is_resting(version: dict[str, Any], channel: str) -> bool:
    """True if nothing will change without a person; what is approved may be on its way."""
    state = version.get("state")
    if state == "approved" and channel:
        return channel in (version.get("channels") or [])
    return state in _RESTING_STATES


def _find_reason(version: dict[str, Any]) -> StrongroomError:
    for step in version.get("steps") or []:
        if step.get("state") == "failed":
            code = str(step.get("reason_code") or "onboarding_failed")
            last = str(step.get("log") or "").strip().splitlines()[-1:]
            return ApiError(code, f"The step {step.get('name')} failed. {' '.join(last)}".strip())
    detail = str(version.get("refusal_reason") or f"The version is {version.get('state')}.")
    return ApiError(f"version_{version.get('state')}", detail)


# --- versions, publish ------------------------------------------------------------


@click.command()
@click.argument("model")
@as_json
def versions(model: str, is_json: bool) -> None:
    """List the versions of a model (owner/name)."""
    _, _, web = load_web()
    found = web.list_versions(model)
    if is_json:
        answer_json(found)
        return
    table = Table("version", "state", "channels", "created", "reason", box=None)
    for one in found:
        reason = one.get("refusal_reason") or ", ".join(
            str(step["reason_code"]) for step in one.get("steps") or [] if step.get("reason_code")
        )
        table.add_row(
            str(one.get("version")),
            str(one.get("state")),
            ", ".join(one.get("channels") or []),
            str(one.get("created_at") or ""),
            escape(str(reason or "")),
        )
    answer_table(table)


@click.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(min=1))
@click.option(
    "--channel",
    type=click.Choice(["dev", "staging", "prod"]),
    default="prod",
    show_default=True,
    help="Consumers follow prod unless they ask for something else.",
)
@as_json
def publish(model: str, version: int, channel: str, is_json: bool) -> None:
    """Move a channel of a model (owner/name) to a VERSION."""
    _, _, web = load_web()
    answer = web.put_channel(model, channel, version)
    if is_json:
        answer_json(answer)
        return
    say(f"{model}@{channel} is now version {version}.")


# --- model: what cannot be undone ---------------------------------------------------


@click.group()
def model() -> None:
    """Versions that were pushed: recover, reseal, withdraw, shred."""


def _confirm(is_confirmed: bool, name: str, consequence: str) -> None:
    """Have a person type the name, unless it was said that they mean it."""
    if is_confirmed:
        return
    if not is_interactive():
        raise click.UsageError("--yes is needed where nobody can be asked.")
    say(consequence)
    if click.prompt(f"Type {name} to go on", default="", show_default=False, err=True) != name:
        raise StrongroomError("not_confirmed", "Nothing was changed.")


def _parse_version(text: str, *, is_optional: bool = False) -> tuple[str, int | None]:
    name, colon, number = text.partition(":")
    if not colon and is_optional:
        return name, None
    if not number.isdecimal() or len(number) > 6 or int(number) < 1:
        raise click.UsageError(f"{text[:200]!r} is not of the form owner/name:3.")
    return name, int(number)


_yes = click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask.")


@model.command()
@click.argument("version")
@_yes
@as_json
def withdraw(version: str, is_confirmed: bool, is_json: bool) -> None:
    """Take a VERSION (owner/name:3) out of service for good.

    It is unloaded at once. Its files stay, and can still be opened with the platform's keys:
    `strongroom model shred` ends that as well.
    """
    name, number = _parse_version(version)
    assert number is not None
    _, _, web = load_web()
    _confirm(is_confirmed, version, f"{version} is never served again.")
    answer = web.withdraw_version(name, number)
    if is_json:
        answer_json(answer)
        return
    say(f"{version} is withdrawn.")


@model.command()
@click.argument("subject")
@click.option(
    "--reason", default="Shredded by its creator.", show_default=True, help="Stands in the proof."
)
@_yes
@as_json
def shred(subject: str, reason: str, is_confirmed: bool, is_json: bool) -> None:
    """Destroy the platform's key of a version (owner/name:3), or all keys of a model (owner/name).

    What the platform has of it, backups included, can never be opened again; your own recovery key
    still opens it. Versions must be withdrawn first. Prints the signed proof with --json.
    """
    name, number = _parse_version(subject, is_optional=True)
    _, _, web = load_web()
    consequence = f"The platform can never open {subject} again."
    if number is None:
        consequence += " Nor can any other version be pushed to it."
    _confirm(is_confirmed, subject, consequence)
    proof = web.shred(name, number, reason)
    if is_json:
        answer_json(proof)
        return
    keys = len(proof.get("kek_refs") or [])
    say(f"{subject} is shredded: {keys} keys were destroyed ({proof.get('provider')}).")
    if str(proof.get("final_at")) > str(proof.get("at")):
        say(f"The key store makes it final at {proof.get('final_at')}.")
