"""Who calls the management API: a creator token, or a person in a session."""

from __future__ import annotations

from rest_framework import authentication, exceptions
from rest_framework.request import Request

from marketplace.address import exact_address_of
from marketplace.core.address import parse_network
from marketplace.core.errors import NetworkNotAllowedError
from marketplace.errors import ConfirmationRequiredError
from marketplace.models import APIKey, User
from marketplace.selectors.access import ANONYMOUS, Actor
from marketplace.selectors.key import find_valid_key
from marketplace.services.session import is_confirmed


class TokenAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer srt_…`, or a consumer's `sk_…` key for what its scopes allow."""

    def authenticate(self, request: Request) -> tuple[User | None, APIKey] | None:
        """The person who made the key, and the key."""
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token"):
            return None
        api_key = find_valid_key(text.strip())
        if api_key is None:
            raise exceptions.AuthenticationFailed("This key is unknown, expired or revoked.")
        require_network(request, api_key)
        person = api_key.created_by
        if api_key.mode == APIKey.Mode.TOKEN and (person is None or not person.is_active):
            # A token stands for a person; a consumer's key stands for the account's services.
            raise exceptions.AuthenticationFailed("Whoever made this token may not sign in.")
        return api_key.created_by or User(), api_key

    def authenticate_header(self, request: Request) -> str:
        """Makes a refusal a 401 with this challenge."""
        return "Bearer"


def require_network(request: Request, api_key: APIKey) -> None:
    """Refuse a key that works from some networks only, as the gateway does.

    Raises:
        NetworkNotAllowedError: The request comes from elsewhere, or nobody knows from where.
    """
    if not api_key.allowed_networks:
        return
    address = exact_address_of(request._request)  # noqa: SLF001
    if address is None or not any(
        address in parse_network(network) for network in api_key.allowed_networks
    ):
        raise NetworkNotAllowedError


class SessionAuthentication(authentication.SessionAuthentication):
    """The site's own pages."""


def actor_of(request: Request) -> Actor:
    """The actor of an API request."""
    if isinstance(request.auth, APIKey):
        return Actor(user=request.auth.created_by, api_key=request.auth)
    if request.user.is_authenticated:
        return Actor(user=request.user)
    return ANONYMOUS


def require_confirmed(request: Request) -> None:
    """Ask a session for a recent proof of who sits there; a key is a proof by itself.

    Raises:
        ConfirmationRequiredError: The pages ask for it; see `marketplace.views.confirm`.
    """
    is_session = request.user.is_authenticated and not isinstance(request.auth, APIKey)
    if is_session and not is_confirmed(request._request.session):  # noqa: SLF001
        raise ConfirmationRequiredError
