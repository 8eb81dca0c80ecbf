"""Sessions of the billing portal, where customers see their cards and invoices."""

from __future__ import annotations

from typing import Any

from fakestripe import errors
from fakestripe.context import Context, new_id
from fakestripe.resources import checks, customers

Json = dict[str, Any]

KIND = "billing_portal.session"
LIFETIME_S = 3_600


def create(context: Context, params: Json) -> Json:
    checks.only(params, frozenset({"customer", "return_url"}))
    if "customer" not in params:
        raise errors.missing_parameter("customer")
    customers.require(context, params["customer"])
    if "return_url" in params:
        checks.url(params["return_url"], "return_url")
    session_id = new_id("bps")
    session: Json = {
        "id": session_id,
        "object": KIND,
        "configuration": "bpc_fakestripe",
        "created": context.now,
        "customer": params["customer"],
        "flow": None,
        "livemode": False,
        "locale": None,
        "on_behalf_of": None,
        "return_url": params.get("return_url"),
        "url": f"{context.config.base_url}/portal/{session_id}",
    }
    return context.insert(session)


def find_open(context: Context, session_id: str) -> Json:
    """A session whose time is not over.

    Raises:
        ApiError: There is none.
    """
    session = context.get(KIND, session_id)
    if context.now >= session["created"] + LIFETIME_S:
        raise errors.no_such(KIND, session_id)
    return session
