"""What else will happen when a model or an account is stopped: said before it is done.

The marketplace does not know what runs or what is owed. A package above it that does registers
here what it can say about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from marketplace.models import Account, AIModel, APIKey, Membership, ModelVersion

# From the models that would stop to sentences; none where nothing would happen.
Foreteller = Callable[[Sequence[AIModel]], list[str]]

_foretellers: list[Foreteller] = []


def register_foreteller(foreteller: Foreteller) -> None:
    """Ask this one too from now on; called while the site starts."""
    if foreteller not in _foretellers:
        _foretellers.append(foreteller)


def foretell_account(account: Account) -> list[str]:
    """What suspending an account does, in sentences with counts."""
    keys = APIKey.objects.filter(account=account, revoked_at=None).count()
    models = list(account.models.filter(suspended_at=None))
    people = Membership.objects.filter(account=account).count()
    told = [
        f"{_count(keys, 'key')} {_stop(keys)} working within seconds.",
        f"{_count(len(models), 'model')} {_vanish(len(models))} from the catalogue.",
        f"{_count(people, 'person', 'people')} can only read in this account.",
    ]
    return told + _ask(models)


def foretell_model(model: AIModel) -> list[str]:
    """What suspending a model does, in sentences with counts."""
    versions = model.versions.filter(state=ModelVersion.State.APPROVED).count()
    told = [
        "The model vanishes from the catalogue.",
        f"{_count(versions, 'approved version')} can be run by nobody, its owner included.",
    ]
    return told + _ask([model])


def _ask(models: Sequence[AIModel]) -> list[str]:
    return [sentence for foreteller in _foretellers for sentence in foreteller(models)]


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _stop(count: int) -> str:
    return "stops" if count == 1 else "stop"


def _vanish(count: int) -> str:
    return "vanishes" if count == 1 else "vanish"
