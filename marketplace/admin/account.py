from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from marketplace.admin.decision import ReasonForm, confirm_with_form, confirm_with_reason
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline
from marketplace.context import actor_of
from marketplace.forms.limits import RateForm
from marketplace.models import Account, Membership, User
from marketplace.services import account as accounts
from marketplace.services.limits import RATE_FIELDS


class RateReasonForm(RateForm, ReasonForm):
    """Rates, and why."""

    field_order = (*RATE_FIELDS, "reason")


class MemberInline(ReadOnlyInline):
    model = Membership


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = ["slug", "name", "kind", "created_at", "suspended_at", "frozen_at"]
    list_filter = ["kind", "suspended_at", "frozen_at"]
    search_fields = ["slug", "name", "memberships__user__email"]
    inlines = [MemberInline]
    actions = ["suspend", "unsuspend", "limit"]
    ordering = ["slug"]

    @admin.action(description="Suspend the selected accounts …")
    def suspend(self, request: HttpRequest, rows: QuerySet[Account]) -> HttpResponse | None:
        return confirm_with_reason(
            self,
            request,
            rows,
            action="suspend",
            title="Suspend accounts",
            warning="Their keys stop working at once, and their models are not served any more.",
            button="Suspend",
            decide=lambda account, reason: accounts.suspend_account(
                actor=actor_of(request), account=account, reason=reason
            ),
        )

    @admin.action(description="Lift the suspension of the selected accounts …")
    def unsuspend(self, request: HttpRequest, rows: QuerySet[Account]) -> HttpResponse | None:
        return confirm_with_reason(
            self,
            request,
            rows,
            action="unsuspend",
            title="Lift suspensions",
            warning="Their keys work again, and their models are served again.",
            button="Lift suspension",
            decide=lambda account, reason: accounts.unsuspend_account(
                actor=actor_of(request), account=account, reason=reason
            ),
        )

    @admin.action(description="Limit the rates of the selected accounts …")
    def limit(self, request: HttpRequest, rows: QuerySet[Account]) -> HttpResponse | None:
        chosen = list(rows[:2])
        shown = chosen[0] if len(chosen) == 1 else Account()
        return confirm_with_form(
            self,
            request,
            rows,
            action="limit",
            title="Limit rates",
            warning="All keys of the account together; what is left empty is not limited.",
            button="Set the limits",
            make_form=lambda answers: RateReasonForm(
                answers, initial={name: getattr(shown, name) for name in RATE_FIELDS}
            ),
            decide=lambda account, answers: accounts.set_account_rates(
                actor=actor_of(request),
                account=account,
                rates={name: answers[name] for name in RATE_FIELDS},
                reason=answers["reason"],
            ),
        )


@admin.register(User)
class UserAdmin(ReadOnlyAdmin):
    list_display = ["email", "name", "is_staff", "is_active", "last_login", "created_at"]
    list_filter = ["is_staff", "is_active"]
    search_fields = ["email", "name"]
    exclude = ["password"]
    ordering = ["email"]


# Rights follow from membership and from `is_staff`; Django's groups would be a third way.
admin.site.unregister(Group)
