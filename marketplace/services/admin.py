"""What every deed of a platform admin needs: to be one, and a reason."""

from __future__ import annotations

from marketplace.core import limits
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.models import User
from marketplace.selectors.access import Actor


def require_admin(actor: Actor, detail: str = "Only platform admins do this.") -> User:
    """The person behind the actor.

    Raises:
        ForbiddenError: No platform admin, or one who may not sign in any more.
    """
    if not actor.is_admin or actor.user is None or not actor.user.is_active:
        raise ForbiddenError(detail)
    return actor.user


def check_reason(reason: str, *, name: str = "reason") -> str:
    """The reason without blanks around it.

    Raises:
        InvalidInputError: None, or a longer one than is kept.
    """
    reason = reason.strip()
    if not 0 < len(reason) <= limits.REASON_LENGTH_MAX:
        detail = f"A reason has 1 to {limits.REASON_LENGTH_MAX} characters."
        raise InvalidInputError(errors=[{"pointer": f"/{name}", "detail": detail}])
    if "\x00" in reason:
        raise InvalidInputError(
            errors=[{"pointer": f"/{name}", "detail": "Contains a null character."}]
        )
    return reason
