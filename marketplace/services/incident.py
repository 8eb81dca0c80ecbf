"""Tell everybody of trouble and of planned work, and what became of it.

What is published is not changed: an incident's head stays as it was opened, and each word on it
is an update of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db import transaction

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.errors import ConflictError, InvalidInputError, NotFoundError
from marketplace.models import AIModel, Incident, IncidentUpdate, User
from marketplace.selectors.access import Actor, access_model
from marketplace.selectors.incident import forget_incidents
from marketplace.services import audit
from marketplace.services.admin import require_admin
from marketplace.services.validation import check_row

Impact = Incident.Impact
State = Incident.State

TROUBLE_STATES = (State.INVESTIGATING, State.IDENTIFIED, State.MONITORING, State.RESOLVED)
WORK_STATES = (State.PLANNED, State.UNDER_WAY, State.RESOLVED)
# What feeds cannot carry: XML has no way to write these characters.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")


def list_states(impact: str) -> Sequence[State]:
    """The states that such an incident may be in, in their order."""
    return WORK_STATES if impact == Impact.MAINTENANCE else TROUBLE_STATES


def open_incident(
    *,
    actor: Actor,
    title: str,
    impact: str,
    state: str,
    text: str,
    parts: Sequence[str] = (),
    models: Sequence[str] = (),
    planned_from: datetime | None = None,
    planned_until: datetime | None = None,
) -> Incident:
    """Publish an incident with its first update; everybody who may see it does within seconds.

    Args:
        actor: A platform admin.
        title: A headline; it cannot be changed later.
        impact: One of `Incident.Impact`.
        state: Where it stands; see `list_states`.
        text: The first update.
        parts: Of the platform, by `Part`.
        models: As `owner/name`.
        planned_from: Of maintenance alone: when it begins.
        planned_until: And when it ends.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: A field is not valid, or nothing is named that it is about.
    """
    user = require_admin(actor)
    if impact not in Impact.values:
        _refuse("/impact", "There is no such impact.")
    named = _read_models(actor, models)
    if not parts and not named:
        _refuse("/parts", "Name a part or a model that it is about.")
    now = utc_now()
    _check_window(impact, planned_from, planned_until, now)
    row = Incident(
        title=_clean(title, "title", limits.INCIDENT_TITLE_LENGTH_MAX, is_line=True),
        impact=impact,
        parts=sorted(set(parts)),
        planned_from=planned_from,
        planned_until=planned_until,
        created_at=now,
        state=state,
        updated_at=now,
        resolved_at=now if state == State.RESOLVED else None,
    )
    update = _make_update(row, user, state, text, now)
    check_row(row)
    with transaction.atomic():
        row.save(force_insert=True)
        row.named_models.set(named)
        update.save(force_insert=True)
        told = {
            "title": row.title,
            "impact": impact,
            "state": state,
            "text": update.text,
            "parts": row.parts,
            "models": [str(model) for model in named],
        }
        audit.record(actor.label, "incident.open", row, payload=told)
        transaction.on_commit(forget_incidents)
    return row


def add_update(*, actor: Actor, incident: Incident, seen: int, state: str, text: str) -> Incident:
    """Publish what is known by now; with the state resolved, it is over.

    Args:
        actor: A platform admin.
        incident: Of which.
        seen: How many updates the admin has read; a further one of somebody else is not talked
            over.
        state: Where it stands; see `list_states`.
        text: What is known.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: No text, or a state that such an incident has not.
        ConflictError: It is over, has all the updates it may have, or somebody was quicker.
    """
    user = require_admin(actor)
    with transaction.atomic():
        row = Incident.objects.select_for_update(no_key=True).get(pk=incident.pk)
        if row.resolved_at is not None:
            raise ConflictError("It is over. Open another incident if it came back.")
        if row.updates_count != seen:
            raise ConflictError("Somebody has added an update meanwhile. Read it, then publish.")
        if row.updates_count >= limits.INCIDENT_UPDATES_MAX:
            raise ConflictError(
                f"An incident has at most {limits.INCIDENT_UPDATES_MAX} updates. "
                "Open another one that goes on with it."
            )
        # A clock that was set back must not put an update before the one that it follows.
        now = max(utc_now(), row.updated_at)
        row.updates_count += 1
        update = _make_update(row, user, state, text, now)
        update.save(force_insert=True)
        row.state, row.updated_at = state, now
        row.resolved_at = now if state == State.RESOLVED else None
        row.save(update_fields=["state", "updated_at", "updates_count", "resolved_at"])
        told = {"number": update.number, "state": state, "text": update.text}
        audit.record(actor.label, "incident.update", row, payload=told)
        transaction.on_commit(forget_incidents)
    return row


def _make_update(row: Incident, user: User, state: str, text: str, now: datetime) -> IncidentUpdate:
    if state not in list_states(row.impact):
        _refuse("/state", "An incident of this kind has no such state.")
    return IncidentUpdate(
        incident=row,
        number=row.updates_count,
        state=state,
        text=_clean(text, "text", limits.INCIDENT_TEXT_LENGTH_MAX),
        author=user,
        created_at=now,
    )


def _clean(text: str, name: str, length_max: int, *, is_line: bool = False) -> str:
    text = " ".join(text.split()) if is_line else text.replace("\r\n", "\n").strip()
    if _UNPRINTABLE.search(text):
        _refuse(f"/{name}", "Contains a character that cannot be shown.")
    if not 0 < len(text) <= length_max:
        _refuse(f"/{name}", f"Must have 1 to {length_max} characters.")
    return text


def _read_models(actor: Actor, names: Iterable[str]) -> list[AIModel]:
    unique = sorted(set(names))
    if len(unique) > limits.INCIDENT_MODELS_MAX:
        _refuse("/models", f"At most {limits.INCIDENT_MODELS_MAX} models.")
    found = []
    for one in unique:
        owner, _, name = one.partition("/")
        try:
            found.append(access_model(actor, owner, name))
        except NotFoundError:
            _refuse("/models", f"There is no model {one[:110]}.")
    return found


def _check_window(impact: str, begin: datetime | None, end: datetime | None, now: datetime) -> None:
    if impact != Impact.MAINTENANCE:
        if begin or end:
            _refuse("/planned_from", "Only maintenance has a window.")
        return
    if begin is None or end is None:
        _refuse("/planned_from" if begin is None else "/planned_until", "Maintenance needs it.")
    assert begin is not None
    assert end is not None
    if end <= max(begin, now):
        _refuse("/planned_until", "It would be over before it begins, or is over already.")
    if end - begin > limits.MAINTENANCE_LENGTH_MAX:
        _refuse("/planned_until", f"At most {limits.MAINTENANCE_LENGTH_MAX.days} days.")
    if begin - now > limits.MAINTENANCE_AHEAD_MAX:
        _refuse("/planned_from", f"At most {limits.MAINTENANCE_AHEAD_MAX.days} days from now.")


def _refuse(pointer: str, detail: str) -> None:
    raise InvalidInputError(errors=[{"pointer": pointer, "detail": detail}])
