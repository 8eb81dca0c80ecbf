"""Who comes through a gateway: it has looked at the key, and says whose it is."""

from __future__ import annotations

import time

from django.conf import settings
from rest_framework import authentication, exceptions
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from inference.core.file_link import read_word
from marketplace.models import Account, APIKey, User

SCHEME = "gateway"
# What only a gateway itself may do, for what it has run.
OUTPUT = "output"


class GatewayAuthentication(authentication.BaseAuthentication):
    """`Authorization: Gateway <word>`; stands for a key of the account with the same scopes."""

    def authenticate(self, request: Request) -> tuple[User, APIKey] | None:
        """Nobody's user, and a key that stands in no table."""
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != SCHEME:
            return None
        word = read_word(settings.PLAYGROUND_SECRET, text.strip(), now_s=time.time())
        if word is None:
            raise exceptions.AuthenticationFailed("No gateway of ours says so.")
        account = Account.objects.filter(pk=word.account_id).first()
        if account is None:
            raise exceptions.AuthenticationFailed("The account is gone.")
        stand_in = APIKey(account=account, mode=APIKey.Mode.LIVE, scopes=list(word.scopes))
        return User(), stand_in

    def authenticate_header(self, request: Request) -> str:
        """Makes a refusal a 401 with this challenge."""
        return "Bearer"


class IsGateway(BasePermission):
    """Only a gateway in its own name."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether it brings what it has run."""
        return isinstance(request.auth, APIKey) and OUTPUT in request.auth.scopes
