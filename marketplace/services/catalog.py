"""Change what is offered: models, versions and the channels that name one.

A version's content never changes. Its state moves along the arrows below, each by one
function; every move locks the row, so that of two that race only one happens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Max

from marketplace.core import limits
from marketplace.core.errors import FieldError, InvalidInputError
from marketplace.core.ids import new_id
from marketplace.errors import (
    AccountClosingError,
    ChannelMovedError,
    CountLimitError,
    VersionNotApprovedError,
    VersionStateError,
)
from marketplace.models import Account, AIModel, Channel, ModelVersion
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.card_revision import keep_revision
from marketplace.services.limits import QUERY_FIELDS, RATE_FIELDS, check_rates
from marketplace.services.validation import check_row

State = ModelVersion.State

# From a state, those that a version may reach next. What is missing here cannot happen.
ARROWS: Mapping[str, frozenset[str]] = {
    State.UPLOADING: frozenset({State.ONBOARDING, State.FAILED}),
    State.ONBOARDING: frozenset({State.IN_REVIEW, State.FAILED, State.WITHDRAWN}),
    State.IN_REVIEW: frozenset({State.APPROVED, State.REFUSED, State.FAILED, State.WITHDRAWN}),
    State.APPROVED: frozenset({State.WITHDRAWN}),
    State.REFUSED: frozenset(),
    State.FAILED: frozenset(),
    State.WITHDRAWN: frozenset(),
}

# What `put_model` may set; name and owner are the model's address and never change.
LISTING_FIELDS = ("title", "summary", "card", "task", "licence", "industry", "visibility")
# Against copying; see `inference.gateway.query_budget`.
GUARD_FIELDS = (*QUERY_FIELDS, "samples_queries")
MODEL_FIELDS = frozenset({*LISTING_FIELDS, *RATE_FIELDS, *GUARD_FIELDS})

# The same forms that a signed manifest accepts.
TASK_PATTERN = r"^[a-z0-9][a-z0-9-]*\Z"
LICENCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9.+() -]*\Z"
LISTING_FORMS: Mapping[str, tuple[str, str]] = {
    "task": (TASK_PATTERN, "Lowercase letters, digits and hyphens."),
    "industry": (TASK_PATTERN, "Lowercase letters, digits and hyphens."),
    "licence": (LICENCE_PATTERN, "An SPDX expression, such as Apache-2.0."),
}

# Who acted, where the platform itself did.
SYSTEM_LABEL = "system:onboarding"


def put_model(
    *, actor: Actor, account: Account, name: str, fields: Mapping[str, Any]
) -> tuple[AIModel, bool]:
    """Create a model or change its listing, rates or budgets; the same again changes nothing.

    Args:
        actor: Who does it; the caller has checked the right to push.
        account: Whose model it is.
        name: The second part of its address.
        fields: Some of `MODEL_FIELDS`; the others keep their value.

    Returns:
        The model, and whether it is new.

    Raises:
        InvalidInputError: A field is not valid.
        CountLimitError: The account has as many models as it may have.
        AccountClosingError: A new model of an account that is going to be deleted.
    """
    assert not set(fields) - MODEL_FIELDS, set(fields) - MODEL_FIELDS
    _check_forms(fields)
    check_rates(fields)
    with transaction.atomic():
        # Takes turns per account, so that two that create at once see each other.
        locked = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        model = AIModel.objects.filter(account=account, name=name).first()
        is_new = model is None
        if model is None:
            if locked.closes_at is not None:
                raise AccountClosingError
            count = account.models.count()
            if count >= limits.MODELS_PER_ACCOUNT_MAX:
                raise CountLimitError(f"An account has at most {count} models.")
            model = AIModel(account=account, name=name)
        changed = sorted(key for key, value in fields.items() if getattr(model, key) != value)
        card_before = model.card
        if is_new or changed:
            for key in changed:
                setattr(model, key, fields[key])
            check_row(model)
            model.save(force_insert=is_new)
            if "card" in changed:
                keep_revision(model, before=card_before, author=actor.label)
            action = "model.create" if is_new else "model.update"
            audit.record(
                actor.label,
                action,
                model,
                account_id=account.pk,
                payload={"model": str(model), "changed": changed},
            )
    return model, is_new


def _check_forms(fields: Mapping[str, Any]) -> None:
    faults: list[FieldError] = [
        {"pointer": f"/{name}", "detail": rule}
        for name, (pattern, rule) in LISTING_FORMS.items()
        if fields.get(name) and not re.match(pattern, fields[name])
    ]
    if faults:
        raise InvalidInputError(errors=faults)


def create_version(*, model: AIModel, actor: Actor, version_id: UUID | None = None) -> ModelVersion:
    """Give a model its next version, in the state `uploading`.

    Args:
        model: The model; the caller has checked the right to push.
        actor: Who pushes.
        version_id: The id, where it had to be known before.

    Raises:
        CountLimitError: The model has as many versions as it may have.
    """
    with transaction.atomic():
        # The lock makes numbers follow each other without a gap or a repeat.
        AIModel.objects.select_for_update(no_key=True).get(pk=model.pk)
        last = model.versions.aggregate(last=Max("number"))["last"] or 0
        if last >= limits.VERSIONS_PER_MODEL_MAX:
            raise CountLimitError(f"A model has at most {last} versions.")
        version = ModelVersion.objects.create(
            id=version_id or new_id(), model=model, number=last + 1, created_by=actor.user
        )
        audit.record(
            actor.label,
            "version.create",
            version,
            account_id=model.account_id,
            payload={"version": str(version)},
        )
    return version


def start_onboarding(
    *,
    version: ModelVersion,
    runtime: str,
    interface: dict[str, Any],
    manifest_sha256: str,
    size_bytes: int,
    publish_channel: str = "",
    output_policy: dict[str, Any] | None = None,
) -> ModelVersion:
    """The upload is complete: fix what the version is. `uploading` to `onboarding`."""
    with transaction.atomic():
        if _move(version, State.ONBOARDING):
            version.runtime = runtime
            version.interface = interface
            version.manifest_sha256 = manifest_sha256
            version.size_bytes = size_bytes
            version.publish_channel = publish_channel
            version.output_policy = output_policy or {}
            version.save(
                update_fields=[
                    "runtime",
                    "interface",
                    "manifest_sha256",
                    "size_bytes",
                    "publish_channel",
                    "output_policy",
                ]
            )
    return version


def submit_for_review(
    *, version: ModelVersion, certificate: dict[str, Any] | None = None
) -> ModelVersion:
    """Everything a machine can check is right. `onboarding` to `in_review`.

    Args:
        version: The version; repeating the call changes nothing.
        certificate: What the benchmark measured, if it has not been stored before.
    """
    with transaction.atomic():
        if _move(version, State.IN_REVIEW) and certificate is not None:
            version.certificate = certificate
            version.save(update_fields=["certificate"])
    return version


def fail(*, version: ModelVersion, reason: str) -> ModelVersion:
    """It cannot be served. To `failed`; a version that failed before keeps its first reason."""
    with transaction.atomic():
        if _move(version, State.FAILED):
            version.refusal_reason = reason
            version.save(update_fields=["refusal_reason"])
    return version


def approve(*, version: ModelVersion, actor: Actor, reason: str = "") -> ModelVersion:
    """An admin lets it be sold. `in_review` to `approved`; see `services.review`."""
    return _decide(version, State.APPROVED, "version.approve", actor, reason)


def refuse(*, version: ModelVersion, actor: Actor, reason: str) -> ModelVersion:
    """An admin turns it down. `in_review` to `refused`; see `services.review`."""
    return _decide(version, State.REFUSED, "version.refuse", actor, reason)


def _decide(
    version: ModelVersion, state: str, action: str, actor: Actor, reason: str
) -> ModelVersion:
    with transaction.atomic():
        if not _move(version, state):
            raise VersionStateError(f"{version} is {version.get_state_display().lower()} already.")
        if state == State.REFUSED:
            version.refusal_reason = reason
            version.save(update_fields=["refusal_reason"])
        audit.record(
            actor.label,
            action,
            version,
            account_id=version.model.account_id,
            payload={"version": str(version), "reason": reason},
        )
    return version


def withdraw(*, version: ModelVersion, actor: Actor, reason: str = "") -> ModelVersion:
    """Take a version out of service for good; channels that name it are taken away.

    Args:
        version: Repeating it changes nothing.
        actor: Who does it; the caller has checked the right to publish.
        reason: Why, where a platform admin does it.
    """
    with transaction.atomic():
        # Held against `publish_version`, which must not name it again meanwhile.
        AIModel.objects.select_for_update(no_key=True).get(pk=version.model_id)
        if _move(version, State.WITHDRAWN):
            channels = list(version.channels.order_by("name").values_list("name", flat=True))
            version.channels.all().delete()
            audit.record(
                actor.label,
                "version.withdraw",
                version,
                account_id=version.model.account_id,
                payload={
                    "version": str(version),
                    "channels": channels,
                    **({"reason": reason} if reason else {}),
                },
            )
    return version


def publish_version(
    *,
    version: ModelVersion,
    channel: str,
    actor: Actor | None = None,
    only_from: int | None = None,
) -> Channel:
    """Move a channel to an approved version; consumers that follow it get this one at once.

    Args:
        version: The version; repeating the call changes nothing.
        channel: One of `Channel.Name`.
        actor: Who does it; None where onboarding fulfils the manifest's wish.
        only_from: The number that the channel must name until now.

    Raises:
        VersionNotApprovedError: Nothing was moved.
        ChannelMovedError: The channel names another version than `only_from`.
    """
    assert channel in Channel.Name.values, channel
    with transaction.atomic():
        # Two moves of one channel take turns, and neither passes a withdrawal.
        AIModel.objects.select_for_update(no_key=True).get(pk=version.model_id)
        version.refresh_from_db(fields=["state"])
        if version.state != State.APPROVED:
            state = version.get_state_display().lower()
            raise VersionNotApprovedError(f"{version} is {state}.")
        moved = Channel.objects.filter(model=version.model, name=channel).first()
        before = moved.version.number if moved else None
        if only_from is not None and before != only_from:
            raise ChannelMovedError(f"{channel} has been moved since; nothing was changed.")
        if moved is None:
            moved = Channel.objects.create(model=version.model, name=channel, version=version)
        elif moved.version_id == version.pk:
            return moved
        else:
            moved.version = version
            moved.save()
        audit.record(
            actor.label if actor else SYSTEM_LABEL,
            "channel.move",
            version,
            account_id=version.model.account_id,
            payload={"channel": str(moved), "from": before, "to": version.number},
        )
    return moved


def _move(version: ModelVersion, state: str) -> bool:
    """Lock the version and move it along an arrow; false if it is there already."""
    locked = ModelVersion.objects.select_for_update(no_key=True).get(pk=version.pk)
    version.state = locked.state
    if locked.state == state:
        return False
    if state not in ARROWS[locked.state]:
        before, after = locked.get_state_display().lower(), State(state).label.lower()
        raise VersionStateError(f"{version} is {before}; it cannot become {after}.")
    version.state = state
    version.save(update_fields=["state"])
    return True
