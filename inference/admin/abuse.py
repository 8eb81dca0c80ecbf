from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from inference.models import AbuseScore
from inference.services import abuse
from marketplace.admin.decision import confirm_with_reason
from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.models import User
from marketplace.selectors.access import Actor


@admin.register(AbuseScore)
class AbuseScoreAdmin(ReadOnlyAdmin):
    """Whose inputs look like copying, of all models. Suspending is done at accounts."""

    list_display = ["__str__", "score", "is_current", "created_at", "reviewed_at", "reviewed_by"]
    list_filter = ["is_current", ("reviewed_at", admin.EmptyFieldListFilter)]
    search_fields = ["account__slug", "model__name", "model__account__slug"]
    list_select_related = ["account", "model__account", "reviewed_by"]
    actions = ["review"]
    ordering = ["-is_current", "-score", "-created_at"]

    @admin.action(description="Mark the selected scores as reviewed …")
    def review(self, request: HttpRequest, rows: QuerySet[AbuseScore]) -> HttpResponse | None:
        assert isinstance(request.user, User)
        actor = Actor(user=request.user)
        return confirm_with_reason(
            self,
            request,
            rows,
            action="review",
            title="Mark as reviewed",
            warning="The note is shown to the model's creator. Nobody is blocked by this.",
            button="Mark as reviewed",
            decide=lambda score, reason: abuse.review_score(score=score, actor=actor, note=reason),
        )
