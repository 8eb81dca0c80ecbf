"""The person's profile, the account's settings, members and activity."""

from __future__ import annotations

from collections.abc import Callable

from django import forms
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from marketplace.address import address_of
from marketplace.context import SESSION_KEY, actor_of, current_account
from marketplace.core.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
)
from marketplace.forms.account import (
    AccountPageForm,
    ChangePasswordForm,
    MemberForm,
    OrganisationForm,
    PersonForm,
    RoleForm,
)
from marketplace.forms.problem import add_problem
from marketplace.models import Account, Membership, User
from marketplace.selectors.access import access_account, has_right
from marketplace.selectors.account import describe_event, list_events, list_members
from marketplace.selectors.found import get_one
from marketplace.services import account as accounts
from marketplace.services.session import end_sessions, follow_session
from marketplace.views.confirm import needs_confirmation
from marketplace.views.paging import page_of
from marketplace.views.redirects import own_url


@login_required
@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Where a person lands: creators at their models, others at their keys."""
    account = current_account(request)
    if account is None:
        return redirect("marketplace:catalogue")
    has_models = account.models.exists()
    return redirect("marketplace:dashboard" if has_models else "marketplace:console")


@login_required
@require_POST
def switch(request: HttpRequest) -> HttpResponse:
    """Show another of the person's accounts."""
    account = access_account(actor_of(request), request.POST.get("account", ""))
    request.session[SESSION_KEY] = account.slug
    messages.info(request, f"You now work for {account.slug}.")
    return redirect(own_url(request, request.POST.get("next")))


@login_required
@sensitive_post_parameters("current", "password")
@require_http_methods(["GET", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    """The person's own name and password."""
    assert isinstance(request.user, User)
    is_password = request.POST.get("form") == "password"
    person_form = PersonForm(
        request.POST if request.POST and not is_password else None,
        initial={"name": request.user.name},
    )
    password_form = ChangePasswordForm(request.POST if is_password else None)
    if is_password and password_form.is_valid() and _change_password(request, password_form):
        messages.success(request, "The password is changed. Other sessions have ended.")
        return redirect("marketplace:profile")
    if not is_password and person_form.is_valid():
        accounts.rename_person(user=request.user, name=person_form.cleaned_data["name"])
        messages.success(request, "Saved.")
        return redirect("marketplace:profile")
    context = {"person_form": person_form, "password_form": password_form}
    return render(
        request, "marketplace/profile.html", context, status=_status(person_form, password_form)
    )


def _change_password(request: HttpRequest, form: ChangePasswordForm) -> bool:
    assert isinstance(request.user, User)
    user, sent = request.user, form.cleaned_data
    try:
        accounts.check_own_password(
            user=user, password=sent["current"], address=address_of(request)
        )
        accounts.change_password(user=user, password=sent["password"])
    except AuthenticationError as error:
        form.add_error("current", error.detail)
        return False
    except InvalidInputError as error:
        add_problem(form, error)
        return False
    before = request.session.session_key
    update_session_auth_hash(request, user)
    follow_session(user=user, before=before, after=request.session.session_key)
    end_sessions(user=user, but=request.session.session_key)
    return True


@login_required
@require_http_methods(["GET", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    """Make an organisation."""
    assert isinstance(request.user, User)
    form = OrganisationForm(request.POST or None)
    if form.is_valid():
        try:
            account = accounts.create_account(user=request.user, **form.cleaned_data)
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            request.session[SESSION_KEY] = account.slug
            messages.success(request, f"{account.slug} is yours.")
            return redirect("marketplace:members", account.slug)
    return render(request, "marketplace/account_new.html", {"form": form}, status=_status(form))


@login_required
@require_http_methods(["GET", "POST"])
def settings(request: HttpRequest, slug: str) -> HttpResponse:
    """Name of the account, and what is fixed about it."""
    actor = actor_of(request)
    account = access_account(actor, slug)
    can_edit = has_right(actor, account, "members")
    form = AccountPageForm(request.POST or None, initial={"name": account.name, "bio": account.bio})
    if request.method == "POST":
        access_account(actor, slug, "members")
        if form.is_valid():
            accounts.describe_account(actor=actor, account=account, **form.cleaned_data)
            messages.success(request, "Saved.")
            return redirect("marketplace:account", slug)
    context = {"account": account, "form": form, "can_edit": can_edit}
    return render(request, "marketplace/account.html", context, status=_status(form))


@login_required
@require_http_methods(["GET", "POST"])
@needs_confirmation("POST")
def members(request: HttpRequest, slug: str) -> HttpResponse:
    """Who may act for the account; POST adds a person."""
    actor = actor_of(request)
    account = access_account(actor, slug)
    form = MemberForm(request.POST or None)
    if request.method == "POST":
        access_account(actor, slug, "members")
        if form.is_valid():
            try:
                added = accounts.add_member(actor=actor, account=account, **form.cleaned_data)
            except (InvalidInputError, ConflictError, ForbiddenError) as error:
                add_problem(form, error)
            else:
                messages.success(request, f"{added.user.email} is a member now.")
                return redirect("marketplace:members", slug)
    context = {
        "account": account,
        "form": form,
        "page": page_of(request, list_members(account)),
        "can_edit": has_right(actor, account, "members"),
        "roles": Membership.Role.choices,
    }
    return render(request, "marketplace/members.html", context, status=_status(form))


@login_required
@require_POST
@needs_confirmation()
def member_role(request: HttpRequest, slug: str, member_id: int) -> HttpResponse:
    """Give a member another role."""
    account, user = _member(request, slug, member_id)
    form = RoleForm(request.POST)
    if not form.is_valid():
        raise InvalidInputError("There is no such role.")
    role = form.cleaned_data["role"]

    def change() -> None:
        accounts.change_role(actor=actor_of(request), account=account, user=user, role=role)

    return _change_member(request, slug, change, f"{user.email} is {role} now.")


@login_required
@require_POST
def member_remove(request: HttpRequest, slug: str, member_id: int) -> HttpResponse:
    """Take a member out; also how a person leaves an account."""
    account, user = _member(request, slug, member_id, may_be_self=True)

    def change() -> None:
        accounts.remove_member(actor=actor_of(request), account=account, user=user)

    response = _change_member(request, slug, change, f"{user.email} is no member any more.")
    return redirect("marketplace:home") if user == request.user else response


@login_required
@require_safe
def activity(request: HttpRequest, slug: str) -> HttpResponse:
    """What people did in the account, from the audit log."""
    account = access_account(actor_of(request), slug)
    page = page_of(request, list_events(account))
    context = {
        "account": account,
        "page": page,
        "events": [describe_event(event) for event in page],
    }
    return render(request, "marketplace/activity.html", context)


def _member(
    request: HttpRequest, slug: str, member_id: int, *, may_be_self: bool = False
) -> tuple[Account, User]:
    actor = actor_of(request)
    account = access_account(actor, slug)
    membership = get_one(
        account.memberships.select_related("user").filter(pk=member_id), "No such member."
    )
    if not (may_be_self and membership.user == request.user):
        access_account(actor, slug, "members")
    return account, membership.user


def _change_member(
    request: HttpRequest, slug: str, change: Callable[[], None], done: str
) -> HttpResponse:
    try:
        change()
    except ConflictError as error:
        messages.error(request, error.detail)
    else:
        messages.success(request, done)
    return redirect("marketplace:members", slug)


def _status(*bound: forms.Form) -> int:
    return 422 if any(form.is_bound and form.errors for form in bound) else 200
