"""How far an account has come on its way to a first model on sale, from what is there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from django.db.models import Count, Q

from marketplace.models import Account, APIKey, CatalogueEntry, ModelVersion
from marketplace.selectors.key import list_live_keys

State = ModelVersion.State
# What a push comes to once it is whole.
_ARRIVED = (State.IN_REVIEW, State.APPROVED, State.REFUSED, State.WITHDRAWN)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way; `name` tells the page which help belongs to it."""

    name: str
    title: str
    text: str
    is_done: bool


@dataclass(frozen=True, slots=True)
class FirstPush:
    """The steps in their order, and the version that is on its way."""

    steps: tuple[Step, ...]
    version: ModelVersion | None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return all(step.is_done for step in self.steps)

    @property
    def done_count(self) -> int:
        """How many steps are done."""
        return sum(step.is_done for step in self.steps)

    @property
    def current(self) -> str:
        """The name of the first step that is not done; empty if all are."""
        return next((step.name for step in self.steps if not step.is_done), "")

    @property
    def items(self) -> list[dict[str, str]]:
        """The steps as the component `steps` takes them."""
        current = self.current
        return [
            {
                "title": step.title,
                "text": step.text,
                "state": (
                    "done" if step.is_done else "current" if step.name == current else "todo"
                ),
            }
            for step in self.steps
        ]

    @property
    def mark(self) -> str:
        """Another text as soon as anything of this has changed."""
        version = f"{self.version.pk}{self.version.state}" if self.version else ""
        said = version + "".join("01"[step.is_done] for step in self.steps)
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def find_first_push(account: Account) -> FirstPush:
    """Look how far the account is. A later step that is done makes the earlier ones done too."""
    keys = list_live_keys(account).filter(
        mode=APIKey.Mode.TOKEN, scopes__contains=[APIKey.Scope.PUSH]
    )
    counted = keys.order_by().aggregate(
        all=Count("pk"), used=Count("pk", filter=Q(last_used_at__isnull=False))
    )
    versions = ModelVersion.objects.filter(model__account=account)
    states = set(versions.order_by().values_list("state", flat=True).distinct())
    version = versions.select_related("model__account").order_by("-created_at", "-number").first()
    # Triggers and billing keep these beside each model: when `prod` moved, and the price.
    listed = CatalogueEntry.objects.filter(model__account=account).aggregate(
        on_sale=Count("published_at"), priced=Count("price_nanos")
    )
    is_pushed = bool(states - {State.UPLOADING})
    done = {
        "key": counted["all"] > 0,
        "login": counted["used"] > 0,
        "push": is_pushed,
        "onboarding": bool(states & set(_ARRIVED)),
        "review": State.APPROVED in states,
        "sale": listed["on_sale"] > 0,
    }
    names = list(done)
    steps = [
        Step(name, title, text, any(done[later] for later in names[place:]))
        for place, (name, title, text) in enumerate(_STEPS)
    ]
    steps.append(Step("price", "Set a price", _PRICE, listed["priced"] > 0))
    return FirstPush(tuple(steps), version)


_STEPS = (
    ("key", "Make a key that pushes", "A creator token, or the one that logging in makes."),
    ("login", "Log in with the command line", "Ticked once the key was used."),
    ("push", "Seal and push a model", "Ticked once an upload is whole."),
    ("onboarding", "It is verified, tried and measured", "By the platform, in some minutes."),
    ("review", "An admin approves it", "You are told by mail if it is refused, and why."),
    ("sale", "Put it on sale", "A push does it at once if you want; else by hand."),
)
_PRICE = "What a prediction costs; a push brings the first one along."
