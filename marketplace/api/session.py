"""Sign in for a token, and who one is: what `strongroom login` calls."""

from __future__ import annotations

from django.utils import timezone
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.address import address_of
from marketplace.api.authentication import actor_of
from marketplace.core import limits
from marketplace.core.errors import ForbiddenError
from marketplace.errors import SecondFactorRequiredError
from marketplace.models import Account, APIKey
from marketplace.selectors.access import Actor, access_account, has_right
from marketplace.selectors.account import list_memberships, own_first
from marketplace.selectors.security import has_factor
from marketplace.services.account import log_in
from marketplace.services.key import issue_key
from marketplace.services.second_factor import check_code


class LoginInput(serializers.Serializer):
    email = serializers.CharField(max_length=254)
    password = serializers.CharField(max_length=1024, trim_whitespace=False)
    token_name = serializers.CharField(max_length=limits.NAME_LENGTH_MAX)
    account = serializers.SlugField(required=False)
    # Of the authenticator app, or a recovery code, for who has a second factor.
    code = serializers.CharField(max_length=40, required=False)


class LoginView(APIView):
    """`POST /api/login`: a creator token for e-mail address and password."""

    permission_classes = [AllowAny]
    authentication_classes = []

    def post(self, request: Request) -> Response:
        """A token for the named account, else for one where the person may make keys."""
        fields = LoginInput(data=request.data)
        fields.is_valid(raise_exception=True)
        data = fields.validated_data
        user = log_in(
            request._request,  # noqa: SLF001 - Django's backends want Django's request
            email=data["email"],
            password=data["password"],
            address=address_of(request._request),  # noqa: SLF001
        )
        if has_factor(user):
            if not data.get("code"):
                raise SecondFactorRequiredError
            check_code(user, data["code"])
        actor = Actor(user=user)
        account = choose_account(actor, data.get("account"))
        _, secret = issue_key(
            actor=actor,
            account=account,
            name=data["token_name"],
            mode=APIKey.Mode.TOKEN,
            expires_at=timezone.now() + limits.LOGIN_TOKEN_LIFETIME,
        )
        body = {"token": secret.text, "account": account.slug, "email": user.email}
        return Response(body, status=201)


def choose_account(actor: Actor, slug: str | None) -> Account:
    """The named account, else the person's own, else one where it may make keys."""
    if slug is not None:
        return access_account(actor, slug, "keys")
    memberships = list(list_memberships(actor))
    memberships.sort(key=own_first)
    for membership in memberships:
        if has_right(actor, membership.account, "keys"):
            return membership.account
    raise ForbiddenError("This person may make keys in no account.")


class MeView(APIView):
    """`GET /api/me`: the person or token that asks."""

    def get(self, request: Request) -> Response:
        """E-mail address, accounts with roles, and the token's name and scopes."""
        actor = actor_of(request)
        token = actor.api_key
        return Response(
            {
                "email": actor.user.email if actor.user else None,
                "accounts": [
                    {
                        "slug": membership.account.slug,
                        "name": membership.account.name,
                        "role": membership.role,
                    }
                    for membership in list_memberships(actor)
                ],
                "token": token and {"name": token.name, "scopes": token.scopes},
            }
        )
