"""The price page of an own model, and the page where codes are used."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from billing.forms.price_page import CouponForm, OfferForm, PriceForm, RedeemForm, list_initial
from billing.models import Price
from billing.selectors.coupon import list_coupons, list_redemptions
from billing.selectors.price import find_next_price, find_price, list_prices, weigh_price
from billing.services.coupon import end_coupon, make_price_coupon, redeem_coupon
from billing.services.offer import end_offer, list_offers, make_offer
from billing.services.price import (
    PriceTerms,
    check_terms,
    find_share_bps,
    has_consumers,
    notice_period,
    set_price,
    withdraw_price,
)
from marketplace.context import actor_of, requested_account
from marketplace.core.errors import MarketplaceError, NotFoundError
from marketplace.forms.problem import add_problem
from marketplace.models import Account, AIModel
from marketplace.selectors.access import access_model
from marketplace.selectors.found import get_one
from marketplace.views.once import sent_once

HISTORY_SIZE = 10
COUPONS_SHOWN_MAX = 50
_PERCENT = 100


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def price(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """All of a price; the first POST shows what it would mean, the second sets it."""
    actor = actor_of(request)
    model = access_model(actor, owner, name, "push")
    form = PriceForm(request.POST or None, initial=list_initial(find_price(model)))
    preview = None
    if request.method == "POST" and form.is_valid():
        try:
            wanted = check_terms(PriceTerms(**form.terms))
            if "confirmed" in request.POST:
                made = set_price(actor, model, **form.terms)
                messages.success(request, _tell(made))
                return redirect("billing:price", owner, name)
            preview = _preview(model, wanted)
        except MarketplaceError as error:
            add_problem(form, error)
    return _render(request, model, form=form, preview=preview)


@login_required
@require_POST
def withdraw(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Take back the price that was announced."""
    actor = actor_of(request)
    withdraw_price(actor, access_model(actor, owner, name, "push"))
    messages.success(request, "It is taken back; the present price goes on.")
    return redirect("billing:price", owner, name)


@login_required
@require_POST
def offer(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Make an offer, or with `end` end one."""
    actor = actor_of(request)
    model = access_model(actor, owner, name, "push")
    if slug := request.POST.get("end"):
        ended = end_offer(actor, model, slug)
        assert ended.valid_until is not None
        messages.success(request, f"The offer ends on {ended.valid_until:%-d %B %Y, %H:%M} UTC.")
        return redirect("billing:price", owner, name)
    form = OfferForm(request.POST)
    if form.is_valid():
        try:
            _make_offer(request, model, form)
        except MarketplaceError as error:
            add_problem(form, error)
        else:
            messages.success(request, "The offer is in force.")
            return redirect("billing:price", owner, name)
    return _render(request, model, offer_form=form)


@login_required
@require_POST
@sent_once
def coupon(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Make a coupon, or with `end` end one."""
    actor = actor_of(request)
    model = access_model(actor, owner, name, "push")
    if code := request.POST.get("end"):
        row = get_one(list_coupons(model).filter(code=code), "This model has no such coupon.")
        end_coupon(actor, row)
        messages.success(request, f"Nobody can use {row.code} any more.")
        return redirect("billing:price", owner, name)
    form = CouponForm(request.POST)
    if form.is_valid():
        try:
            made = make_price_coupon(actor, model, **form.terms)
        except MarketplaceError as error:
            add_problem(form, error)
        else:
            messages.success(request, f"{made.code} can be used now.")
            return redirect("billing:price", owner, name)
    return _render(request, model, coupon_form=form)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def redeem(request: HttpRequest) -> HttpResponse:
    """Use a code for an account."""
    is_use = request.method == "POST"
    account = requested_account(request, "billing") if is_use else requested_account(request)
    form = RedeemForm(request.POST if is_use else None)
    if form.is_valid():
        try:
            redeem_coupon(actor_of(request), account, form.cleaned_data["code"])
        except MarketplaceError as error:
            add_problem(form, error)
        else:
            messages.success(request, "The code is used.")
            return redirect(f"{request.path}?account={account.slug}")
    context = {"account": account, "form": form, "redemptions": list_redemptions(account)}
    return render(request, "billing/coupon.html", context, status=422 if form.errors else 200)


def _make_offer(request: HttpRequest, model: AIModel, form: OfferForm) -> None:
    account = Account.objects.filter(slug=form.cleaned_data["account"]).first()
    listed = find_price(model)
    if account is None or listed is None:
        raise NotFoundError("There is no such account, or the model has no price.")
    columns = PriceTerms.of(listed).take_off(form.off_bps).columns
    make_offer(actor_of(request), model, account, valid_until=form.valid_until, **columns)


def _preview(model: AIModel, wanted: PriceTerms) -> dict[str, Any]:
    """What a price would mean, before it is set."""
    present = find_price(model)
    is_rise = (
        present is not None and wanted.is_rise_from(PriceTerms.of(present)) and has_consumers(model)
    )
    return {
        "price": Price(**wanted.columns),
        "is_rise": is_rise,
        "begins": timezone.now() + notice_period() if is_rise else None,
        **_weigh(model, wanted),
    }


def _weigh(model: AIModel, wanted: PriceTerms) -> dict[str, Any]:
    """What the creator gets of a row, beside what a row costs to compute."""
    share_bps = find_share_bps(model)
    weight = weigh_price(model, wanted.terms, share_bps)
    margin_nanos = weight.margin_nanos
    return {
        "own_nanos": weight.own_nanos,
        "share_percent": share_bps / _PERCENT,
        "floor_nanos": weight.floor_nanos,
        "margin_nanos": margin_nanos,
        "weight": weight,
        "is_below": margin_nanos is not None and margin_nanos < 0,
    }


def _tell(made: Price) -> str:
    if made.valid_from > timezone.now():
        return f"It is announced, and valid from {made.valid_from:%-d %B %Y, %H:%M} UTC on."
    return "It is valid from now on."


def _render(request: HttpRequest, model: AIModel, **given: Any) -> HttpResponse:
    present = find_price(model)
    forms = {
        "form": PriceForm(initial=list_initial(present)),
        "offer_form": OfferForm(),
        "coupon_form": CouponForm(),
    } | {name: one for name, one in given.items() if name.endswith("form")}
    context = {
        "model": model,
        "account": model.account,
        "price": present,
        "next_price": find_next_price(model),
        "history": list_prices(model).filter(valid_from__lte=Now())[:HISTORY_SIZE],
        "offers": list_offers(model),
        "coupons": list_coupons(model)[:COUPONS_SHOWN_MAX],
        "preview": given.get("preview"),
        "notice_days": notice_period().days,
        **(_weigh(model, PriceTerms.of(present)) if present else {}),
        **forms,
    }
    status = 422 if any(one.errors for one in forms.values()) else 200
    return render(request, "billing/price.html", context, status=status)
