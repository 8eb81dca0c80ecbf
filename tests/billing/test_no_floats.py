"""No money is ever a float: the code that touches it has none."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    [
        *(ROOT / "billing").rglob("*.py"),
        ROOT / "sdk/strongroom/rating.py",
        ROOT / "sdk/strongroom/receipts.py",
        ROOT / "marketplace/core/money.py",
        ROOT / "marketplace/core/receipt.py",
    ]
)
# Shown to people as percent, and added to nothing.
SHOWN = {
    ("billing/admin/price.py", "creator_share_bps"),
    ("billing/admin/stripe.py", "amount_cents"),
    ("billing/admin/coupon.py", "off_bps"),
    ("billing/views/price_page.py", "share_bps"),
    # Lengths on paper.
    ("billing/selectors/statement_file.py", "float"),
    ("billing/selectors/statement_file.py", "0.25"),
}


def list_floats(source: str) -> list[tuple[int, str]]:
    """Where a float is written, made or divided into being."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Name) and node.id == "float":
            found.append((node.lineno, "float"))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            found.append((node.lineno, ast.unparse(node)))
    return found


# Of time, of paths, of fractions that stay fractions, and of integers in the database.
HARMLESS = (
    "models.F(",
    "Path(__file__)",
    "Decimal(",
    "_SECONDS_PER_HOUR",
    "SQL /",
    "Fraction(",
    "time",
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_there_is_no_float_where_money_is(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    found = [
        (line, text)
        for line, text in list_floats(path.read_text())
        if not any(one in text for one in HARMLESS)
        and not any(name == shown and word in text for shown, word in SHOWN)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source", ["nanos = 1.5", "nanos = total / 2", "nanos = float(text)", "f = lambda x: x / 3"]
)
def test_a_float_is_found(source: str) -> None:
    assert list_floats(source)
