"""API keys: made, listed, limited and revoked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from strongroom.commands.context import (
    answer_json,
    answer_table,
    as_json,
    choose_account,
    load_web,
    say,
)
from strongroom.listing import ListingError, format_price, parse_price

# Each by its option's name; the platform knows how much is too much.
_RATES = ("requests_per_minute", "units_per_minute", "concurrency_max")
_BUDGETS = {
    "budget_day": "budget_day_nanos",
    "budget_month": "budget_month_nanos",
    "budget_total": "budget_total_nanos",
}
_LISTS = {"models": "allowed_models", "networks": "allowed_networks"}
_PERIODS = {"day": "today", "month": "this month", "total": "in all"}
_SPENT = ("spent_nanos", "budget_nanos")
NO_LIMIT = "none"


class _Count(click.ParamType):
    """A whole number from 1, or `none`."""

    name = "number|none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if value == NO_LIMIT:
            return NO_LIMIT
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is not a whole number from 1, nor 'none'.", param, ctx)
        return int(value)


class _Dollars(click.ParamType):
    """An amount above zero in nano-dollars, or `none`."""

    name = "dollars|none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if value == NO_LIMIT or isinstance(value, int):
            return value
        try:
            nanos = parse_price(value)
        except ListingError as error:
            self.fail(error.detail, param, ctx)
        if nanos == 0:
            self.fail("A budget is more than nothing; 'none' takes it away.", param, ctx)
        return nanos


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option("--requests-per-minute", type=_Count(), help="How often it may be used."),
        click.option("--units-per-minute", type=_Count(), help="Of what prices count, as rows."),
        click.option(
            "--concurrency", "concurrency_max", type=_Count(), help="Requests at the same time."
        ),
        click.option("--budget-day", type=_Dollars(), help="The most it may cost a day (UTC)."),
        click.option("--budget-month", type=_Dollars(), help="The most it may cost a month (UTC)."),
        click.option("--budget-total", type=_Dollars(), help="The most it may cost in all."),
        click.option(
            "--model",
            "models",
            multiple=True,
            metavar="OWNER/NAME",
            help="A model it may run, and no others; may be given several times.",
        ),
        click.option(
            "--network",
            "networks",
            multiple=True,
            metavar="CIDR",
            help="A network it works from, and no others; may be given several times.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _read_limits(options: Mapping[str, Any]) -> dict[str, Any]:
    """As the platform names them, those that were given."""
    limits: dict[str, Any] = {}
    for option, value in options.items():
        name = _BUDGETS.get(option) or _LISTS.get(option) or option
        if option in _LISTS:
            if value:
                limits[name] = list(value)
        elif value is not None:
            limits[name] = None if value == NO_LIMIT else value
    return limits


@click.group()
def keys() -> None:
    """API keys: list, create, show, limit, revoke."""


@keys.command("list")
@click.option("--account", help="Another account than the login's.")
@as_json
def list_keys(account: str | None, is_json: bool) -> None:
    """List the API keys of an account: what each may do, its last use, when it ends.

    Times are in UTC. Secrets are never shown again.
    """
    _, profile, web = load_web()
    found = web.list_keys(choose_account(profile, account))
    if is_json:
        answer_json(found)
        return
    columns = ("name", "mode", "prefix", "scopes", "created", "last used", "expires", "revoked")
    table = Table("id", *columns, box=None)
    for one in found:
        scopes = ", ".join(map(str, one.get("scopes") or []))
        table.add_row(
            *(escape(str(one.get(name) or "")) for name in ("id", "name", "mode", "prefix")),
            escape(scopes),
            _minute(one.get("created_at"), ""),
            _minute(one.get("last_used_at"), "never"),
            _minute(one.get("expires_at"), "never"),
            _minute(one.get("revoked_at"), ""),
        )
    answer_table(table)


def _minute(moment: Any, otherwise: str) -> str:
    """A moment of the API, to the minute; a last use is not known any better."""
    return escape(str(moment)[:16].replace("T", " ")) if moment else otherwise


@keys.command("create")
@click.option("--name", required=True, help="What the key is for.")
@click.option("--account", help="Another account than the login's.")
@click.option(
    "--mode",
    type=click.Choice(["live", "test"]),
    default="live",
    show_default=True,
    help="Test keys run your own models only, without charge.",
)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["predict", "read"]),
    multiple=True,
    help="What it may do; may be given twice. [default: all that its mode may]",
)
@click.option("--expires-at", help="When the key ends, such as 2027-01-31T00:00:00Z.")
@_limit_options
@as_json
def create_key(
    name: str,
    account: str | None,
    mode: str,
    scopes: tuple[str, ...],
    expires_at: str | None,
    is_json: bool,
    **limits: Any,
) -> None:
    """Create an API key and show its secret, once."""
    _, profile, web = load_web()
    made = web.create_key(
        choose_account(profile, account),
        name,
        mode,
        scopes=scopes,
        expires_at=expires_at,
        key_limits=_read_limits(limits),
    )
    if is_json:
        answer_json(made)
        return
    say("This is the only time the key is shown:")
    click.echo(made["key"])


@keys.command("show")
@click.argument("key_id")
@as_json
def show_key(key_id: str, is_json: bool) -> None:
    """Show what an API key is limited to, and what it has spent of its budgets."""
    _, _, web = load_web()
    key = web.get_key(key_id)
    spent = web.get_key_spend(key_id)
    if is_json:
        answer_json(key | {"spend": spent})
        return
    table = Table(box=None, show_header=False)
    table.add_row("name", escape(str(key.get("name") or "")))
    table.add_row("prefix", escape(str(key.get("prefix") or "")))
    for name in _RATES:
        table.add_row(name.replace("_", " "), escape(str(key.get(name) or "no limit")))
    for name in _LISTS.values():
        listed = ", ".join(map(str, key.get(name) or []))
        table.add_row(name.replace("_", " "), escape(listed or "all"))
    for one in spent:
        shown, budget = (f"${format_price(int(one[name]))}" for name in _SPENT)
        table.add_row(f"budget {_PERIODS.get(one['period'], '')}", f"{shown} of {budget} spent")
    if not spent:
        table.add_row("budget", "none")
    answer_table(table)


@keys.command("limit")
@click.argument("key_id")
@_limit_options
@click.option("--any-model", is_flag=True, help="Take the list of models away.")
@click.option("--any-network", is_flag=True, help="Take the list of networks away.")
@as_json
def limit_key(
    key_id: str, any_model: bool, any_network: bool, is_json: bool, **limits: Any
) -> None:
    """Limit an API key otherwise. What is not named stays; `none` takes a limit away."""
    changes = _read_limits(limits)
    for name, is_any in (("allowed_models", any_model), ("allowed_networks", any_network)):
        if is_any and name in changes:
            raise click.UsageError(f"Both a list and none: {name.replace('_', ' ')}.")
        if is_any:
            changes[name] = []
    if not changes:
        raise click.UsageError("Name at least one limit.")
    _, _, web = load_web()
    changed = web.change_key(key_id, changes)
    if is_json:
        answer_json(changed)
        return
    say(f"Limited {key_id}: {', '.join(changes)}.")


@keys.command("revoke")
@click.argument("key_id")
def revoke_key(key_id: str) -> None:
    """Revoke an API key, at once and for good."""
    _, _, web = load_web()
    web.revoke_key(key_id)
    say(f"Revoked {key_id}.")
