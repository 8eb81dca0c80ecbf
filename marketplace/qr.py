"""A QR code as the path of an SVG picture."""

from __future__ import annotations

from reportlab.graphics.barcode.qrencoder import QRCode, QRErrorCorrectLevel

# Light squares around it, without which cameras do not find it.
_MARGIN = 4


def draw_path(text: str) -> tuple[int, str]:
    """Side of the picture in squares, and a path of the dark ones."""
    code = QRCode(None, QRErrorCorrectLevel.M)
    code.addData(text)
    code.make()
    count = code.getModuleCount()
    squares = [
        f"M{column + _MARGIN} {row + _MARGIN}h1v1h-1z"
        for row in range(count)
        for column in range(count)
        if code.isDark(row, column)
    ]
    return count + 2 * _MARGIN, "".join(squares)
