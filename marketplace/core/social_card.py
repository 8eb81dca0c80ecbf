"""The picture that messengers show beside a link: 1200 x 630, drawn from a few texts.

The texts are strangers'. Nothing of them leaves the picture: what is too long is cut with an
ellipsis, and what no font here can write is left out. The vendored font has the Latin letters;
other scripts need a wider one on the machine (DejaVu where it is installed: Greek, Cyrillic,
Hebrew, Arabic). Emoji and the scripts of East and South Asia are in neither. Where too little of
a title is left, the model's address stands in its place, which is always Latin.
"""

from __future__ import annotations

import contextlib
import io
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

WIDTH, HEIGHT = 1200, 630
MARGIN = 80
TITLE_SIZE, REFERENCE_SIZE, FACT_SIZE, BRAND_SIZE = 68, 36, 32, 34
TITLE_TOP, TITLE_LINES_MAX = 164, 3
# What is read of a text; a title has 120.
LENGTH_MAX = 160
# Marks on one letter: languages need two, and more of them leave the line.
MARKS_MAX = 2
# Of a title's letters, how many a font must have for it to be worth writing.
COVERED_SHARE_MIN = 0.6
# Not vendored: used where the system has it.
WIDE_FONT = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf")

_PAGE, _INK, _DIM, _ACCENT, _CHIP = "#0d1117", "#f0f4f8", "#a7b3c1", "#5cc6d6", "#1b2b35"
_WEIGHT = 640
_FONTS_KEPT = 16
_ELLIPSIS = "…"
# Every font has its own box for what it lacks; this is no letter, so all of them draw it so.
_NO_LETTER = "\uffff"


@dataclass(frozen=True, slots=True)
class Content:
    """What a picture says.

    Args:
        title: In large letters; may be in any script.
        reference: `owner/name`, or an address; stands for a title that cannot be written.
        facts: A few words each, in a row; those that do not fit are left out.
    """

    title: str
    reference: str
    facts: tuple[str, ...] = ()


def draw_card(content: Content, font: Path) -> bytes:
    """Draw the picture.

    Args:
        content: What it says.
        font: The vendored font.

    Returns:
        A PNG; the same for the same content on the same machine.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), _PAGE)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, WIDTH, 12), fill=_ACCENT)
    _draw_brand(pen, font)
    room = WIDTH - 2 * MARGIN
    reference = clean(content.reference)
    title, face = _choose(clean(content.title), reference, font, TITLE_SIZE)
    lines = wrap(title, face, room, TITLE_LINES_MAX)
    is_rtl, below = _is_rtl(title), TITLE_TOP
    for line in lines:
        _write(pen, line, face, below, _INK, is_rtl=is_rtl)
        below += round(TITLE_SIZE * 1.25)
    if title != reference:
        small = load_font(font, REFERENCE_SIZE)
        for line in wrap(reference, small, room, 1):
            _write(pen, line, small, below + 16, _DIM, is_rtl=False)
    _draw_facts(pen, content.facts, font)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def clean(text: str) -> str:
    """One line of what can be seen: no controls, nothing that turns, hides or buries the rest."""
    kept: list[str] = []
    marks = 0
    for one in unicodedata.normalize("NFC", text[:LENGTH_MAX]):
        kind = unicodedata.category(one)
        marks = marks + 1 if kind.startswith("M") else 0
        if one.isspace():
            kept.append(" ")
        elif not kind.startswith("C") and kind != "Me" and marks <= MARKS_MAX:
            kept.append(one)
    return " ".join("".join(kept).split())


@lru_cache(maxsize=_FONTS_KEPT)
def load_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """A font at a size in pixels, half bold where it can be."""
    face = ImageFont.truetype(str(path), size)
    # The other font has one weight only.
    with contextlib.suppress(OSError):
        face.set_variation_by_axes([_WEIGHT])
    return face


def covers(face: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether the font has this letter, and not only the box for what it lacks."""
    if letter == " ":
        return True
    mask, missing = face.getmask(letter), face.getmask(_NO_LETTER)
    return mask.size != missing.size or bytes(mask) != bytes(missing)


def wrap(text: str, face: ImageFont.FreeTypeFont, room: float, lines_max: int) -> list[str]:
    """The text in lines of at most `room` pixels; the last one ends with … if more was to come."""
    lines: list[str] = []
    for piece in _pieces(text, face, room):
        joined = f"{lines[-1]} {piece.strip()}" if lines and piece.startswith(" ") else ""
        if joined and face.getlength(joined) <= room:
            lines[-1] = joined
        elif len(lines) < lines_max:
            lines.append(piece.strip())
        else:
            lines[-1] = _cut(lines[-1], face, room)
            break
    return lines


def _pieces(text: str, face: ImageFont.FreeTypeFont, room: float) -> Iterator[str]:
    """Words, each with a space before it; one that is wider than a line in parts."""
    for word in text.split():
        start = " "
        while face.getlength(word) > room:
            fits = next(
                size for size in range(len(word) - 1, 0, -1) if face.getlength(word[:size]) <= room
            )
            yield start + word[:fits]
            word, start = word[fits:], ""  # noqa: PLW2901 - what is left of it
        yield start + word


def _cut(line: str, face: ImageFont.FreeTypeFont, room: float) -> str:
    while line and face.getlength(line + _ELLIPSIS) > room:
        line = line[:-1].rstrip()
    return line + _ELLIPSIS


def _choose(
    title: str, reference: str, font: Path, size: int
) -> tuple[str, ImageFont.FreeTypeFont]:
    """What is written large, and the font that can: the title as far as possible."""
    letters = title.replace(" ", "")
    best: tuple[int, str, ImageFont.FreeTypeFont] | None = None
    for path in (font, WIDE_FONT):
        if not path.exists():
            continue
        face = load_font(path, size)
        kept = " ".join("".join(one for one in title if covers(face, one)).split())
        count = len(kept.replace(" ", ""))
        if best is None or count > best[0]:
            best = (count, kept, face)
    assert best is not None, "the vendored font is always there"
    count, kept, face = best
    # Without its library for that, letters that join or run from the right would stand wrong.
    is_writable = features.check("raqm") or not _is_rtl(kept)
    if letters and count >= COVERED_SHARE_MIN * len(letters) and is_writable:
        return kept, face
    return reference, load_font(font, size)


def _is_rtl(text: str) -> bool:
    for one in text:
        kind = unicodedata.bidirectional(one)
        if kind in ("L", "R", "AL"):
            return kind != "L"
    return False


def _write(
    pen: ImageDraw.ImageDraw,
    text: str,
    face: ImageFont.FreeTypeFont,
    top: float,
    colour: str,
    *,
    is_rtl: bool,
) -> None:
    place, anchor = (WIDTH - MARGIN, "ra") if is_rtl else (MARGIN, "la")
    pen.text((place, top), text, font=face, fill=colour, anchor=anchor)


def _draw_brand(pen: ImageDraw.ImageDraw, font: Path) -> None:
    left, top, size = MARGIN, 70, 52
    pen.rounded_rectangle((left, top, left + size, top + size), 11, fill="#0b6474")
    middle = (left + size / 2, top + size / 2)
    pen.circle(middle, 14, outline="white", width=4)
    pen.circle((middle[0], middle[1] - 3), 4, fill="white")
    pen.rectangle((middle[0] - 2, middle[1] - 2, middle[0] + 2, middle[1] + 7), fill="white")
    face = load_font(font, BRAND_SIZE)
    pen.text((left + size + 18, top + size / 2), "Strongroom", font=face, fill=_INK, anchor="lm")


def _draw_facts(pen: ImageDraw.ImageDraw, facts: Sequence[str], font: Path) -> None:
    face, left = load_font(font, FACT_SIZE), float(MARGIN)
    for fact in facts:
        text = "".join(one for one in clean(fact) if covers(face, one)).strip()
        width = face.getlength(text) + 44
        if not text or left + width > WIDTH - MARGIN:
            continue
        pen.rounded_rectangle((left, 516, left + width, 572), 28, fill=_CHIP)
        pen.text((left + 22, 544), text, font=face, fill=_ACCENT, anchor="lm")
        left += width + 18
