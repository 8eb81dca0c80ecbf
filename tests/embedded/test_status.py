import io
import re

import pytest

from embedded import status
from embedded.child import Child, State
from embedded.processes import Process


class Terminal(io.StringIO):
    """Shows what a terminal would: understands "up" and "clear from here"."""

    def isatty(self):
        return True

    def screen(self) -> list[str]:
        rows, at = [""], 0
        for token in re.findall(r"\x1b\[\d*[A-Za-z]|\n|\r|[^\x1b\n\r]+", self.getvalue()):
            if token == "\n":
                at += 1
                rows += [""] * (at + 1 - len(rows))
            elif token.endswith("A") and token.startswith("\x1b"):
                at -= int(token[2:-1])
            elif token == "\x1b[J":
                rows = [*rows[:at], ""]
            elif not token.startswith(("\x1b", "\r")):
                rows[at] += token
        return rows


@pytest.fixture
def children(tmp_path):
    parts = [
        Process(name=name, command=[], env={}, is_ready=lambda log: True, where=f"at {name}")
        for name in ("web", "node")
    ]
    return [Child(part, tmp_path) for part in parts]


def test_a_terminal_shows_one_block_below_what_was_said(children, monkeypatch):
    monkeypatch.setattr(status, "_REDRAW_EVERY_S", 0)
    terminal = Terminal()
    display = status.for_stream(terminal)

    display.show(children)
    children[0].state = State.READY
    display.show(children)
    display.say("Site here")
    children[1].state, children[1].restarts, children[1].detail = State.BACKING_OFF, 2, "it ended"
    display.show(children)

    assert terminal.screen() == [
        "Site here",
        "● web        ready      at web",
        "↻ node       restarting at node  restarts 2  it ended",
        "",
    ]


def test_a_long_line_never_wraps(children, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    children[0].detail = "x" * 200

    status.for_stream(terminal).show(children)

    assert max(map(len, terminal.screen())) < 40


def test_elsewhere_a_line_is_printed_for_each_change(children):
    stream = io.StringIO()
    display = status.for_stream(stream)

    display.show(children)
    children[0].state = State.STARTING
    display.show(children)
    display.show(children)
    children[0].state = State.READY
    display.show(children)
    display.say("done")

    assert stream.getvalue().splitlines() == [
        "web        starting   at web",
        "web        ready      at web",
        "done",
    ]


def test_plain_lines_can_be_asked_for_on_a_terminal():
    assert isinstance(status.for_stream(Terminal(), plain=True), status.PlainStatus)
