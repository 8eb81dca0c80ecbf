"""Change a model's card in the browser, where two people may do so at once."""

from __future__ import annotations

from django.db import transaction

from marketplace.core.card_check import check_card
from marketplace.core.errors import InvalidInputError
from marketplace.errors import CardChangedError
from marketplace.models import Account, AIModel, CardRevision
from marketplace.selectors.access import Actor
from marketplace.selectors.card import current_number
from marketplace.services import audit
from marketplace.services.catalog import put_model


def save_card(*, actor: Actor, model: AIModel, text: str, base: int) -> int:
    """Give the model another card; the same again changes nothing.

    Args:
        actor: Who does it; the caller has checked the right to push.
        model: Whose card it is. Its versions, their manifests and digests stay as they are.
        text: The whole card.
        base: The number of the state that the person has seen; 0 where there was none.

    Returns:
        The number of the state that the card has now.

    Raises:
        CardChangedError: The card has another state by now; nothing was changed.
        InvalidInputError: The card has faults or is too long; nothing was changed.
    """
    faults = check_card(text).faults
    if faults:
        raise InvalidInputError(
            errors=[
                {"pointer": "/card", "detail": f"Line {one.line}: {one.text}"} for one in faults
            ]
        )
    with transaction.atomic():
        _require_base(model, base)
        put_model(actor=actor, account=model.account, name=model.name, fields={"card": text})
        return current_number(model)


def restore_card(*, actor: Actor, model: AIModel, revision: CardRevision, base: int) -> int:
    """Bring an older state back, as a new one: what stood in between is kept too.

    A card with faults that was there before may come back: it was shown like that.

    Args:
        actor: Who does it; the caller has checked the right to push.
        model: Whose card it is.
        revision: The state that comes back.
        base: As in `save_card`.

    Returns:
        The number of the state that the card has now.

    Raises:
        CardChangedError: The card has another state by now; nothing was changed.
    """
    with transaction.atomic():
        _require_base(model, base)
        fields = {"card": revision.text}
        put_model(actor=actor, account=model.account, name=model.name, fields=fields)
        number = current_number(model)
        if number != base:
            model.card_revisions.filter(number=number).update(restored_number=revision.number)
            audit.record(
                actor.label,
                "card.restore",
                model,
                account_id=model.account_id,
                payload={"model": str(model), "restored": revision.number, "number": number},
            )
    return number


def _require_base(model: AIModel, base: int) -> None:
    # The lock that `put_model` takes first: nobody writes between this look and its change.
    Account.objects.select_for_update(no_key=True).get(pk=model.account_id)
    number = current_number(model)
    if number != base:
        raise CardChangedError(number=number)
