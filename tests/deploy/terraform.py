"""Read the Terraform files of the project, and say what is wrong with their form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hcl2

ROOT = Path(__file__).resolve().parents[2] / "k8s" / "terraform"
FILES = ("versions.tf", "variables.tf", "main.tf", "outputs.tf")
BLOCK = "__is_block__"


@dataclass(frozen=True)
class Module:
    """One folder of .tf files."""

    path: Path
    # Of all files together, without comments.
    text: str
    variables: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]
    # By type and name, such as ("google_kms_key_ring", "this").
    resources: dict[tuple[str, str], dict[str, Any]]
    data: dict[tuple[str, str], dict[str, Any]]
    locals: dict[str, Any]
    calls: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        return "root" if self.path == ROOT else self.path.name


def read_module(path: Path) -> Module:
    """Everything that the files of one folder declare."""
    texts = [strip_comments(file.read_text()) for file in sorted(path.glob("*.tf"))]
    files = [hcl2.loads(text) for text in texts]

    def named(kind: str) -> dict[str, dict[str, Any]]:
        found = [block for file in files for block in file.get(kind, [])]
        return {unquote(name): body for block in found for name, body in block.items()}

    def typed(kind: str) -> dict[tuple[str, str], dict[str, Any]]:
        found = [block for file in files for block in file.get(kind, [])]
        return {
            (unquote(kind_of), unquote(name)): body
            for block in found
            for kind_of, bodies in block.items()
            for name, body in bodies.items()
        }

    own = [block for file in files for block in file.get("locals", [])]
    return Module(
        path=path,
        text="\n".join(texts),
        variables=named("variable"),
        outputs=named("output"),
        resources=typed("resource"),
        data=typed("data"),
        locals={name: value for block in own for name, value in block.items() if name != BLOCK},
        calls=named("module"),
    )


def read_all() -> dict[str, Module]:
    """The root, and every module by its name."""
    folders = [ROOT, *sorted(path for path in (ROOT / "modules").iterdir() if path.is_dir())]
    return {module.name: module for module in map(read_module, folders)}


def unquote(text: Any) -> Any:
    """A text of the parser, which leaves the quotation marks around it."""
    if isinstance(text, str) and len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    return text


def strip_comments(text: str) -> str:
    """Without the lines that are comments; there are no others in these files."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def list_form_faults(text: str) -> list[str]:
    """Where a file is not written as `terraform fmt` would write it.

    Args:
        text: Of the whole file. Heredocs and trailing comments are faults here, so that
            these rules are enough.
    Returns:
        "LINE: what", empty if there is none.
    Source: hclwrite, format.go: indentation by brackets, one level for each line that opens
    more than it closes; neighbouring single-line attributes have their signs in one column.
    """
    faults = []
    if "\t" in text or "\r" in text:
        faults.append("0: tab or carriage return")
    if not text.endswith("\n") or text.endswith("\n\n"):
        faults.append("0: ends with one newline")
    lines = text.splitlines()
    faults += _indentation_faults(lines) + _spacing_faults(lines) + _column_faults(lines)
    return faults


def mask(line: str) -> str:
    """A line with its strings made of underscores; empty for a comment."""
    if line.lstrip().startswith("#"):
        return ""
    return re.sub(r'"(?:\\.|[^"\\])*"', lambda found: "_" * len(found[0]), line)


def _net(code: str) -> int:
    return sum(code.count(sign) for sign in "([{") - sum(code.count(sign) for sign in ")]}")


def _indentation_faults(lines: list[str]) -> list[str]:
    faults = []
    opened: list[int] = []
    for number, line in enumerate(lines, 1):
        code = mask(line)
        net = _net(code)
        if net < 0:
            left = -net
            while left > 0 and opened:
                top = opened.pop()
                if top > left:
                    opened.append(top - left)
                left -= top
        # A line such as `} else {` or `], [` closes what it opens again.
        closes = net == 0 and code.lstrip()[:1] in {")", "]", "}"}
        depth = len(opened) - (1 if closes and opened else 0)
        if line.strip() and len(line) - len(line.lstrip()) != 2 * depth:
            faults.append(f"{number}: indented by {2 * depth}")
        if net > 0:
            opened.append(net)
    return faults


def _spacing_faults(lines: list[str]) -> list[str]:
    faults = []
    for number, line in enumerate(lines, 1):
        code = mask(line)
        if line != line.rstrip():
            faults.append(f"{number}: space at its end")
        if re.search(r"\{[^\s}]|[^\s{]\}", code):
            faults.append(f"{number}: space inside braces")
        if re.search(r",\S|\s,|\(\s|\s\)|\[ | \]", re.sub(r"^\s+", "", code)):
            faults.append(f"{number}: spaces around commas and brackets")
        if re.search(r"#|//|<<", code):
            faults.append(f"{number}: comments have lines of their own, heredocs are not used")
    return faults


def _find_sign(line: str) -> int | None:
    """The place of the sign of a single-line attribute; None for any other line."""
    code = mask(line)
    found = re.search(r"(?<=\s)=(?=\s)", code)
    if found is None or not code[: found.start()].strip():
        return None
    return found.start() if _net(code[found.start() :]) == 0 else None


def _column_faults(lines: list[str]) -> list[str]:
    faults = []
    chain: list[tuple[int, str, int]] = []
    for number, line in enumerate([*lines, ""], 1):
        place = _find_sign(line)
        if place is not None:
            chain.append((number, line, place))
            continue
        column = max((len(line[:at].rstrip()) + 1 for _, line, at in chain), default=0)
        faults += [
            f"{at_line}: sign in column {column}" for at_line, _, at in chain if at != column
        ]
        chain = []
        # The first line of a value that goes on has one space before its sign.
        if re.search(r"\S {2,}=\s", mask(line)):
            faults.append(f"{number}: one space before the sign")
    return faults
