"""Buy one prediction from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from strongroom.client import PREDICTION_TIMEOUT_S, Client, Prediction, is_private_path
from strongroom.commands.context import answer_json, say
from strongroom.config import ConfigError, ConfigFolder
from strongroom.listing import format_price
from strongroom.media_file import save_media


@click.command()
@click.argument("model")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="KEY=VALUE|@FILE",
    help="One input, or a JSON file with all of them. May be repeated.",
)
@click.option(
    "--key", envvar="STRONGROOM_API_KEY", help="API key (sk_…), or set STRONGROOM_API_KEY."
)
@click.option("--gateway", envvar="STRONGROOM_GATEWAY_URL", help="[default: the login's platform]")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=PREDICTION_TIMEOUT_S,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@click.option("--tag", default="", help="A word of your own, to find and sum its cost by.")
@click.option("--allow-http", is_flag=True, help="Send the key without encryption.")
@click.option("--raw", is_flag=True, help="Answer the whole envelope instead of the output.")
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write sounds and pictures there as files, and print their paths.",
)
def predict(
    model: str,
    inputs: tuple[str, ...],
    key: str | None,
    gateway: str | None,
    timeout_s: float,
    tag: str,
    allow_http: bool,
    raw: bool,
    save: Path | None,
) -> None:
    """Run MODEL (owner/name, owner/name:3, owner/name@channel) and print its output in JSON.

    A VALUE is read as JSON if it is JSON, else as text: age=42 is a number, name=Ada a
    text, and name='"42"' a text of digits. VALUE may be @FILE too: JSON if the file's
    name ends in .json, else its text.
    """
    if not key:
        raise click.UsageError("Missing option '--key' (or STRONGROOM_API_KEY).")
    if not gateway:
        gateway = ConfigFolder().load_profile().gateway_url
        if not gateway:
            raise ConfigError("gateway_unknown", "Name the gateway with --gateway.")
    if not (is_private_path(gateway) or allow_http):
        detail = f"{gateway} is not encrypted. Use https, or --allow-http if you must."
        raise ConfigError("url_insecure", detail)
    values = _read_inputs(inputs)
    with Client(gateway, key) as client:
        prediction = client.predict(model, values, timeout_s=timeout_s, tag=tag)
    answer = dict(prediction.raw)
    if save is not None:
        answer["output"] = _save(prediction, save)
    answer_json(answer if raw else answer["output"])
    if prediction.cost_nanos is not None:
        say(f"Prediction {prediction.id}, {format_price(prediction.cost_nanos)} dollars.")


def _save(prediction: Prediction, folder: Path) -> Any:
    try:
        return save_media(prediction.output, folder, prediction.id)
    except OSError as error:
        # It is paid: what cannot be kept is at least shown.
        say(f"{folder} cannot be written to: {error.strerror}.")
        return prediction.output


def _read_inputs(inputs: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in inputs:
        if one.startswith("@"):
            document = _read_json(Path(one[1:]))
            if not isinstance(document, dict):
                raise click.UsageError(f"--input: {one[1:]} does not hold a JSON object.")
            values |= document
            continue
        name, equals, text = one.partition("=")
        if not (name and equals):
            raise click.UsageError("--input: must be KEY=VALUE or @FILE.")
        values[name] = _read_value(text)
    return values


def _read_value(text: str) -> Any:
    if text.startswith("@"):
        path = Path(text[1:])
        return _read_json(path) if path.suffix == ".json" else _read_text(path)
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except ValueError:
        raise click.UsageError(f"--input: {path} is not valid JSON.") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise click.UsageError(f"--input: {path} cannot be read.") from None
