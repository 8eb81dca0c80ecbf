"""Incidents: published by admins alone, kept as they were, and shown to who may see them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import pytest
import time_machine
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.test import Client

from marketplace.core import limits
from marketplace.core.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    MarketplaceError,
    NotFoundError,
)
from marketplace.models import AuditEvent, Incident, IncidentUpdate
from marketplace.selectors import incident as selectors
from marketplace.selectors.access import ANONYMOUS, Actor
from marketplace.services import incident as services
from tests.factories import AIModelFactory, UserFactory

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ATOM = "{http://www.w3.org/2005/Atom}"
FIELDS: dict[str, Any] = {
    "title": "Predictions are slow",
    "impact": "minor",
    "state": "investigating",
    "text": "Some answers take longer than they should.",
    "parts": ["gateway"],
}
WORK: dict[str, Any] = FIELDS | {
    "title": "New machines",
    "impact": "maintenance",
    "state": "planned",
    "planned_from": NOON + timedelta(hours=10),
    "planned_until": NOON + timedelta(hours=12),
}


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Coordinates]:
    with time_machine.travel(NOON, tick=False) as moved:
        yield moved


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    selectors.forget_incidents()
    yield
    selectors.forget_incidents()


@pytest.fixture
def admin(platform_admin) -> Actor:
    return Actor(user=platform_admin)


@pytest.fixture
def incident(admin) -> Incident:
    return services.open_incident(actor=admin, **FIELDS)


def state() -> tuple[Any, ...]:
    """All that could be changed."""
    return (
        list(Incident.objects.order_by("pk").values()),
        list(IncidentUpdate.objects.order_by("pk").values()),
        AuditEvent.objects.count(),
    )


# --- Publishing ---------------------------------------------------------------------


def test_an_incident_is_opened_with_its_first_update(admin, platform_admin) -> None:
    model = AIModelFactory(account__slug="acme2", name="digits")

    made = services.open_incident(
        actor=admin, **FIELDS | {"models": [str(model)], "parts": ["site", "gateway", "site"]}
    )

    row = Incident.objects.get()
    assert (row.pk, row.state, row.updates_count) == (made.pk, "investigating", 1)
    assert (row.parts, list(row.named_models.all())) == (["gateway", "site"], [model])
    assert row.part_labels == ["Website", "Prediction API"]
    assert (row.created_at, row.updated_at, row.resolved_at) == (NOON, NOON, None)
    update = IncidentUpdate.objects.get()
    assert (update.number, update.text, update.author) == (1, FIELDS["text"], platform_admin)
    event = AuditEvent.objects.get(action="incident.open")
    assert (event.actor, event.object_id) == ("user:admin@example.com", str(row.pk))
    assert event.payload["models"] == ["acme2/digits"]


def test_updates_are_added_until_it_is_resolved(admin, incident, clock) -> None:
    clock.move_to(NOON + timedelta(minutes=10))
    services.add_update(
        actor=admin, incident=incident, seen=1, state="identified", text="A node was slow."
    )
    clock.move_to(NOON + timedelta(minutes=20))
    services.add_update(actor=admin, incident=incident, seen=2, state="resolved", text="Done.")

    row = Incident.objects.get()
    assert (row.state, row.updates_count) == ("resolved", 3)
    assert row.resolved_at == row.updated_at == NOON + timedelta(minutes=20)
    lines = IncidentUpdate.objects.order_by("number").values_list("number", "state")
    assert list(lines) == [(1, "investigating"), (2, "identified"), (3, "resolved")]
    assert AuditEvent.objects.filter(action="incident.update").count() == 2

    before = state()
    with pytest.raises(ConflictError, match="It is over"):
        services.add_update(actor=admin, incident=incident, seen=3, state="monitoring", text="x")
    assert state() == before


@pytest.mark.parametrize("who", ["owner", "teammate", "outsider", "blocked", "nobody"])
def test_only_platform_admins_publish(request, incident, who) -> None:
    if who == "blocked":
        actor = Actor(user=UserFactory(is_staff=True, is_active=False))
    else:
        actor = ANONYMOUS if who == "nobody" else Actor(user=request.getfixturevalue(who))
    before = state()

    with pytest.raises(ForbiddenError):
        services.open_incident(actor=actor, **FIELDS)
    with pytest.raises(ForbiddenError):
        services.add_update(actor=actor, incident=incident, seen=1, state="resolved", text="x")
    assert state() == before


LONG = {
    "title": limits.INCIDENT_TITLE_LENGTH_MAX,
    "text": limits.INCIDENT_TEXT_LENGTH_MAX,
}


@pytest.mark.parametrize(
    ("_case", "fields", "pointer"),
    [
        ("no title", {"title": " \n "}, "/title"),
        ("a long title", {"title": "x" * (LONG["title"] + 1)}, "/title"),
        ("no text", {"text": ""}, "/text"),
        ("a long text", {"text": "x" * (LONG["text"] + 1)}, "/text"),
        ("what XML has no way to write", {"text": "a\x08b"}, "/text"),
        ("a null character", {"title": "a\x00b"}, "/title"),
        ("half a character", {"title": "a\ud800b"}, "/title"),
        ("an impact of its own", {"impact": "huge"}, "/impact"),
        ("a state of work", {"state": "planned"}, "/state"),
        ("a state of its own", {"state": "over"}, "/state"),
        ("nothing that it is about", {"parts": []}, "/parts"),
        ("a part that is none", {"parts": ["moon"]}, "/parts"),
        ("a model that is none", {"models": ["acme/none"]}, "/models"),
        ("a name that is none", {"models": ["none"]}, "/models"),
        ("too many models", {"models": [f"acme/m{i}" for i in range(51)]}, "/models"),
        ("trouble with a window", {"planned_from": NOON}, "/planned_from"),
        ("work without a begin", WORK | {"planned_from": None}, "/planned_from"),
        ("work without an end", WORK | {"planned_until": None}, "/planned_until"),
        (
            "an end before its begin",
            WORK | {"planned_until": WORK["planned_from"]},
            "/planned_until",
        ),
        (
            "work of the past",
            WORK | {"planned_from": NOON - timedelta(hours=2), "planned_until": NOON},
            "/planned_until",
        ),
        (
            "long work",
            WORK | {"planned_until": WORK["planned_from"] + timedelta(days=2, seconds=1)},
            "/planned_until",
        ),
        (
            "work far away",
            WORK
            | {
                "planned_from": NOON + timedelta(days=90, seconds=1),
                "planned_until": NOON + timedelta(days=91),
            },
            "/planned_from",
        ),
        ("work that is looked into", WORK | {"state": "investigating"}, "/state"),
    ],
)
def test_what_is_not_valid_is_not_published(admin, _case, fields, pointer) -> None:
    before = state()

    with pytest.raises(InvalidInputError) as raised:
        services.open_incident(actor=admin, **FIELDS | fields)

    assert [one["pointer"].split("/0")[0] for one in raised.value.errors] == [pointer]
    assert state() == before


def test_at_its_limits_it_is(admin, account) -> None:
    models = [str(AIModelFactory(account=account, name=f"m{i}")) for i in range(50)]
    fields = {
        "title": "x" * LONG["title"],
        "text": "x" * LONG["text"],
        "models": models,
        "planned_from": NOON + timedelta(days=90),
        "planned_until": NOON + timedelta(days=92),
    }

    services.open_incident(actor=admin, **WORK | fields)

    assert Incident.objects.get().named_models.count() == 50


def test_an_incident_has_so_many_updates_and_no_more(admin, incident) -> None:
    last = limits.INCIDENT_UPDATES_MAX - 1
    Incident.objects.update(updates_count=last)
    services.add_update(actor=admin, incident=incident, seen=last, state="monitoring", text="x")

    with pytest.raises(ConflictError, match="at most 200"):
        services.add_update(
            actor=admin, incident=incident, seen=last + 1, state="resolved", text="x"
        )


def test_who_has_not_read_the_last_word_does_not_talk_over_it(admin, incident) -> None:
    services.add_update(actor=admin, incident=incident, seen=1, state="resolved", text="Over.")
    before = state()

    other = Actor(user=UserFactory(is_staff=True))
    with pytest.raises(ConflictError):
        services.add_update(actor=other, incident=incident, seen=1, state="identified", text="x")
    assert state() == before


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_locked", [True, False])
def test_two_admins_at_once(admin, incident, monkeypatch, is_locked) -> None:
    others = [Actor(user=UserFactory(is_staff=True)) for _ in range(2)]
    start, ends = Barrier(2), []
    if not is_locked:
        # Without the lock the constraint still keeps one number for one update.
        monkeypatch.setattr(
            "django.db.models.query.QuerySet.select_for_update", lambda rows, **_: rows
        )

    def work(actor: Actor) -> None:
        start.wait(timeout=30)
        try:
            services.add_update(
                actor=actor, incident=incident, seen=1, state="identified", text="Mine."
            )
            ends.append("published")
        except (MarketplaceError, IntegrityError) as error:
            ends.append(type(error).__name__)
        finally:
            connections.close_all()

    threads = [Thread(target=work, args=[one]) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert ends.count("published") == 1
    if is_locked:
        assert sorted(ends) == ["ConflictError", "published"]
    assert Incident.objects.get().updates_count == 2
    assert IncidentUpdate.objects.count() == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda: IncidentUpdate.objects.update(text="Nothing happened."),
        lambda: IncidentUpdate.objects.all()._raw_delete("default"),
        lambda: Incident.objects.update(title="Nothing"),
        lambda: Incident.objects.update(impact="none"),
        lambda: Incident.objects.update(parts=[]),
        lambda: Incident.objects.all()._raw_delete("default"),
    ],
)
def test_the_database_keeps_what_was_published(incident, change) -> None:
    before = state()

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        change()
    assert state() == before


def test_the_database_keeps_what_is_over(admin, incident) -> None:
    services.add_update(actor=admin, incident=incident, seen=1, state="resolved", text="Over.")

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        Incident.objects.update(state="monitoring", resolved_at=None)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"impact": "maintenance"}, "window"),
        ({"planned_from": NOON, "planned_until": NOON + timedelta(hours=1)}, "window"),
        ({"state": "resolved"}, "resolved"),
        ({"resolved_at": NOON}, "resolved"),
    ],
)
def test_the_database_knows_what_fits_together(fields, name) -> None:
    row = {
        "title": "x",
        "impact": "minor",
        "state": "monitoring",
        "created_at": NOON,
        "updated_at": NOON,
    }

    with pytest.raises(IntegrityError, match=f"marketplace_incident_{name}"):
        Incident.objects.create(**row | fields)


# --- Who sees what ------------------------------------------------------------------


@pytest.fixture
def hidden(admin, account) -> Incident:
    """Of a private model alone."""
    model = AIModelFactory(account=account, name="secret", visibility="private")
    return services.open_incident(
        actor=admin, **FIELDS | {"title": "Secret trouble", "parts": [], "models": [str(model)]}
    )


def leaks(client: Client, incident: Incident) -> list[str]:
    """Addresses that tell this client of it, or of the model that it names."""
    urls = ["/status", "/status.json", "/status/feed.xml", "/", f"/status/incidents/{incident.pk}"]
    return [
        url
        for url in urls
        if any(word in client.get(url).content for word in (b"Secret trouble", b"acme/secret"))
    ]


def test_of_a_private_model_only_its_people_hear(
    client, owner_client, teammate_client, outsider_client, admin_client, hidden
) -> None:
    own = ["/status", f"/status/incidents/{hidden.pk}"]

    assert leaks(client, hidden) == leaks(outsider_client, hidden) == []
    assert leaks(owner_client, hidden) == leaks(teammate_client, hidden) == own
    assert leaks(admin_client, hidden) == own
    for one in (client, outsider_client):
        assert one.get(f"/status/incidents/{hidden.pk}").status_code == 404


def test_without_the_rule_it_would_leak(client, hidden, monkeypatch) -> None:
    from marketplace.models import AIModel

    everything = AIModel.objects.select_related("account")
    monkeypatch.setattr(selectors, "list_visible_models", lambda _: everything)

    assert leaks(client, hidden) == [
        "/status",
        "/status.json",
        "/status/feed.xml",
        f"/status/incidents/{hidden.pk}",
    ]


def test_a_private_model_beside_a_part_stays_unsaid(client, owner_client, admin, account) -> None:
    model = AIModelFactory(account=account, name="secret", visibility="private")
    made = services.open_incident(actor=admin, **FIELDS | {"models": [str(model)]})

    assert leaks(client, made) == []
    assert FIELDS["title"] in client.get("/status").content.decode()
    assert leaks(owner_client, made) == ["/status", f"/status/incidents/{made.pk}"]


def test_nobody_learns_who_wrote_it(client, owner_client, admin_client, incident) -> None:
    for one in (client, owner_client, admin_client):
        for url in ("/status", f"/status/incidents/{incident.pk}", "/status.json"):
            text = one.get(url).content.decode()
            main = text.partition("<main")[2] or text
            assert "admin@example.com" not in main, url
    page = admin_client.get(f"/platform/incidents/{incident.pk}").content.decode()
    assert "admin@example.com" in page.partition("<main")[2]


def test_there_is_no_other_incident(client) -> None:
    assert client.get(f"/status/incidents/{uuid4()}").status_code == 404
    with pytest.raises(NotFoundError):
        selectors.get_incident(uuid4())


# --- The page and the feeds ---------------------------------------------------------


def test_the_page_tells_open_planned_and_past_ones(client, admin, clock) -> None:
    for month in (9, 10):
        clock.move_to(datetime(2026, month, 3, 8, 0, tzinfo=UTC))
        old = services.open_incident(actor=admin, **FIELDS | {"title": f"Trouble of {month}"})
        services.add_update(actor=admin, incident=old, seen=1, state="resolved", text="Over.")
    clock.move_to(NOON)
    services.open_incident(actor=admin, **FIELDS)
    services.open_incident(actor=admin, **WORK)

    text = client.get("/status").content.decode()
    parts = [
        *("Open incidents", "Predictions are slow", "Planned maintenance", "New machines"),
        *("Planned from 22 Nov 2026, 22:00 to 23 Nov 2026, 00:00 UTC", "Past incidents"),
        *("October 2026", "Trouble of 10", "September 2026", "Trouble of 9"),
    ]

    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "1 incident open." in text


def test_work_that_nobody_ended_says_so(client, admin, clock) -> None:
    services.open_incident(actor=admin, **WORK)
    assert "nobody has said" not in client.get("/status").content.decode()

    clock.move_to(WORK["planned_until"] + timedelta(seconds=1))

    assert "nobody has said yet that it is done" in client.get("/status").content.decode()


SHARP = "<b>&amp; \"x\" 'y' ]]> \u202e 🔥</b>"


def test_the_feed_is_atom_that_can_be_read(client, admin, clock) -> None:
    made = services.open_incident(actor=admin, **FIELDS | {"title": SHARP, "text": SHARP})
    clock.move_to(NOON + timedelta(minutes=5))
    services.add_update(actor=admin, incident=made, seen=1, state="resolved", text="Over.")

    answer = client.get("/status/feed.xml")
    root = ElementTree.fromstring(answer.content)

    assert answer["Content-Type"] == "application/atom+xml; charset=utf-8"
    assert root.tag == f"{ATOM}feed"
    assert root.findtext(f"{ATOM}updated") == "2026-11-22T12:05:00+00:00"
    entry = root.find(f"{ATOM}entry")
    assert entry.findtext(f"{ATOM}id") == f"urn:uuid:{made.pk}"
    assert entry.findtext(f"{ATOM}title") == SHARP
    assert entry.findtext(f"{ATOM}content") == (
        f"2026-11-22 12:05 UTC, Resolved: Over.\n\n2026-11-22 12:00 UTC, Investigating: {SHARP}"
    )
    assert entry.find(f"{ATOM}link").get("href").endswith(f"/status/incidents/{made.pk}")


def test_a_feed_without_entries_is_one(client) -> None:
    root = ElementTree.fromstring(client.get("/status/feed.xml").content)

    assert root.findall(f"{ATOM}entry") == []
    for name in ("id", "title", "updated"):
        assert root.findtext(f"{ATOM}{name}")


def test_the_feed_changes_with_an_update(client, admin, incident) -> None:
    first = client.get("/status/feed.xml")
    services.add_update(actor=admin, incident=incident, seen=1, state="identified", text="Found.")

    again = client.get("/status/feed.xml", HTTP_IF_NONE_MATCH=first["ETag"])

    assert again.status_code == 200
    assert b"Found." in again.content


def test_programs_read_incidents(client, admin, incident) -> None:
    services.open_incident(actor=admin, **WORK)

    document = json.loads(client.get("/status.json").content)

    assert [one["title"] for one in document["incidents"]] == ["Predictions are slow"]
    assert [one["title"] for one in document["maintenance"]] == ["New machines"]
    assert document["maintenance"][0]["planned_from"] == "2026-11-22T22:00:00+00:00"
    assert document["incidents"][0]["updates"] == [
        {
            "state": "investigating",
            "text": FIELDS["text"],
            "created_at": "2026-11-22T12:00:00+00:00",
        }
    ]


def test_script_in_an_incident_is_text(client, admin) -> None:
    services.open_incident(
        actor=admin, **FIELDS | {"title": SHARP, "text": SHARP, "impact": "critical"}
    )

    for url in ("/", "/status"):
        assert b"<b>" not in client.get(url).content.replace(b"<b></b>", b"")


def test_pages_of_the_past(client, admin, clock) -> None:
    for number in range(21):
        clock.move_to(NOON + timedelta(minutes=number))
        fields = FIELDS | {"title": f"No. {number:02d}.", "state": "resolved"}
        services.open_incident(actor=admin, **fields)

    assert "No. 00." not in client.get("/status").content.decode()
    assert "No. 00." in client.get("/status?page=2").content.decode()
    assert client.get("/status?page=1000000").status_code == 200


# --- The banner ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("impact", "is_told"),
    [("none", False), ("minor", False), ("major", True), ("critical", True)],
)
def test_every_page_tells_of_great_trouble(client, admin, impact, is_told) -> None:
    made = services.open_incident(actor=admin, **FIELDS | {"impact": impact})
    selectors.forget_incidents()

    assert (b"incident: Predictions are slow" in client.get("/").content) is is_told

    services.add_update(actor=admin, incident=made, seen=1, state="resolved", text="Over.")
    selectors.forget_incidents()
    assert b"incident: Predictions are slow" not in client.get("/").content


def test_work_is_not_on_the_banner(client, admin) -> None:
    services.open_incident(actor=admin, **WORK)
    selectors.forget_incidents()

    assert b"New machines" not in client.get("/").content


def test_the_banner_asks_once_in_a_while(settings, django_assert_num_queries) -> None:
    settings.PLATFORM_CACHE_S = 5
    selectors.list_on_banner()

    with django_assert_num_queries(0):
        selectors.list_on_banner()


# --- The console --------------------------------------------------------------------

NEW = {
    "title": "Predictions are slow",
    "impact": "major",
    "state": "investigating",
    "text": "Some answers\r\ntake long.",
    "parts": ["gateway"],
}


def read_digest(text: str) -> str:
    return text.partition('name="looked_at" value="')[2].partition('"')[0]


def test_what_is_new_is_looked_at_before_it_is_public(admin_client) -> None:
    first = admin_client.post("/platform/incidents", NEW)
    text = first.content.decode()

    assert first.status_code == 200
    assert "Not published yet" in text
    assert "on top of every page" in text
    assert not Incident.objects.exists()

    second = admin_client.post("/platform/incidents", NEW | {"looked_at": read_digest(text)})
    row = Incident.objects.get()
    assert second.status_code == 302
    assert second["Location"] == f"/platform/incidents/{row.pk}"
    assert IncidentUpdate.objects.get().text == "Some answers\ntake long."


def test_what_was_changed_since_is_looked_at_again(admin_client) -> None:
    digest = read_digest(admin_client.post("/platform/incidents", NEW).content.decode())

    again = admin_client.post(
        "/platform/incidents", NEW | {"text": "All is lost.", "looked_at": digest}
    )

    assert again.status_code == 200
    assert "Not published yet" in again.content.decode()
    assert not Incident.objects.exists()


def test_a_form_with_a_fault_is_shown_again(admin_client) -> None:
    before = state()

    for fields in ({"title": ""}, {"state": "planned"}, {"impact": "huge"}, {"parts": ["moon"]}):
        answer = admin_client.post("/platform/incidents", NEW | fields)
        assert answer.status_code == 422
        assert "errorlist" in answer.content.decode()
    assert state() == before


def test_what_the_service_refuses_is_told_in_the_form(admin_client) -> None:
    fields = NEW | {"models": "acme/none"}
    digest = read_digest(admin_client.post("/platform/incidents", fields).content.decode())

    answer = admin_client.post("/platform/incidents", fields | {"looked_at": digest})

    assert answer.status_code == 422
    assert "There is no model acme/none." in answer.content.decode()
    assert not Incident.objects.exists()


def test_an_update_is_looked_at_and_published(admin_client, incident) -> None:
    url = f"/platform/incidents/{incident.pk}"
    fields = {"seen": "1", "state": "resolved", "text": "Over."}

    first = admin_client.post(url, fields).content.decode()
    assert "nothing can be added afterwards" in first
    assert Incident.objects.get().resolved_at is None

    admin_client.post(url, fields | {"looked_at": read_digest(first)})
    assert Incident.objects.get().resolved_at == NOON
    assert "It is over since" in admin_client.get(url).content.decode()


def test_an_admin_who_was_slower_reads_and_decides_anew(admin_client, admin, incident) -> None:
    url = f"/platform/incidents/{incident.pk}"
    fields = {"seen": "1", "state": "identified", "text": "Mine."}
    digest = read_digest(admin_client.post(url, fields).content.decode())
    services.add_update(actor=admin, incident=incident, seen=1, state="monitoring", text="Other.")

    answer = admin_client.post(url, fields | {"looked_at": digest})
    text = answer.content.decode()

    assert answer.status_code == 409
    assert "Somebody has added an update meanwhile." in text
    assert "Other." in text
    assert "Mine." in text  # Nothing that was typed is lost.
    assert 'name="seen" value="2"' in text
    assert read_digest(text) == ""
    assert Incident.objects.get().updates_count == 2


def test_updates_of_what_is_over_are_refused(admin_client, admin, incident) -> None:
    url = f"/platform/incidents/{incident.pk}"
    fields = {"seen": "1", "state": "identified", "text": "Mine."}
    digest = read_digest(admin_client.post(url, fields).content.decode())
    services.add_update(actor=admin, incident=incident, seen=1, state="resolved", text="Over.")

    answer = admin_client.post(url, fields | {"looked_at": digest})

    assert answer.status_code == 409
    assert "It is over." in answer.content.decode()
    assert Incident.objects.get().updates_count == 2


def test_the_list_has_what_is_open_in_front(admin_client, admin, clock) -> None:
    services.open_incident(actor=admin, **FIELDS | {"title": "The old one"})
    clock.move_to(NOON + timedelta(hours=1))
    services.open_incident(actor=admin, **FIELDS | {"title": "The new one", "state": "resolved"})

    text = admin_client.get("/platform/incidents").content.decode()

    assert text.index("The old one") < text.index("The new one")
