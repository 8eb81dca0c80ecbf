"""Read how a model is asked: counts, scores and their trend."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from django.db.models import QuerySet

from inference.models import AbuseScore, QueryBudget, QuerySketch
from marketplace.core.errors import NotFoundError
from marketplace.models import Account, AIModel

# Consumers on a page: those with the highest scores, then those who ask most.
CONSUMERS_SHOWN = 50
TREND_LENGTH = 6


@dataclass(slots=True)
class ConsumerLine:
    """One consumer of a model."""

    slug: str
    distinct_today: int = 0
    distinct_total: int = 0
    row_count: int = 0
    last_at: datetime | None = None
    score: AbuseScore | None = None
    # Its own, in the place of the model's.
    budget: QueryBudget | None = None
    # Scores before the current one, oldest first.
    earlier: list[int] = field(default_factory=list)

    @property
    def trend(self) -> str:
        """How the score moved, in words."""
        if self.score is None or not self.earlier:
            return "first score" if self.score else ""
        change = self.score.score - self.earlier[-1]
        if change == 0:
            return "unchanged"
        return f"{'up' if change > 0 else 'down'} {abs(change)}"


def list_consumers(model: AIModel) -> list[ConsumerLine]:
    """Who asks a model and how, the most suspicious first.

    The model's own account is not counted, so it is not there.
    """
    lines: dict[UUID, ConsumerLine] = {}
    today = datetime.now(UTC).date()
    sketches = QuerySketch.objects.filter(model=model).select_related("account")
    totals = sketches.filter(period=QuerySketch.Period.TOTAL).order_by("-estimate")
    for one in totals[: 10 * CONSUMERS_SHOWN]:
        lines[one.account_id] = ConsumerLine(
            slug=one.account.slug,
            distinct_total=round(one.estimate),
            row_count=one.row_count,
            last_at=one.updated_at,
        )
    daily = sketches.filter(period=QuerySketch.Period.DAY, starts_on=today)
    for one in daily.filter(account_id__in=list(lines)):
        lines[one.account_id].distinct_today = round(one.estimate)
    scores = AbuseScore.objects.filter(model=model).select_related("account")
    for score in scores.filter(is_current=True).order_by("-score")[: 10 * CONSUMERS_SHOWN]:
        line = lines.setdefault(score.account_id, ConsumerLine(slug=score.account.slug))
        line.score = score
    shown = sorted(lines.items(), key=lambda item: _rank(item[1]))[:CONSUMERS_SHOWN]
    scored = [account_id for account_id, line in shown if line.score]
    earlier = scores.filter(account_id__in=scored, is_current=False).order_by("created_at")
    for account_id, value in earlier.values_list("account_id", "score"):
        lines[account_id].earlier.append(value)
    budgets = QueryBudget.objects.filter(model=model, account_id__in=[key for key, _ in shown])
    for budget in budgets:
        lines[budget.account_id].budget = budget
    for _, line in shown:
        line.earlier = line.earlier[-TREND_LENGTH:]
    return [line for _, line in shown]


def list_budgets(model: AIModel) -> QuerySet[QueryBudget]:
    """Budgets of single consumers, by their names."""
    budgets = QueryBudget.objects.filter(model=model).select_related("account")
    return budgets.order_by("account__slug")


def find_consumer(model: AIModel, slug: str) -> Account:
    """An account that has asked a model; whether others exist is nobody's business.

    Raises:
        NotFoundError: There is none of this name.
    """
    account = Account.objects.filter(slug=slug).first()
    asked = account and QuerySketch.objects.filter(model=model, account=account).exists()
    if account is None or not asked:
        raise NotFoundError("No such account has asked this model.")
    return account


def _rank(line: ConsumerLine) -> tuple[int, int, str]:
    return (-(line.score.score if line.score else -1), -line.distinct_total, line.slug)
