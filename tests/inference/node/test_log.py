from __future__ import annotations

import logging

import pytest

from inference.node.log import event


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "value=plain"),
        (3.5, "value=3.5"),
        ("two words", 'value="two words"'),
        ("", 'value=""'),
        ("a\n2026-11-21 INFO node forged=1", 'value="a\\n2026-11-21 INFO node forged=1"'),
        ("\x1b[31m", 'value="\\u001b[31m"'),
        ("x" * 900, "value=" + "x" * 500),
    ],
)
def test_one_event_is_one_line(caplog, value, shown):
    caplog.set_level(logging.INFO)

    event(logging.getLogger("node"), "something.happened", value=value)

    assert caplog.messages == [f"something.happened {shown}"]
