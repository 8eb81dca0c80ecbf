"""Read predictions of an account."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from django.db.models import QuerySet

from inference.models import Prediction
from marketplace.core import ids
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError, NotFoundError
from marketplace.models import Account, APIKey
from marketplace.selectors.access import Actor, list_accounts

PAGE_SIZE = 50
# What is looked through for something rare, where nobody said from when on.
LOOK_BACK = timedelta(days=30)
# An id is made before its row says when it was asked; clocks of two gateways differ as well.
_SLACK = timedelta(hours=1)


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


@dataclass(frozen=True, slots=True)
class PredictionFilter:
    """A part of an account's predictions; days are UTC's, the last one is included."""

    since: date | None = None
    until: date | None = None
    model: str = ""
    key_id: UUID | None = None
    state: str = ""
    cost_nanos_min: int | None = None

    @property
    def is_rare(self) -> bool:
        """Whether what fits may lie far apart, so that finding it reads what does not fit."""
        return bool(self.model or self.key_id or self.state or self.cost_nanos_min is not None)


def list_predictions(
    account: Account, chosen: PredictionFilter | None = None
) -> QuerySet[Prediction]:
    """The account's predictions with their versions, newest first; all, or what was chosen."""
    predictions = Prediction.objects.filter(account_id=account.pk)
    if chosen is not None:
        predictions = _choose(predictions, chosen)
    return (
        predictions.select_related("version__model__account")
        .defer("input", "output", "version__interface", "version__model__card")
        .order_by("-id")
    )


def _choose(predictions: QuerySet[Prediction], chosen: PredictionFilter) -> QuerySet[Prediction]:
    since = chosen.since
    if since is None and chosen.is_rare:
        since = (chosen.until or utc_now().date()) - LOOK_BACK
    # Ids begin with the time: they find the days by the index of the account.
    if since is not None:
        begin = datetime.combine(since, time(), UTC)
        predictions = predictions.filter(
            created_at__gte=begin, pk__gte=ids.lowest_id(begin - _SLACK)
        )
    if chosen.until is not None:
        end = datetime.combine(chosen.until + timedelta(days=1), time(), UTC)
        predictions = predictions.filter(created_at__lt=end, pk__lt=ids.lowest_id(end + _SLACK))
    if chosen.model:
        owner, _, name = chosen.model.partition("/")
        predictions = predictions.filter(
            version__model__account__slug=owner, version__model__name=name
        )
    if chosen.key_id is not None:
        predictions = predictions.filter(api_key_id=chosen.key_id)
    if chosen.state:
        predictions = predictions.filter(state=chosen.state)
    if chosen.cost_nanos_min is not None:
        predictions = predictions.filter(cost_nanos__gte=chosen.cost_nanos_min)
    return predictions


def get_page(
    account: Account, chosen: PredictionFilter | None = None, *, before: str = ""
) -> PredictionPage:
    """A page of predictions.

    Args:
        account: Whose.
        chosen: Which part of them; None for all.
        before: The public id that the page before ended with; empty for the first page.

    Raises:
        InvalidInputError: `before` is no id.
    """
    predictions = list_predictions(account, chosen)
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


def find_key(prediction: Prediction) -> APIKey | None:
    """The key that asked for it; None for the try-it form, and for a key that was deleted."""
    keys = APIKey.objects.filter(account_id=prediction.account_id)
    return keys.filter(pk=prediction.api_key_id).first() if prediction.api_key_id else None


def find_kept_until(prediction: Prediction) -> datetime | None:
    """Until when its content is kept; None where nothing of it is."""
    if prediction.output is None and prediction.input is None:
        return None
    days = Account.objects.values_list("retention_days", flat=True).get(pk=prediction.account_id)
    return prediction.created_at + timedelta(days=days)


def _read_id(text: str) -> UUID:
    try:
        return ids.from_public(text)
    except ValueError as error:
        raise InvalidInputError("This is no id of a prediction.") from error
