"""Destroy the keys of versions and models, so that nobody can open them ever again.

The key broker does it and writes the proof; this checks who may, asks it, and records it. What
was begun and not finished is finished by asking again.
"""

from __future__ import annotations

from django.db import transaction

from inference.errors import ConfirmationMissingError
from inference.models import KeyShred
from inference.selectors import shredding as selectors
from inference.services import keybroker_client
from marketplace.core import limits
from marketplace.core.errors import InvalidInputError
from marketplace.errors import VersionStateError
from marketplace.models import AIModel, AuditEvent, ModelVersion
from marketplace.selectors.access import Actor, require_right
from marketplace.services import audit

State = ModelVersion.State
# In these a version is never served again. The broker insists on it as well.
ENDED_STATES = frozenset({State.WITHDRAWN, State.REFUSED, State.FAILED})


def check_confirmation(confirmation: object, subject: AIModel | ModelVersion) -> None:
    """Raise `ConfirmationMissingError` unless this is the subject's full name."""
    if confirmation != str(subject):
        detail = f'Nothing was destroyed. Confirm with "confirm": "{subject}".'
        raise ConfirmationMissingError(
            detail, errors=[{"pointer": "/confirm", "detail": f"Must be {subject}."}]
        )


def shred_version(*, version: ModelVersion, actor: Actor, reason: str) -> KeyShred:
    """Destroy a version's key: every copy of its files is useless, here and in all backups.

    Repeating it returns the same proof.

    Args:
        version: Withdrawn, refused or failed.
        actor: Who may withdraw it, or a platform admin.
        reason: Why; it stands in the proof for good.

    Raises:
        ForbiddenError: The actor may not.
        InvalidInputError: The reason is missing or too long.
        VersionStateError: The version could still be served.
        KeyBrokerUnavailableError: Repeat it later.
        RefusedError: There never was a key.
    """
    _check_right(actor, version.model)
    reason = _check_reason(reason)
    _check_ended(version)
    keybroker_client.shred(
        model_id=version.model_id, artifact_ids=[version.pk], by=actor.label, reason=reason
    )
    with transaction.atomic():
        _record(actor.label, "version.shred", version, version.model, reason)
        proof = selectors.find_shred(version)
    assert proof is not None, "the broker writes it before it answers"
    return proof


def shred_model(*, model: AIModel, actor: Actor, reason: str) -> KeyShred:
    """Destroy the keys of a model and all its versions; it never gets another.

    Raises as `shred_version`.
    """
    _check_right(actor, model)
    return shred_ended_model(model=model, label=actor.label, reason=_check_reason(reason))


def shred_ended_model(*, model: AIModel, label: str, reason: str) -> KeyShred:
    """The same by the platform's own hand, where the account of a model is deleted.

    Args:
        model: All its versions are withdrawn, refused or failed.
        label: Who does it, for the proof and the audit log.
        reason: Why; it stands in the proof for good.

    Raises as `shred_version`, but for rights.
    """
    for version in model.versions.exclude(state__in=ENDED_STATES).order_by("number")[:1]:
        _check_ended(version)
    keybroker_client.shred(model_id=model.pk, artifact_ids=None, by=label, reason=reason)
    with transaction.atomic():
        _record(label, "model.shred", model, model, reason)
        proof = selectors.find_model_shred(model)
    assert proof is not None, "the broker writes it before it answers"
    return proof


def _check_right(actor: Actor, model: AIModel) -> None:
    if not actor.is_admin:
        require_right(actor, model.account, "publish")


def _check_reason(reason: str) -> str:
    reason = reason.strip()
    if not 0 < len(reason) <= limits.REASON_LENGTH_MAX or "\x00" in reason:
        detail = f"A reason has 1 to {limits.REASON_LENGTH_MAX} characters."
        raise InvalidInputError(errors=[{"pointer": "/reason", "detail": detail}])
    return reason


def _check_ended(version: ModelVersion) -> None:
    if version.state not in ENDED_STATES:
        state = version.get_state_display().lower()
        raise VersionStateError(f"{version} is {state}; withdraw it first.")


def _record(
    label: str, action: str, subject: AIModel | ModelVersion, model: AIModel, reason: str
) -> None:
    # The row is locked, so that of two who repeat it at once only one records it.
    type(subject).objects.select_for_update(no_key=True).get(pk=subject.pk)
    if AuditEvent.objects.filter(action=action, object_id=str(subject.pk)).exists():
        return
    payload = {"subject": str(subject), "reason": reason}
    audit.record(label, action, subject, account_id=model.account_id, payload=payload)
