"""API keys and tokens, over the management API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.api.authentication import actor_of, require_confirmed
from marketplace.api.limits import KeyChangeInput, KeyLimitInput
from marketplace.core import limits
from marketplace.core.clock import to_wire
from marketplace.models import APIKey
from marketplace.selectors.access import access_account
from marketplace.selectors.key import access_key, list_keys
from marketplace.services.key import change_key, issue_key, revoke_key
from marketplace.services.limits import KEY_LIMIT_FIELDS


class KeyInput(KeyLimitInput):
    account = serializers.SlugField()
    name = serializers.CharField(max_length=limits.NAME_LENGTH_MAX)
    mode = serializers.ChoiceField(APIKey.Mode.choices)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(APIKey.Scope.choices), required=False, min_length=1
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class KeysView(APIView):
    """`GET`, `POST /api/keys`."""

    def get(self, request: Request) -> Response:
        """The keys of `?account=`, without their secrets. Needs the right `keys`."""
        slug = request.query_params.get("account", "")
        account = access_account(actor_of(request), slug, "keys")
        return Response({"results": [key_json(key) for key in list_keys(account)]})

    def post(self, request: Request) -> Response:
        """A new key; its text is in this answer and nowhere else. Needs the right `keys`."""
        require_confirmed(request)
        fields = KeyInput(data=request.data)
        fields.is_valid(raise_exception=True)
        data = dict(fields.validated_data)
        actor = actor_of(request)
        account = access_account(actor, data.pop("account"), "keys")
        key_limits = {name: data.pop(name) for name in KEY_LIMIT_FIELDS if name in data}
        api_key, secret = issue_key(actor=actor, account=account, key_limits=key_limits, **data)
        return Response(key_json(api_key) | {"key": secret.text}, status=201)


class KeyView(APIView):
    """`GET`, `PATCH`, `DELETE /api/keys/{id}`."""

    def get(self, request: Request, key_id: UUID) -> Response:
        """One key, without its secret. Needs the right `keys`."""
        return Response(key_json(access_key(actor_of(request), key_id, "keys")))

    def patch(self, request: Request, key_id: UUID) -> Response:
        """Limit a key otherwise; what is left out stays. Needs the right `keys`."""
        actor = actor_of(request)
        api_key = access_key(actor, key_id, "keys")
        fields = KeyChangeInput(data=request.data)
        fields.is_valid(raise_exception=True)
        change_key(actor=actor, api_key=api_key, key_limits=fields.validated_data)
        return Response(key_json(api_key))

    def delete(self, request: Request, key_id: UUID) -> Response:
        """End a key at once; repeating it changes nothing. Needs the right `keys`."""
        actor = actor_of(request)
        revoke_key(actor=actor, api_key=access_key(actor, key_id, "keys"))
        return Response(status=204)


def key_json(api_key: APIKey) -> dict[str, Any]:
    """A key on the wire; of its text only the first letters."""
    moments = ("expires_at", "revoked_at", "last_used_at", "created_at")
    return {
        "id": str(api_key.pk),
        "account": api_key.account.slug,
        "name": api_key.name,
        "mode": api_key.mode,
        "scopes": api_key.scopes,
        "prefix": api_key.hint,
        **{name: getattr(api_key, name) for name in KEY_LIMIT_FIELDS},
        **{
            name: to_wire(moment) if (moment := getattr(api_key, name)) else None
            for name in moments
        },
    }
