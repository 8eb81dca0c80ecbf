"""Receipts for people: what was charged, and whether the proof of it holds."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from billing.forms.receipt import ReceiptForm
from billing.selectors import receipt as receipts
from billing.selectors.receipt_check import check_steps, is_valid, list_published_keys
from marketplace.context import actor_of, requested_account
from marketplace.core import ids
from marketplace.core.errors import NotFoundError
from marketplace.core.receipt import ReceiptPendingError


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def receipts_page(request: HttpRequest) -> HttpResponse:
    """The latest receipts, and a place to check one that somebody has; POST checks it here."""
    account = requested_account(request)
    context = {"account": account, "rows": receipts.list_latest(account)}
    return _answer(request, "billing/receipts.html", context, text="")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def receipt(request: HttpRequest, public_id: str) -> HttpResponse:
    """The receipt of a prediction; POST checks what was sent, on the server.

    Who it is for: the account that paid, the creator, and who has a royalty of it.
    """
    try:
        prediction_id = ids.from_public(public_id)
    except ValueError:
        raise NotFoundError("No such prediction.") from None
    context: dict[str, Any] = {"public_id": public_id}
    try:
        document = receipts.get_receipt(actor_of(request), prediction_id)
    except ReceiptPendingError:
        return render(request, "billing/receipt.html", context | {"is_pending": True})
    context |= {"receipt": document, "charge": document["charge"], "batch": document["batch"]}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _answer(request, "billing/receipt.html", context, text=text)


def _answer(
    request: HttpRequest, template: str, context: dict[str, Any], *, text: str
) -> HttpResponse:
    is_sent = request.method == "POST"
    form = ReceiptForm(request.POST) if is_sent else ReceiptForm(initial={"document": text})
    keys = list_published_keys()
    context = context | {"form": form, "keys": json.dumps(keys)}
    if is_sent and form.is_valid():
        steps = check_steps(form.cleaned_data["document"], keys)
        context |= {"steps": steps, "is_valid": is_valid(steps)}
    status = 422 if form.errors else 200
    return render(request, template, context, status=status)
