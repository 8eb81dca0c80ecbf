"""Help with a first push: its key, and putting the steps away."""

from __future__ import annotations

from django.utils import timezone

from marketplace.core import limits
from marketplace.core.keys import Secret
from marketplace.models import Account, APIKey, Membership
from marketplace.selectors.access import Actor, has_right
from marketplace.services.key import issue_key

KEY_NAME = "First push"


def issue_push_key(*, actor: Actor, account: Account) -> tuple[APIKey, Secret]:
    """Make a creator token that does what a push needs, and no more.

    It may publish where the person may, since a push that asks for `prod` does.

    Args:
        actor: Who makes it; the caller has checked the rights `keys` and `push`.
        account: For whom it will push.

    Raises:
        EmailNotVerifiedError: The person's address is not confirmed.
        CountLimitError: The account has as many live keys as it may have.
    """
    scopes = [APIKey.Scope.READ, APIKey.Scope.PUSH]
    if has_right(actor, account, "publish"):
        scopes.append(APIKey.Scope.PUBLISH)
    return issue_key(
        actor=actor,
        account=account,
        name=KEY_NAME,
        mode=APIKey.Mode.TOKEN,
        scopes=scopes,
        expires_at=timezone.now() + limits.LOGIN_TOKEN_LIFETIME,
    )


def put_away(*, actor: Actor, account: Account, is_hidden: bool) -> None:
    """Take the steps off this person's dashboard, or bring them back. Nobody else sees less."""
    hidden_at = timezone.now() if is_hidden else None
    Membership.objects.filter(account=account, user=actor.user).update(
        first_push_hidden_at=hidden_at
    )
