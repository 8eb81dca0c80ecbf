"""Buy predictions from the command line, and look after those that run later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from strongroom.client import JOB_TIMEOUT_S, PREDICTION_TIMEOUT_S, Prediction
from strongroom.commands.context import answer_json, say
from strongroom.commands.gateway import gateway_options, open_gateway
from strongroom.listing import format_price
from strongroom.media_file import save_media

input_option = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="KEY=VALUE|@FILE",
    help="One input, or a JSON file with all of them. May be repeated.",
)
tag_option = click.option(
    "--tag", default="", help="A word of your own, to find and sum its cost by."
)
raw_option = click.option(
    "--raw", is_flag=True, help="Answer the whole envelope instead of the output."
)
save_option = click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write sounds and pictures there as files, and print their paths.",
)


@click.command()
@click.argument("model")
@input_option
@gateway_options
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=PREDICTION_TIMEOUT_S,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@tag_option
@raw_option
@save_option
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
    values = _read_inputs(inputs)
    with open_gateway(key, gateway, allow_http=allow_http) as client:
        done = client.predict(model, values, timeout_s=timeout_s, tag=tag)
    _answer(done, raw=raw, save=save)


@click.command()
@click.argument("model")
@input_option
@gateway_options
@tag_option
@click.option(
    "--priority",
    type=click.Choice(["high", "normal", "batch"]),
    default="normal",
    show_default=True,
    help="Before or after others.",
)
@click.option("--webhook", default="", help="An address that is told of it.")
@raw_option
def submit(
    model: str,
    inputs: tuple[str, ...],
    key: str | None,
    gateway: str | None,
    allow_http: bool,
    tag: str,
    priority: str,
    webhook: str,
    raw: bool,
) -> None:
    """Put a prediction of MODEL into the queue and print its id instead of waiting.

    Inputs are written as for `predict`. `prediction wait ID` prints the output.
    """
    values = _read_inputs(inputs)
    with open_gateway(key, gateway, allow_http=allow_http) as client:
        made = client.submit(model, values, priority=priority, webhook=webhook, tag=tag)
    answer_json(made if raw else made["id"])
    say("It waits in the queue. Its output:")
    say(f"  strongroom prediction wait {made['id']}")


@click.group()
def prediction() -> None:
    """Look after predictions that run later (`submit`)."""


@prediction.command()
@click.argument("prediction_id", metavar="ID")
@gateway_options
def show(prediction_id: str, key: str | None, gateway: str | None, allow_http: bool) -> None:
    """Print prediction ID as it is now: where it is in the queue, or what it gave."""
    with open_gateway(key, gateway, allow_http=allow_http) as client:
        answer_json(client.get_prediction(prediction_id))


@prediction.command()
@click.argument("prediction_id", metavar="ID")
@gateway_options
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=JOB_TIMEOUT_S,
    show_default=True,
    help="Seconds to wait. It goes on after that.",
)
@raw_option
@save_option
def wait(
    prediction_id: str,
    key: str | None,
    gateway: str | None,
    allow_http: bool,
    timeout_s: float,
    raw: bool,
    save: Path | None,
) -> None:
    """Wait until prediction ID is over, and print its output."""
    told: list[str] = []

    def tell(envelope: dict[str, Any]) -> None:
        text = _describe_progress(envelope)
        if told[-1:] != [text]:
            told.append(text)
            say(text)

    with open_gateway(key, gateway, allow_http=allow_http) as client:
        done = client.wait_for(prediction_id, timeout_s=timeout_s, on_look=tell)
    _answer(done, raw=raw, save=save)


@prediction.command()
@click.argument("prediction_id", metavar="ID")
@gateway_options
def cancel(prediction_id: str, key: str | None, gateway: str | None, allow_http: bool) -> None:
    """Give prediction ID up. What still waits costs nothing."""
    with open_gateway(key, gateway, allow_http=allow_http) as client:
        status = client.cancel_prediction(prediction_id)["status"]
    say(f"Prediction {prediction_id}: {status}.")


def _describe_progress(envelope: dict[str, Any]) -> str:
    progress = envelope.get("progress") or {}
    text = str(progress.get("stage") or envelope.get("status"))
    if "position" in progress:
        text += f", number {progress['position']} in the queue"
    if "eta_s" in progress:
        text += f", some {progress['eta_s']:.0f} s to go"
    return text


def _answer(done: Prediction, *, raw: bool, save: Path | None) -> None:
    answer = dict(done.raw)
    if save is not None:
        answer["output"] = _save(done, save)
    answer_json(answer if raw else answer["output"])
    if done.cost_nanos is not None:
        say(f"Prediction {done.id}, {format_price(done.cost_nanos)} dollars.")


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
