"""Connected accounts of API v2, as recipients of transfers: onboarding and capabilities."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, thin
from fakestripe.context import Context, new_id
from fakestripe.resources import checks

Json = dict[str, Any]

KIND = "v2.core.account"
LINK_KIND = "v2.core.account_link"
VERIFY_TASK = "account.verify"

LINK_LIFETIME_S = 600
VERIFIED_AFTER_S = 3_600

STATUSES = ("active", "pending", "restricted", "unsupported")
# Where no recipient can be.
COUNTRIES_UNSUPPORTED = frozenset({"CU", "IR", "KP", "SY"})

OUTCOMES = ("complete", "review", "incomplete", "wrong")

_PARAMS = frozenset({
    "contact_email", "configuration", "dashboard", "defaults", "display_name", "identity",
    "include", "metadata",
})  # fmt: skip
_DUE = (
    "identity.individual.given_name",
    "identity.individual.date_of_birth",
    "configuration.recipient.default_outbound_destination",
)
_DETAILS = {
    "active": [],
    "pending": [{"code": "requirements_pending_verification", "resolution": "no_resolution"}],
    "restricted": [{"code": "requirements_past_due", "resolution": "provide_info"}],
    "unsupported": [{"code": "unsupported_country", "resolution": "no_resolution"}],
}


def create(context: Context, params: Json) -> Json:
    checks.only(params, _PARAMS)
    recipient = params.get("configuration", {}).get("recipient")
    if recipient is None or set(params["configuration"]) != {"recipient"}:
        raise errors.not_stood_in("the parameter configuration other than recipient")
    country = params.get("identity", {}).get("country", "")
    if len(country) != 2 or not country.isalpha():
        raise errors.invalid_request("Country must be a two-letter code.", param="identity.country")
    duties = params.get("defaults", {}).get("responsibilities", {})
    if duties.get("losses_collector") != "application":
        # Stripe blocks separate charges and transfers for platforms that do not bear losses.
        raise errors.invalid_request(
            "Recipients of separate transfers need losses_collector application.",
            param="defaults.responsibilities.losses_collector",
        )
    if "contact_email" in params:
        checks.email(params["contact_email"], "contact_email")
    is_supported = country.upper() not in COUNTRIES_UNSUPPORTED
    account: Json = {
        "id": new_id("acct", 16),
        "object": KIND,
        "applied_configurations": ["recipient"],
        "closed": False,
        "configuration": {
            "recipient": {
                "applied": True,
                "capabilities": {
                    "stripe_balance": {
                        "stripe_transfers": _capability(
                            "restricted" if is_supported else "unsupported"
                        )
                    }
                },
            }
        },
        "contact_email": params.get("contact_email"),
        "created": thin.iso(context.now),
        "dashboard": params.get("dashboard", "none"),
        "defaults": {
            "currency": "usd",
            "responsibilities": {**duties, "requirements_collector": "stripe"},
        },
        "display_name": params.get("display_name"),
        "future_requirements": {"entries": []},
        "identity": {"country": country.lower()},
        "livemode": False,
        "metadata": checks.metadata(params.get("metadata")),
        "requirements": _requirements(_DUE if is_supported else ()),
    }
    account = {name: value for name, value in account.items() if value is not None}
    context.check(KIND, account)
    context.store.insert(account, {"balance_cents": 0}, created=context.now)
    thin.emit(context, "v2.core.account.created", related=account)
    return _shown(account, params)


def retrieve(context: Context, params: Json, account_id: str) -> Json:
    return _shown(context.get(KIND, account_id), params)


def update(context: Context, params: Json, account_id: str) -> Json:
    checks.only(params, frozenset({"contact_email", "display_name", "metadata", "include"}))
    account = context.get(KIND, account_id)
    for name in ("contact_email", "display_name"):
        if name in params:
            account[name] = params[name]
    if "contact_email" in params:
        checks.email(params["contact_email"], "contact_email")
    account["metadata"] = checks.metadata(params.get("metadata"), account["metadata"])
    context.check(KIND, account)
    context.store.save(account)
    thin.emit(context, "v2.core.account.updated", related=account)
    return _shown(account, params)


def create_link(context: Context, params: Json) -> Json:
    account = context.get_named(KIND, params["account"], "account")
    use_case = params["use_case"]
    onboarding = use_case.get("account_onboarding")
    if use_case["type"] != "account_onboarding" or onboarding is None:
        raise errors.not_stood_in("the parameter use_case other than account_onboarding")
    if onboarding.get("configurations", ["recipient"]) != ["recipient"]:
        raise errors.not_stood_in("the parameter configurations other than recipient")
    for name in ("refresh_url", "return_url"):
        if name in onboarding:
            checks.url(onboarding[name], name)
    identifier = new_id("link", 40)
    link: Json = {
        "object": LINK_KIND,
        "account": account["id"],
        "created": thin.iso(context.now),
        "expires_at": thin.iso(context.now + LINK_LIFETIME_S),
        "livemode": False,
        "url": f"{context.config.base_url}/connect/{identifier}",
        "use_case": use_case,
    }
    private = {"expires_at": context.now + LINK_LIFETIME_S, "is_used": False}
    context.store.insert(link, private, identifier=identifier, created=context.now)
    return link


def find_link(context: Context, identifier: str) -> tuple[Json, bool]:
    """A link by the name in its address, and whether it can still be used.

    Raises:
        ApiError: There is none.
    """
    link = context.get(LINK_KIND, identifier)
    private = context.store.find_private(identifier)
    return link, not private["is_used"] and context.now < private["expires_at"]


def onboard(context: Context, identifier: str, outcome: str) -> Json:
    """What the person at the page entered; uses the link up and returns it."""
    link, is_usable = find_link(context, identifier)
    if not is_usable:
        raise errors.invalid_request("This link has expired.")
    private = context.store.find_private(identifier)
    context.store.save_private(identifier, private | {"is_used": True})
    tell(context, link["account"], outcome)
    data = {
        "account_id": link["account"],
        "configurations": ["recipient"],
        "use_case": "account_onboarding",
    }
    thin.emit(context, "v2.core.account_link.returned", data=data)
    return link


def tell(context: Context, account_id: str, outcome: str) -> Json:
    """The details that a creator gave: all, all but unproven, only some, or wrong ones."""
    account = context.get(KIND, account_id)
    if capability_of(account) == "unsupported":
        return account
    if outcome == "complete":
        return set_capability(context, account_id, "active", ())
    if outcome == "review":
        context.after(VERIFIED_AFTER_S, VERIFY_TASK, account_id)
        return set_capability(context, account_id, "pending", ())
    if outcome == "incomplete":
        return set_capability(context, account_id, "restricted", _DUE[-1:])
    return set_capability(
        context, account_id, "restricted", ("identity.individual.documents.primary_verification",)
    )


def verify_due(context: Context, account_id: str) -> None:
    """Stripe has looked at what was given."""
    account = context.store.find(account_id, KIND)
    if account is not None and capability_of(account) == "pending":
        set_capability(context, account_id, "active", ())


def set_capability(context: Context, account_id: str, status: str, due: tuple[str, ...]) -> Json:
    """Give or take the right to receive transfers, with thin events for what changed."""
    account = context.get(KIND, account_id)
    before, due_before = capability_of(account), account["requirements"]
    balance = account["configuration"]["recipient"]["capabilities"]["stripe_balance"]
    balance["stripe_transfers"] = _capability(status)
    account["requirements"] = _requirements(due)
    context.check(KIND, account)
    context.store.save(account)
    if account["requirements"] != due_before:
        thin.emit(context, "v2.core.account[requirements].updated", related=account)
    if status != before:
        thin.emit(
            context,
            "v2.core.account[configuration.recipient].capability_status_updated",
            related=account,
            data={"updated_capability": "stripe_balance.stripe_transfers"},
        )
    return account


def capability_of(account: Json) -> str:
    balance = account["configuration"]["recipient"]["capabilities"]["stripe_balance"]
    return str(balance["stripe_transfers"]["status"])


def balance_cents(context: Context, account_id: str) -> int:
    """What lies on the account's own balance."""
    return int(context.store.find_private(account_id)["balance_cents"])


def move_balance(context: Context, account_id: str, amount: int) -> int:
    """Add to an account's balance, or take from it; returns what is there then.

    Raises:
        ApiError: It does not have so much.
    """
    context.get(KIND, account_id)
    after = balance_cents(context, account_id) + amount
    if after < 0:
        raise errors.insufficient_balance(
            "The connected account does not have enough available balance."
        )
    context.store.save_private(account_id, {"balance_cents": after})
    return after


def _capability(status: str) -> Json:
    return {"status": status, "status_details": _DETAILS[status]}


def _requirements(due: tuple[str, ...]) -> Json:
    transfers = {
        "capability": "stripe_balance.stripe_transfers",
        "configuration": "recipient",
        "deadline": {"status": "currently_due"},
    }
    entries = [
        {
            "awaiting_action_from": "user",
            "description": name,
            "errors": [],
            "impact": {"restricts_capabilities": [transfers]},
            "minimum_deadline": {"status": "currently_due"},
            "requested_reasons": [{"code": "routine_onboarding"}],
        }
        for name in due
    ]
    found: Json = {"entries": entries}
    if entries:
        found["summary"] = {"minimum_deadline": {"status": "currently_due"}}
    return found


def _shown(account: Json, params: Json) -> Json:
    """Only what was asked for: parts of an account are left out unless they are included."""
    include = params.get("include", [])
    parts = ("configuration", "defaults", "future_requirements", "identity", "requirements")
    wanted = {name.partition(".")[0] for name in include}
    return {name: value for name, value in account.items() if name not in parts or name in wanted}
