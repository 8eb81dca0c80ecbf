from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from marketplace.admin.decision import confirm_with_reason
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline
from marketplace.models import AIModel, ModelVersion, Review, User
from marketplace.services import review


@admin.register(AIModel)
class AIModelAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "title", "task", "licence", "visibility", "created_at"]
    list_filter = ["visibility", "task"]
    search_fields = ["name", "title", "account__slug"]
    list_select_related = ["account"]
    ordering = ["account__slug", "name"]


class ReviewInline(ReadOnlyInline):
    model = Review


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    """The review queue: filter by "in review", tick, and approve or refuse with a reason."""

    list_display = ["__str__", "state", "runtime", "size_bytes", "created_at", "page"]
    list_filter = ["state", "runtime"]
    search_fields = ["model__name", "model__account__slug", "id"]
    list_select_related = ["model__account"]
    inlines = [ReviewInline]
    actions = ["approve", "refuse"]
    ordering = ["-created_at"]

    @admin.display(description="Onboarding")
    def page(self, version: ModelVersion) -> SafeString:
        # Inference's page; named by its address, as pages of another package are.
        url = reverse("inference:version-panel", args=[version.pk])
        return format_html('<a href="{}">Steps and certificate</a>', url)

    @admin.action(description="Approve the selected versions …")
    def approve(self, request: HttpRequest, rows: QuerySet[ModelVersion]) -> HttpResponse | None:
        reviewer = request.user
        assert isinstance(reviewer, User)
        return confirm_with_reason(
            self,
            request,
            rows,
            action="approve",
            title="Approve versions",
            warning="They go on sale as soon as a replica is ready.",
            button="Approve",
            decide=lambda version, reason: review.approve_version(
                version=version, reviewer=reviewer, reason=reason
            ),
        )

    @admin.action(description="Refuse the selected versions …")
    def refuse(self, request: HttpRequest, rows: QuerySet[ModelVersion]) -> HttpResponse | None:
        reviewer = request.user
        assert isinstance(reviewer, User)
        return confirm_with_reason(
            self,
            request,
            rows,
            action="refuse",
            title="Refuse versions",
            warning="This cannot be undone; the creator has to push another version.",
            button="Refuse",
            decide=lambda version, reason: review.refuse_version(
                version=version, reviewer=reviewer, reason=reason
            ),
        )


@admin.register(Review)
class ReviewAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "version", "decision", "reviewer", "reason"]
    list_filter = ["decision"]
    list_select_related = ["version__model__account", "reviewer"]
    ordering = ["-created_at"]
