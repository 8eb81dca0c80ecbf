"""Read predictions of an account."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db.models import QuerySet

from inference.models import Prediction
from marketplace.core import ids
from marketplace.core.errors import InvalidInputError, NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class PredictionLine:
    """One prediction for people."""

    row: Prediction

    @property
    def public_id(self) -> str:
        """The id under which its consumer knows it."""
        return ids.to_public(self.row.pk)

    @property
    def predict_ms(self) -> float:
        """The model's own time."""
        return self.row.predict_time_us / 1000


@dataclass(frozen=True, slots=True)
class PredictionPage:
    """One page of predictions, and where the next one begins."""

    lines: list[PredictionLine]
    next_before: str


def list_predictions(account: Account) -> QuerySet[Prediction]:
    """The account's predictions with their versions, newest first."""
    return (
        Prediction.objects.filter(account_id=account.pk)
        .select_related("version__model__account")
        .defer("input", "output", "version__interface", "version__model__card")
        .order_by("-id")
    )


def get_page(account: Account, *, before: str = "") -> PredictionPage:
    """A page of predictions.

    Args:
        account: Whose.
        before: The public id that the page before ended with; empty for the first page.

    Raises:
        InvalidInputError: `before` is no id.
    """
    predictions = list_predictions(account)
    if before:
        predictions = predictions.filter(pk__lt=_read_id(before))
    # One more than shown tells whether there are more, without counting them all.
    rows = list(predictions[: PAGE_SIZE + 1])
    has_more = len(rows) > PAGE_SIZE
    lines = [PredictionLine(row) for row in rows[:PAGE_SIZE]]
    return PredictionPage(lines, lines[-1].public_id if has_more else "")


def access_prediction(actor: Actor, public_id: str) -> Prediction:
    """A prediction that one of the actor's accounts ran.

    Raises:
        NotFoundError: None of that id among the actor's accounts.
    """
    accounts = list_accounts(actor).values("pk")
    predictions = Prediction.objects.select_related("version__model__account")
    try:
        found = predictions.filter(pk=ids.from_public(public_id), account_id__in=accounts).first()
    except ValueError:
        found = None
    if found is None:
        raise NotFoundError("No such prediction.")
    return found


def _read_id(text: str) -> UUID:
    try:
        return ids.from_public(text)
    except ValueError as error:
        raise InvalidInputError("This is no id of a prediction.") from error
