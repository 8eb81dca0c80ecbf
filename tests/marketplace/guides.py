"""What guides tell readers to type, held to what is there: commands, addresses, bodies."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click
import jsonschema
from click.core import UNSET
from django.core.management import CommandError, get_commands, load_command_class
from markdown_it import MarkdownIt

from marketplace.selectors.docs import FOLDER, GATEWAY_STAND_IN, WEB_STAND_IN
from strongroom.cli import main as strongroom

GUIDES = sorted((FOLDER / "guides").rglob("*.md"))
# Of the shell itself, or of Python's.
PLAIN = {"export", "pip install ./sdk"}
DOCUMENTS = {
    host: json.loads((FOLDER / "reference" / f"{name}.json").read_text())
    for host, name in ((GATEWAY_STAND_IN, "gateway"), (WEB_STAND_IN, "management"))
}


class WrongGuideError(Exception):
    """A guide tells readers to do what cannot be done."""


@dataclass(frozen=True)
class Block:
    """A block of code of a guide."""

    guide: str
    language: str
    text: str


def list_blocks(text: str, guide: str = "") -> list[Block]:
    tokens = MarkdownIt("commonmark").parse(text)
    return [
        Block(guide, one.info.partition(" ")[0], one.content)
        for one in tokens
        if one.type == "fence"
    ]


def all_blocks() -> list[Block]:
    return [block for path in GUIDES for block in list_blocks(path.read_text(), path.stem)]


def list_lines(block: Block) -> list[str]:
    """The commands of a block; a backslash at the end of a line goes on with the next."""
    joined = block.text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


def check_block(block: Block) -> None:
    match block.language:
        case "bash":
            for line in list_lines(block):
                check_line(line)
        case "python":
            ast.parse(block.text)
        case "json":
            json.loads(block.text)
        case "toml":
            pass  # Checked against the SDK's own parser, in the test of its guide.
        case "javascript":
            pass  # Run by Node, in tests/inference/test_webhook_guide.py.
        case other:
            raise WrongGuideError(f"Nobody checks code in {other!r}.")


def check_line(line: str) -> None:
    words = shlex.split(line)
    match words:
        case ["strongroom", *rest]:
            check_command(rest)
        case ["curl", *rest]:
            check_curl(rest)
        case ["python", "manage.py", name, *rest]:
            check_manage(name, rest)
        case _ if not any(line == one or line.startswith(f"{one} ") for one in PLAIN):
            raise WrongGuideError(f"Nobody knows how to check: {line}")


def check_command(words: list[str], *, is_whole: bool = True) -> None:
    """The command is there, and takes these options; all that it needs, if it is whole."""
    if words == ["--version"]:
        return
    command: click.Command = strongroom
    rest = list(words)
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    if isinstance(command, click.Group):
        if rest or is_whole:
            raise WrongGuideError(f"strongroom has no command {' '.join(words)!r}.")
        return
    parser = command.make_parser(click.Context(command))
    try:
        given, extra, _ = parser.parse_args(rest)
    except click.UsageError as error:
        raise WrongGuideError(f"strongroom {' '.join(words)}: {error.message}") from None
    missing = [
        one.name
        for one in command.params
        if one.required and given.get(one.name) in (None, (), UNSET) and is_whole
    ]
    if extra or missing:
        raise WrongGuideError(f"strongroom {' '.join(words)}: {extra or missing}")


def check_manage(name: str, words: list[str]) -> None:
    app = get_commands().get(name)
    if app is None:
        raise WrongGuideError(f"manage.py has no command {name!r}.")
    parser = load_command_class(app, name).create_parser("manage.py", name)
    parser.called_from_command_line = False
    try:
        parser.parse_args(words)
    except CommandError as error:
        raise WrongGuideError(f"manage.py {name}: {error}") from None


def check_curl(words: list[str]) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="body")
    parser.add_argument("-N", action="store_true")
    given = parser.parse_args(words)
    method = (given.method or ("POST" if given.body else "GET")).lower()
    check_call(given.url, method, given.body)


def check_call(url: str, method: str, body: str | None) -> None:
    """A document names the address with the method, and its schema allows the body."""
    parts = urlsplit(url)
    document = DOCUMENTS.get(f"{parts.scheme}://{parts.netloc}")
    if document is None:
        raise WrongGuideError(f"{url} is no address of ours.")
    operation = find_operation(document, parts.path, method)
    if operation is None:
        raise WrongGuideError(f"No document has {method.upper()} {parts.path}.")
    if body is not None:
        content = operation.get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if schema is None:
            raise WrongGuideError(f"{method.upper()} {parts.path} takes no JSON.")
        check_body(document, schema, body)


def find_operation(document: dict, path: str, method: str) -> dict | None:
    for template, item in document["paths"].items():
        form = re.sub(r"\{\w+\}", "[^/]+", template)
        if re.fullmatch(form, path) and method in item:
            return item[method]
    return None


def check_body(document: dict, schema: dict, body: str) -> None:
    try:
        jsonschema.validate(json.loads(body), schema | {"components": document["components"]})
    except (ValueError, jsonschema.ValidationError) as error:
        raise WrongGuideError(f"{body}: {error}") from None


def list_spans(text: str) -> Iterator[str]:
    """What prose names as a command, between backticks."""
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if span.startswith("strongroom "):
            yield span.removeprefix("strongroom ")


def check_guide(text: str) -> None:
    """All that a guide tells readers to type."""
    for block in list_blocks(text):
        check_block(block)
    for span in list_spans(text):
        check_command(shlex.split(span), is_whole=False)


def read_guide(name: str) -> str:
    path: Path = FOLDER / "guides" / f"{name}.md"
    return path.read_text()
