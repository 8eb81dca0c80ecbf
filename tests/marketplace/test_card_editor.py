"""The editor of a model's card: what it refuses, what it keeps, and two people at once."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest
from django.db import connection

from marketplace.core import card_check, limits
from marketplace.core.card_check import KEYS, check_card
from marketplace.core.errors import InvalidInputError
from marketplace.errors import CardChangedError
from marketplace.models import AIModel, AuditEvent, CardRevision
from marketplace.selectors import card as selectors
from marketplace.selectors.access import Actor
from marketplace.services import card as services
from marketplace.services.catalog import put_model
from tests.factories import AIModelFactory, ModelVersionFactory
from tests.marketplace.test_card import ATTACKS, find_dangers

URL = "/dashboard/models/acme/digits/card"


@pytest.fixture
def model(account) -> AIModel:
    return AIModelFactory(account=account, name="digits", title="Digits")


def save(owner, model, text: str, base: int) -> int:
    return services.save_card(actor=Actor(user=owner), model=model, text=text, base=base)


def texts(model) -> list[tuple[int, str]]:
    return list(model.card_revisions.order_by("number").values_list("number", "text"))


# --- what is wrong with a card, and where


def faults(text: str) -> list[int]:
    return [note.line for note in check_card(text).faults]


@pytest.mark.parametrize(
    ("_case", "text", "lines"),
    [
        ("no card", "", []),
        ("plain text", "# Hi\n\n---\n\nrule", []),
        ("all keys", "---\n" + "\n".join(key.example for key in KEYS) + "\n---\n# Hi", []),
        ("never closed", "---\nlicense: mit\n# Hi", [1]),
        ("broken at line 3", "---\nlicense: mit\ntags: [a\nlanguage: b\n---\n", [4]),
        ("a list", "---\n- a\n---\n", [2]),
        ("twice", "---\nlicense: mit\n\nlicense: x\n---\n", [4]),
        ("a mapping for a text", "---\nlicense:\n  name: mit\n---\n", [3]),
        ("a list for one text", "---\nlibrary_name: [a, b]\n---\n", [2]),
        ("a mapping in a list", "---\ntags:\n- a\n- b: c\n---\n", [4]),
        ("an alias", "---\na: &x [1]\nb: *x\n---\n", [3]),
        ("a control character", "---\na: b\nc: \x07\n---\n", [3]),
        ("examples are no list", "---\nexamples: {a: b}\n---\n", [2]),
        ("an example without input", "---\nexamples:\n- title: x\n- input: {a: 1}\n---\n", [3]),
        ("endless nesting", "---\n" + "[" * 4_000 + "\n---\n", [2]),
    ],
)
def test_faults_stand_at_their_line(_case, text, lines):
    assert faults(text) == lines


def test_metadata_are_bounded():
    def block(size: int) -> str:
        return "---\n" + "# ".ljust(size, "x") + "\n---\n"

    assert faults(block(card_check.FRONT_MATTER_LENGTH_MAX)) == []
    assert faults(block(card_check.FRONT_MATTER_LENGTH_MAX + 1)) == [1]


def test_remarks_stand_at_their_line_and_keep_nobody_from_saving():
    text = (
        "---\nlicense: mit\nnobody: knows\n---\n# Hi\n\none\n![cat](x.png)\n\n"
        "<script>x</script>\n\na <video> b\n\n<img src=x>\n"
    )
    check = check_card(text, licence="Apache-2.0")

    assert check.faults == ()
    assert [note.line for note in check.remarks] == [3, 2, 8, 10, 12, 14]
    assert "Apache-2.0" in check.remarks[1].text


def test_remarks_are_bounded():
    text = "\n\n".join(["<video>"] * (card_check.NOTES_MAX + 1))

    assert len(check_card(text).remarks) == card_check.NOTES_MAX


def missing(text: str, licence: str = "") -> list[str]:
    return [part.title for part in check_card(text, licence=licence).parts if not part.is_there]


def test_what_readers_look_for_is_named():
    every = [
        "Licence",
        "Intended use",
        "Limits",
        "Training data",
        "Evaluation",
        "Language",
        "Examples",
    ]

    assert missing("# Digits\n\nReads digits.") == every
    assert missing("x", licence="MIT") == every[1:]
    assert missing("---\nlicense: mit\nlanguage: de\n---\n# Intended use\n\n## Known limits\n") == [
        *every[3:5],
        "Examples",
    ]
    # Words in the text are no heading.
    assert missing("The limits of the intended use.") == every
    assert missing("# Data\n\n# Results\n\n```\nx\n```\n") == [*every[:3], "Language"]


# --- the page


def test_the_editor_shows_source_preview_and_help(owner_client, model):
    AIModel.objects.update(card="---\nlanguage: de\n---\n# Hello\n\n**bold**")

    text = owner_client.get(URL).content.decode()

    assert "# Hello" in text
    assert "<strong>bold</strong>" in text
    assert "<dt>Language</dt><dd>de</dd>" in text
    assert all(f"<code>{key.name}</code>" in text for key in KEYS)
    assert "is missing" in text


def test_a_preview_saves_nothing_with_and_without_scripts(owner_client, model):
    form = {"text": "# New **words**", "preview": "1", "base": "0"}
    before = AuditEvent.objects.count()

    page = owner_client.post(URL, form).content.decode()
    part = owner_client.post(URL, form, headers={"HX-Request": "true"}).content.decode()

    for text in (page, part):
        assert "<strong>words</strong>" in text
    assert "<html" in page
    assert "# New **words**" in page
    assert "<html" not in part
    assert AIModel.objects.get().card == ""
    assert (CardRevision.objects.count(), AuditEvent.objects.count()) == (0, before)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_preview_is_as_clean_as_the_page(owner_client, model, attack):
    form = {"text": f"# T\n\n{attack}\n\nend", "preview": "1"}
    text = owner_client.post(URL, form, headers={"HX-Request": "true"}).content.decode()
    shown = text[text.index('<div class="prose">') :]

    assert find_dangers(shown) == []
    assert "<script" not in text


def test_the_control_a_preview_without_the_cleaning_is_dangerous(owner_client, model, monkeypatch):
    monkeypatch.setattr("marketplace.core.card.nh3.clean", lambda html, **_: html)
    form = {"text": ATTACKS[0], "preview": "1"}
    text = owner_client.post(URL, form, headers={"HX-Request": "true"}).content.decode()

    assert "<script>alert(1)" in text


def test_saving_changes_the_card_and_nothing_of_a_version(owner_client, model):
    version = ModelVersionFactory(model=model, manifest_sha256="a" * 64)

    answer = owner_client.post(URL, {"text": "# One\r\n\r\ntwo", "base": "0"})

    model.refresh_from_db()
    version.refresh_from_db()
    assert (answer.status_code, answer.url) == (302, URL)
    assert model.card == "# One\n\ntwo"
    assert (version.manifest_sha256, version.number) == ("a" * 64, 1)
    assert texts(model) == [(1, "# One\n\ntwo")]
    event = AuditEvent.objects.get(action="model.update")
    assert event.payload == {"model": "acme/digits", "changed": ["card"]}
    assert "<h2>One</h2>" in owner_client.get("/acme/digits").content.decode()


def test_saving_the_same_again_changes_nothing(owner, owner_client, model):
    save(owner, model, "# One", 0)
    before = AuditEvent.objects.count()

    answer = owner_client.post(URL, {"text": "# One", "base": "1"}, follow=True)

    assert "Nothing has changed" in answer.content.decode()
    assert texts(model) == [(1, "# One")]
    assert AuditEvent.objects.count() == before


@pytest.mark.parametrize(
    ("_case", "form"),
    [
        ("a fault", {"text": "---\nlicense: [\n---\n", "base": "1"}),
        ("too long", {"text": "x" * (limits.CARD_LENGTH_MAX + 1), "base": "1"}),
        ("no base", {"text": "# Two"}),
        ("base is no number", {"text": "# Two", "base": "x"}),
        ("base is none", {"text": "# Two", "base": str(2**31)}),
        ("a NUL", {"text": "a\x00b", "base": "1"}),
    ],
)
def test_what_cannot_be_saved_is_shown_again_and_changes_nothing(
    owner, owner_client, model, _case, form
):
    save(owner, model, "# One", 0)
    before = AuditEvent.objects.count()

    answer = owner_client.post(URL, form)

    assert answer.status_code in (400, 422)
    assert AIModel.objects.get().card == "# One"
    assert (texts(model), AuditEvent.objects.count()) == ([(1, "# One")], before)


def test_a_fault_is_told_at_its_line_and_the_text_is_kept(owner_client, model):
    answer = owner_client.post(URL, {"text": "---\nlicense: mit\ntags: {}\n---\nMINE", "base": "0"})
    text = answer.content.decode()

    assert answer.status_code == 422
    assert 'data-line="3">Line 3</a>' in text
    assert "MINE" in text


def test_a_card_at_the_limit_is_saved_and_lines_count_once(owner_client, model):
    text = "x\r\n" * (limits.CARD_LENGTH_MAX // 2)

    assert owner_client.post(URL, {"text": text, "base": "0"}).status_code == 302
    assert len(AIModel.objects.get().card) == limits.CARD_LENGTH_MAX


@pytest.mark.parametrize("extra", [{}, {"preview": "1"}])
def test_a_card_of_ten_megabytes_is_refused(owner_client, model, extra):
    answer = owner_client.post(URL, {"text": "x" * 10_000_000, "base": "0"} | extra)

    assert answer.status_code == 413
    assert AIModel.objects.get().card == ""


# --- two at once


def test_who_saves_second_sees_both_and_nothing_is_lost(owner, owner_client, model):
    save(owner, model, "theirs", 0)

    answer = owner_client.post(URL, {"text": "mine", "base": "0"})
    text = answer.content.decode()

    assert answer.status_code == 409
    assert "<del>theirs</del>" in text
    assert "<ins>mine</ins>" in text
    assert 'name="base" value="1"' in text
    assert AIModel.objects.get().card == "theirs"
    assert texts(model) == [(1, "theirs")]

    assert owner_client.post(URL, {"text": "both", "base": "1"}).status_code == 302
    assert texts(model) == [(1, "theirs"), (2, "both")]


def test_a_push_in_between_is_seen_too(owner, account, model):
    put_model(actor=Actor(user=owner), account=account, name="digits", fields={"card": "pushed"})

    with pytest.raises(CardChangedError):
        save(owner, model, "mine", 0)
    assert AIModel.objects.get().card == "pushed"


def race(owner, model) -> list[str]:
    """Two people save at the same moment; what became of each."""
    together, outcome = Barrier(2), []

    def run(text: str) -> None:
        together.wait(timeout=30)
        try:
            save(owner, model, text, 0)
            outcome.append("saved")
        except CardChangedError:
            outcome.append("refused")
        finally:
            connection.close()

    threads = [Thread(target=run, args=(text,)) for text in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return sorted(outcome)


@pytest.mark.django_db(transaction=True)
def test_of_two_that_race_one_is_refused(owner, model):
    assert race(owner, model) == ["refused", "saved"]
    assert len(texts(model)) == 1


@pytest.mark.django_db(transaction=True)
def test_the_control_without_the_look_both_are_saved(owner, model, monkeypatch):
    monkeypatch.setattr(services, "_require_base", lambda model, base: None)

    assert race(owner, model) == ["saved", "saved"]


# --- history


def test_what_stood_there_before_is_kept(owner, model):
    AIModel.objects.update(card="old")
    model.refresh_from_db()

    assert save(owner, model, "new", 0) == 2
    assert texts(model) == [(1, "old"), (2, "new")]
    assert list(model.card_revisions.order_by("number").values_list("author", flat=True)) == [
        "",
        "user:owner@example.com",
    ]


def test_every_way_to_change_a_card_is_kept(owner, account, token_api, model):
    put_model(actor=Actor(user=owner), account=account, name="digits", fields={"card": "one"})
    token_api.put("/api/models/acme/digits", {"title": "T", "card": "two"}, format="json")
    put_model(actor=Actor(user=owner), account=account, name="digits", fields={"title": "U"})

    assert texts(model) == [(1, "one"), (2, "two")]


def test_the_control_a_change_past_the_service_is_not_kept(model):
    AIModel.objects.update(card="one")

    assert texts(model) == []


@pytest.mark.parametrize("extra", [0, 1])
def test_only_the_last_states_are_kept(owner, model, extra, monkeypatch):
    monkeypatch.setattr(limits, "CARD_REVISIONS_MAX", 3)
    for number in range(3 + extra):
        save(owner, model, f"state {number + 1}", number)

    assert [number for number, _ in texts(model)] == [1 + extra, 2 + extra, 3 + extra]
    assert selectors.current_number(model) == 3 + extra


def test_the_history_lists_states_and_a_state_shows_its_difference(owner, owner_client, model):
    save(owner, model, "same\n\nfirst", 0)
    save(owner, model, "same\n\nsecond", 1)

    listed = owner_client.get(f"{URL}/history").content.decode()
    state = owner_client.get(f"{URL}/history/2").content.decode()

    assert listed.index("State 2") < listed.index("State 1")
    assert "user:owner@example.com" in listed
    assert "<del>first</del>" in state
    assert "<ins>second</ins>" in state
    assert owner_client.get(f"{URL}/history/3").status_code == 404


def test_the_history_asks_little_of_the_database(
    owner, owner_client, model, django_assert_max_num_queries
):
    for number in range(20):
        save(owner, model, f"state {number + 1}", number)

    with django_assert_max_num_queries(12) as asked:
        owner_client.get(f"{URL}/history")
    assert not any('"marketplace_cardrevision"."text",' in one["sql"] for one in asked)


def test_an_older_state_comes_back_as_a_new_one_and_the_log_says_so(owner, owner_client, model):
    save(owner, model, "first", 0)
    save(owner, model, "second", 1)

    answer = owner_client.post(f"{URL}/history/1/restore", {"base": "2"})

    assert (answer.status_code, answer.url) == (302, URL)
    assert AIModel.objects.get().card == "first"
    assert texts(model)[-1] == (3, "first")
    assert model.card_revisions.get(number=3).restored_number == 1
    event = AuditEvent.objects.get(action="card.restore")
    assert event.payload == {"model": "acme/digits", "restored": 1, "number": 3}


def test_saving_offers_an_undo_that_works(owner, owner_client, model):
    save(owner, model, "first", 0)

    page = owner_client.post(URL, {"text": "second", "base": "1"}, follow=True).content.decode()
    assert f'action="{URL}/history/1/restore"' in page

    owner_client.post(f"{URL}/history/1/restore", {"base": "2"})
    assert AIModel.objects.get().card == "first"


@pytest.mark.parametrize("base", ["1", "", "x"])
def test_a_restore_over_anothers_change_is_refused(owner, owner_client, model, base):
    save(owner, model, "first", 0)
    save(owner, model, "second", 1)

    answer = owner_client.post(f"{URL}/history/1/restore", {"base": base})

    assert answer.status_code in (302, 422)
    assert AIModel.objects.get().card == "second"
    assert len(texts(model)) == 2


def test_a_state_of_another_model_is_not_brought_back(owner, owner_client, account, model):
    other = AIModelFactory(account=account, name="other")
    save(owner, other, "secret", 0)

    assert owner_client.post(f"{URL}/history/1/restore", {"base": "0"}).status_code == 404
    assert AIModel.objects.get(name="digits").card == ""


def test_faults_are_refused_by_the_service_itself(owner, model):
    with pytest.raises(InvalidInputError) as refused:
        save(owner, model, "---\na: [\n---\n", 0)

    assert refused.value.errors[0]["detail"].startswith("Line 2: ")
    assert texts(model) == []


def test_the_listings_form_leaves_the_card_alone(owner, owner_client, model):
    save(owner, model, "kept", 0)
    form = {"title": "Digits", "visibility": "public", "card": "overwritten"}

    assert owner_client.post("/dashboard/models/acme/digits/edit", form).status_code == 302
    assert AIModel.objects.get().card == "kept"
