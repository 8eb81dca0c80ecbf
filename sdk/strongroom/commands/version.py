"""Versions that were pushed: bring one back, or seal it anew under another data key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click

from strongroom.client import WebClient
from strongroom.commands.bar import BarReporter
from strongroom.commands.context import (
    answer_json,
    answers,
    as_json,
    check_platform,
    load_web,
    register_signing_key,
    say,
)
from strongroom.config import ConfigError, ConfigFolder, read_recovery_file
from strongroom.push import DEFAULT_THREADS, MAX_THREADS, Push
from strongroom.recover import Recovery
from strongroom.sealed_version import SealedSources, SealedVersion

_recovery_file = click.option(
    "--recovery-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON with the recovery key, as the browser saved it. [default: this machine's]",
)
_signed_by = click.option(
    "--signed-by",
    "signers",
    multiple=True,
    metavar="FINGERPRINT",
    help="Another key of yours that signed the version. [default: this machine's]",
)


class _Reference(click.ParamType):
    """owner/name:3."""

    name = "owner/name:version"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        model, _, number = value.rpartition(":")
        if model.count("/") != 1 or not number.isdecimal() or not 1 <= len(number) <= 6:
            self.fail(f"{value!r} is not of the form owner/name:3.", param, ctx)
        return model, int(number)


@click.command("recover")
@click.argument("version", type=_Reference())
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@_recovery_file
@_signed_by
@as_json
def recover(
    version: tuple[str, int],
    folder: Path,
    recovery_file: Path | None,
    signers: tuple[str, ...],
    is_json: bool,
) -> None:
    """Download a VERSION (owner/name:3) of yours and open it into FOLDER.

    Works with your recovery key alone, also after the platform's own key was destroyed,
    as long as the platform keeps the sealed files. After a cut, the same command goes on.
    """
    config, _, web = load_web()
    opened = _open(web, config, version, recovery_file, signers)
    try:
        with BarReporter("Recovering") as reporter:
            files = Recovery(opened, folder, reporter).run()
    finally:
        opened.wipe()
    if is_json:
        answer_json({"folder": str(folder), "files": [str(one) for one in files]})
    else:
        say(f"Recovered {len(files)} files of {version[0]}:{version[1]} to {folder}.")


@click.command("reseal")
@click.argument("version", type=_Reference())
@_recovery_file
@_signed_by
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    default=DEFAULT_THREADS,
    show_default=True,
    help="Parts sealed and sent at the same time; 64 MiB of memory each.",
)
@click.option("--fresh", is_flag=True, help="Do not go on with an interrupted run.")
@as_json
def reseal(
    version: tuple[str, int],
    recovery_file: Path | None,
    signers: tuple[str, ...],
    threads: int,
    fresh: bool,
    is_json: bool,
) -> None:
    """Seal a VERSION (owner/name:3) of yours anew, under a new data key, as a new version.

    For when somebody may know the data key. Each part is downloaded, opened in memory,
    sealed and sent back; nothing is written to this machine's disk in plain. After a cut,
    the same command goes on where it stopped.
    """
    model, number = version
    config, profile, web = load_web()
    platform_keys = check_platform(config, profile, web)
    opened = _open(web, config, version, recovery_file, signers)
    try:
        identity = config.load_identity()
        register_signing_key(web, model.partition("/")[0], identity)
        with BarReporter("Sealing anew") as reporter:
            made = Push(
                web,
                platform_keys=platform_keys,
                identity=identity,
                # No channel: the old version is taken out of use by its creator, knowingly.
                draft=replace(opened.manifest, publish_channel=None),
                sources=SealedSources(opened),
                state_folder=config.uploads,
                threads=threads,
                reporter=reporter,
            ).run(is_fresh=fresh)
    finally:
        opened.wipe()
    if is_json:
        answer_json(made)
        return
    answers.print(f"{model}:{made.get('version')} {made.get('state')}")
    for line in _next_steps(model, number, made.get("version")):
        say(line)


def _next_steps(model: str, old: int, new: object) -> Iterable[str]:
    yield f"{model}:{old} still serves, under the data key that somebody may know."
    yield f"When {model}:{new} is approved:"
    yield f"  1. strongroom publish {model} {new}"
    yield f"  2. strongroom model withdraw {model}:{old}"
    yield f"  3. strongroom model shred {model}:{old}, so that no copy of it opens any more"


def _open(
    web: WebClient,
    config: ConfigFolder,
    version: tuple[str, int],
    recovery_file: Path | None,
    signers: tuple[str, ...],
) -> SealedVersion:
    known = set(signers)
    if config.has_identity:
        known.add(config.load_identity().fingerprint)
    if recovery_file is not None:
        given = read_recovery_file(recovery_file)
        recovery_key = given.recovery_key
        known |= {given.fingerprint} - {""}
    elif config.has_identity:
        recovery_key = config.load_identity().recovery_key
    else:
        detail = f"There are no keys in {config.root}. Name a file with --recovery-file."
        raise ConfigError("recovery_key_missing", detail)
    return SealedVersion.open(web, *version, recovery_key=recovery_key, signers=known)
