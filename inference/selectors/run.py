"""Read shared runs. Who has the address may see one, as far as he may see the model."""

from __future__ import annotations

from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from inference.models import SharedRun
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts, list_visible_models, require_right
from marketplace.selectors.found import get_one


def list_runs(actor: Actor, account: Account) -> QuerySet[SharedRun]:
    """What an account shares now, newest first, without what is in it.

    Each has `is_seen`: whether the actor may see the model, and with it the run, still.
    """
    visible = list_visible_models(actor).order_by().filter(pk=OuterRef("version__model"))
    runs = _list_kept().filter(account=account).annotate(is_seen=Exists(visible))
    return runs.defer("input", "output").order_by("-id")


def access_run(actor: Actor, token: str) -> SharedRun:
    """A shared run by its address.

    A private model's is for those who may see the model, and so is one of a model or an account
    that was suspended.

    Raises:
        NotFoundError: No such run, revoked, over, or not for the actor.
    """
    runs = _list_kept().filter(
        version__model__in=list_visible_models(actor), account__suspended_at=None
    )
    return _only(runs, token)


def access_own_run(actor: Actor, token: str) -> SharedRun:
    """A run that one of the actor's accounts shares, for who may end that.

    Raises:
        NotFoundError: None of that address among the actor's accounts.
        ForbiddenError: The actor may not run predictions for the account.
    """
    run = _only(_list_kept().filter(account__in=list_accounts(actor)), token)
    require_right(actor, run.account, "predict")
    return run


def _list_kept() -> QuerySet[SharedRun]:
    return SharedRun.objects.filter(expires_at__gt=timezone.now()).select_related(
        "account", "created_by", "version__model__account"
    )


def _only(runs: QuerySet[SharedRun], token: str) -> SharedRun:
    return get_one(
        runs.filter(token=token), "No such run. It may have been revoked, or its time is over."
    )
