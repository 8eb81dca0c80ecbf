from __future__ import annotations

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.urls import reverse
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString

from marketplace.admin.decision import ReasonForm, confirm_with_form, confirm_with_reason
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline
from marketplace.context import actor_of
from marketplace.models import AIModel, ModelVersion, Review, User
from marketplace.services import catalog, doubt, review


@admin.register(AIModel)
class AIModelAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "title", "task", "licence", "visibility", "created_at"]
    list_filter = ["visibility", "task"]
    search_fields = ["name", "title", "account__slug"]
    list_select_related = ["account"]
    ordering = ["account__slug", "name"]


class ReviewInline(ReadOnlyInline):
    model = Review


class ApprovalForm(ReasonForm):
    """A reason, and one box for each version about which there is something to make sure of."""

    def __init__(self, answers: QueryDict | None, versions: QuerySet[ModelVersion]) -> None:
        super().__init__(answers)
        for version in versions:
            doubts = doubt.find_doubts(version)
            if doubts:
                # Not required: who leaves it empty is told why, and the others are approved.
                self.fields[_box_of(version)] = forms.BooleanField(
                    required=False,
                    label=f"{version}: {' '.join(one.question for one in doubts)}",
                    # Django shows it as it is; names in it are the creators'.
                    help_text=escape(" ".join(one.text for one in doubts)),
                )
        self.order_fields([*(name for name in self.fields if name != "reason"), "reason"])


def _box_of(version: ModelVersion) -> str:
    return f"confirmed-{version.pk}"


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    """The review queue: filter by "in review", tick, and approve or refuse with a reason."""

    list_display = ["__str__", "state", "runtime", "size_bytes", "created_at", "page"]
    list_filter = ["state", "runtime"]
    search_fields = ["model__name", "model__account__slug", "id"]
    list_select_related = ["model__account"]
    inlines = [ReviewInline]
    actions = ["approve", "refuse", "withdraw"]
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
        return confirm_with_form(
            self,
            request,
            rows,
            action="approve",
            title="Approve versions",
            warning="They go on sale as soon as a replica is ready.",
            button="Approve",
            make_form=lambda answers: ApprovalForm(answers, rows),
            decide=lambda version, answers: review.approve_version(
                version=version,
                reviewer=reviewer,
                reason=answers["reason"],
                is_confirmed=answers.get(_box_of(version), False),
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

    @admin.action(description="Withdraw the selected versions …")
    def withdraw(self, request: HttpRequest, rows: QuerySet[ModelVersion]) -> HttpResponse | None:
        return confirm_with_reason(
            self,
            request,
            rows,
            action="withdraw",
            title="Withdraw versions",
            warning="They are unloaded at once and never served again. This cannot be undone.",
            button="Withdraw",
            decide=lambda version, reason: catalog.withdraw(
                version=version, actor=actor_of(request), reason=reason
            ),
        )


@admin.register(Review)
class ReviewAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "version", "decision", "reviewer", "reason"]
    list_filter = ["decision"]
    list_select_related = ["version__model__account", "reviewer"]
    ordering = ["-created_at"]
