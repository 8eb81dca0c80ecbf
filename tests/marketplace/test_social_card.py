"""The picture beside a link: nothing leaves it, nothing private is in it, it is not sent twice."""

from __future__ import annotations

import io

import pytest
from django.conf import settings
from django.core.cache import cache
from PIL import Image, ImageChops
from redis.exceptions import ConnectionError as RedisConnectionError

from marketplace.core import social_card
from marketplace.core.social_card import MARGIN, Content, clean, covers, draw_card, load_font, wrap
from marketplace.models import AIModel
from marketplace.selectors import access
from marketplace.views import social_card as views
from tests.factories import AIModelFactory, ChannelFactory

URL = "/acme/digits/card.png"


def draw(title: str, reference: str = "acme/digits", facts: tuple[str, ...] = ()) -> Image.Image:
    return Image.open(io.BytesIO(draw_card(Content(title, reference, facts), views.FONT)))


def written(image: Image.Image) -> tuple[int, int, int, int]:
    """What of the picture, below its edge, is not the page's colour."""
    below = image.crop((0, 40, *image.size))
    page = Image.new("RGB", below.size, social_card._PAGE)
    box = ImageChops.difference(below, page).getbbox()
    assert box is not None
    return box


@pytest.fixture
def model(account) -> AIModel:
    model = AIModelFactory(account=account, name="digits", title="Digits", task="ocr")
    ChannelFactory(version__model=model)
    return model


# --- the drawing

TITLES = [
    ("plain", "Handwritten digits"),
    ("one word as long as it may be", "W" * 120),
    ("many words", "invoice " * 15),
    ("Arabic", "قارئ الأرقام المكتوبة بخط اليد " * 3),
    ("both directions", "Digits ספרות 12 " * 6),
    ("emoji", "🎉" * 120),
    ("emoji of several letters", "👩‍👩‍👧‍👦🏳️‍🌈" * 10),
    ("stacked marks", "Z" + "\u0335\u0489\u0301" * 39),
    ("wide letters", "﷽" * 40),
    ("nothing", ""),
]


@pytest.mark.parametrize(("_case", "title"), TITLES)
def test_no_title_leaves_the_picture(_case, title):
    image = draw(title, f"{'o' * 39}/{'n' * 63}", ("f" * 40, "image-classification", "x" * 64))
    left, _top, right, bottom = written(image)

    assert image.size == (1200, 630)
    # A letter's own overhang is some pixels.
    assert left >= MARGIN - 8
    assert right <= 1200 - MARGIN + 8
    assert bottom + 40 <= 630 - 40


def test_the_control_without_wrapping_a_title_leaves_it(monkeypatch):
    monkeypatch.setattr(social_card, "wrap", lambda text, *_: [text])

    assert written(draw("W" * 120))[2] > 1200 - MARGIN + 8


def test_a_title_is_wrapped_and_cut_with_an_ellipsis():
    face = load_font(views.FONT, social_card.TITLE_SIZE)
    lines = wrap("invoice " * 30, face, 1040, 3)

    assert len(lines) == 3
    assert lines[0] == lines[1]
    assert lines[2].endswith("…")
    assert all(face.getlength(line) <= 1040 for line in lines)
    assert wrap("short", face, 1040, 3) == ["short"]


@pytest.mark.parametrize(
    ("letter", "is_there"), [("A", True), ("é", True), (" ", True), ("中", False)]
)
def test_what_a_font_lacks_is_known(letter, is_there):
    assert covers(load_font(views.FONT, 68), letter) is is_there


@pytest.mark.parametrize("title", ["🎉🎉🎉", "手写数字识别", ""])
def test_a_title_that_no_font_can_write_gives_way_to_the_address(title):
    assert draw(title).tobytes() == draw("acme/digits").tobytes()


def test_without_the_wide_font_other_scripts_give_way_too(monkeypatch, tmp_path):
    monkeypatch.setattr(social_card, "WIDE_FONT", tmp_path / "none.ttf")

    assert draw("قارئ الأرقام").tobytes() == draw("acme/digits").tobytes()
    # The control: what Latin letters can write is written.
    assert draw("Reader").tobytes() != draw("acme/digits").tobytes()


def test_marks_that_turn_or_hide_text_are_left_out():
    assert clean("a\u202eb\u200bc\x00d\ne\t f") == "abcd e f"
    assert clean("e\u0323\u0302\u0301x") == "\u1ec7\u0301x"
    assert clean("Z" + "\u0335" * 3) == "Z" + "\u0335" * 2
    assert len(clean("x" * 500)) == social_card.LENGTH_MAX


# --- the address


def test_a_public_models_picture(client, model):
    answer = client.get(URL)

    assert (answer.status_code, answer["Content-Type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.content)).size == (1200, 630)
    assert answer["Cache-Control"] == "public, max-age=3600"


def test_it_is_sent_once_and_again_when_the_title_changes(client, model):
    mark = client.get(URL)["ETag"]

    same = client.get(URL, headers={"If-None-Match": mark})
    assert (same.status_code, same.content) == (304, b"")

    AIModel.objects.update(title="Other")
    other = client.get(URL, headers={"If-None-Match": mark})
    assert other.status_code == 200
    assert other["ETag"] != mark


def test_it_is_drawn_once(client, model, monkeypatch):
    cache.clear()
    first = client.get(URL).content
    monkeypatch.setattr(views, "draw_card", lambda *_: 1 / 0)

    assert client.get(URL).content == first


def test_without_redis_it_is_drawn_each_time(client, model, monkeypatch):
    def away(*_: object) -> None:
        raise RedisConnectionError

    monkeypatch.setattr(views.cache, "get", away)

    assert client.get(URL).status_code == 200


@pytest.mark.parametrize(
    "fields", [{"visibility": "private"}, {"suspended_at": "2026-01-01T00:00:00Z"}]
)
def test_what_is_not_public_has_no_picture_whoever_asks(
    client, owner_client, admin_client, model, fields
):
    AIModel.objects.update(**fields)

    for each in (client, owner_client, admin_client):
        assert each.get(URL).status_code == 404
    assert client.get("/acme/none/card.png").status_code == 404


def test_the_control_without_the_access_rules_a_private_model_has_one(client, model, monkeypatch):
    AIModel.objects.update(visibility="private")
    monkeypatch.setattr(access, "list_accounts", lambda actor: access.Account.objects.all())

    assert client.get(URL).status_code == 200


def test_a_public_models_page_names_its_picture(client, owner_client, model):
    text = client.get("/acme/digits").content.decode()
    picture = f"{settings.WEB_URL}{URL}"

    assert f'<meta property="og:image" content="{picture}">' in text
    assert f'<meta name="twitter:image" content="{picture}">' in text
    assert 'name="twitter:card" content="summary_large_image"' in text

    AIModel.objects.update(visibility="private")
    assert "og:image" not in owner_client.get("/acme/digits").content.decode()


def test_other_pages_name_the_sites_picture(client, model):
    for address in ("/", "/acme", "/industries"):
        text = client.get(address).content.decode()
        assert f'property="og:image" content="{settings.WEB_URL}/card.png"' in text
    assert client.get("/card.png")["Content-Type"] == "image/png"
