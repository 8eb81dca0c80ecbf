"""Webhooks over the management API: endpoints, their secrets, deliveries and replays."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.core.calling import URL_LENGTH_MAX
from inference.models import (
    EventType,
    SigningSecret,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)
from inference.models.webhook import DESCRIPTION_LENGTH_MAX
from inference.selectors import webhook as selectors
from inference.services import webhook as services
from marketplace.api.authentication import actor_of, require_confirmed
from marketplace.core.clock import to_wire
from marketplace.selectors.access import access_account


class _Events(serializers.ListField):
    child = serializers.ChoiceField([str(one) for one in services.CHOICES])


class WebhookInput(serializers.Serializer):
    account = serializers.SlugField()
    url = serializers.CharField(max_length=URL_LENGTH_MAX)
    events = _Events(required=False, max_length=len(services.CHOICES))
    description = serializers.CharField(
        required=False, allow_blank=True, max_length=DESCRIPTION_LENGTH_MAX
    )


class WebhookChangeInput(serializers.Serializer):
    url = serializers.CharField(required=False, max_length=URL_LENGTH_MAX)
    events = _Events(required=False, max_length=len(services.CHOICES))
    description = serializers.CharField(
        required=False, allow_blank=True, max_length=DESCRIPTION_LENGTH_MAX
    )
    is_enabled = serializers.BooleanField(required=False)


class SecretInput(serializers.Serializer):
    account = serializers.SlugField()


class ReplayInput(serializers.Serializer):
    since = serializers.DateTimeField()


class DeliveryQuery(serializers.Serializer):
    account = serializers.SlugField()
    endpoint = serializers.UUIDField(required=False)
    state = serializers.ChoiceField(WebhookDelivery.State.choices, required=False)
    type = serializers.ChoiceField(EventType.choices, required=False)
    before = serializers.CharField(required=False, max_length=36)


class WebhooksView(APIView):
    """`GET`, `POST /api/webhooks`."""

    def get(self, request: Request) -> Response:
        """The endpoints of `?account=`, without their secrets. Needs the right `keys`."""
        slug = request.query_params.get("account", "")
        account = access_account(actor_of(request), slug, selectors.RIGHT)
        rows = selectors.list_endpoints(account)
        return Response({"results": [endpoint_json(one) for one in rows]})

    def post(self, request: Request) -> Response:
        """A new endpoint; its secret is in this answer and nowhere else. Needs the right `keys`."""
        require_confirmed(request)
        fields = WebhookInput(data=request.data)
        fields.is_valid(raise_exception=True)
        data = dict(fields.validated_data)
        actor = actor_of(request)
        account = access_account(actor, data.pop("account"), selectors.RIGHT)
        endpoint, secret = services.add_endpoint(actor=actor, account=account, **data)
        return Response(endpoint_json(endpoint) | {"secret": secret}, status=201)


class WebhookView(APIView):
    """`GET`, `PATCH`, `DELETE /api/webhooks/{id}`."""

    def get(self, request: Request, endpoint_id: UUID) -> Response:
        """One endpoint, with its counts of the last day. Needs the right `keys`."""
        return Response(endpoint_json(selectors.access_endpoint(actor_of(request), endpoint_id)))

    def patch(self, request: Request, endpoint_id: UUID) -> Response:
        """Change an endpoint, or turn it on or off; what is left out stays."""
        actor = actor_of(request)
        endpoint = selectors.access_endpoint(actor, endpoint_id)
        fields = WebhookChangeInput(data=request.data)
        fields.is_valid(raise_exception=True)
        changed = services.change_endpoint(
            actor=actor, endpoint=endpoint, changes=dict(fields.validated_data)
        )
        return Response(endpoint_json(changed))

    def delete(self, request: Request, endpoint_id: UUID) -> Response:
        """Tell it nothing more; its deliveries go with it."""
        actor = actor_of(request)
        endpoint = selectors.access_endpoint(actor, endpoint_id)
        services.remove_endpoint(actor=actor, endpoint=endpoint)
        return Response(status=204)


class WebhookRotateView(APIView):
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        """A new secret, shown in this answer alone; the old one signs as well for 24 hours."""
        require_confirmed(request)
        actor = actor_of(request)
        endpoint = selectors.access_endpoint(actor, endpoint_id)
        endpoint, secret = services.rotate_secret(actor=actor, endpoint=endpoint)
        return Response(_secret_json(endpoint, secret))

    def delete(self, request: Request, endpoint_id: UUID) -> Response:
        """End the old secret before its day is over."""
        actor = actor_of(request)
        endpoint = selectors.access_endpoint(actor, endpoint_id)
        services.end_old_secret(actor=actor, endpoint=endpoint)
        return Response(status=204)


class WebhookTestView(APIView):
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        """Send a test, once; how it went stands in its delivery."""
        actor = actor_of(request)
        endpoint = selectors.access_endpoint(actor, endpoint_id)
        delivery = services.send_test(actor=actor, endpoint=endpoint)
        return Response(delivery_json(delivery), status=202)


class WebhookReplayView(APIView):
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        """Send once more what has failed since a moment, at most 1,000 at once."""
        actor = actor_of(request)
        endpoint = selectors.access_endpoint(actor, endpoint_id)
        fields = ReplayInput(data=request.data)
        fields.is_valid(raise_exception=True)
        since = fields.validated_data["since"]
        count = services.replay_failed(actor=actor, endpoint=endpoint, since=since)
        return Response({"replayed": count}, status=202)


class DefaultSecretView(APIView):
    """`GET`, `POST /api/webhook-secret`: what signs webhooks that predictions name themselves."""

    def get(self, request: Request) -> Response:
        """The secret of `?account=`, made when it is first asked for. Needs the right `keys`."""
        require_confirmed(request)
        actor = actor_of(request)
        slug = request.query_params.get("account", "")
        account = access_account(actor, slug, selectors.RIGHT)
        row, secret = services.show_default_secret(actor=actor, account=account)
        return Response(_secret_json(row, secret))

    def post(self, request: Request) -> Response:
        """Another one in its place; the old one signs as well for 24 hours."""
        require_confirmed(request)
        fields = SecretInput(data=request.data)
        fields.is_valid(raise_exception=True)
        actor = actor_of(request)
        account = access_account(actor, fields.validated_data["account"], selectors.RIGHT)
        row, secret = services.rotate_default_secret(actor=actor, account=account)
        return Response(_secret_json(row, secret))


class DeliveriesView(APIView):
    def get(self, request: Request) -> Response:
        """The deliveries of an account, newest first, 50 a page; `next` is the next `before`."""
        fields = DeliveryQuery(data=request.query_params)
        fields.is_valid(raise_exception=True)
        query = fields.validated_data
        account = access_account(actor_of(request), query["account"], selectors.RIGHT)
        chosen = selectors.Choice(
            query.get("endpoint"), query.get("state", ""), query.get("type", "")
        )
        page = selectors.get_deliveries(account, chosen, before=query.get("before", ""))
        results = [delivery_json(one) for one in page.rows]
        return Response({"results": results, "next": page.next_before or None})


class DeliveryView(APIView):
    def get(self, request: Request, delivery_id: UUID) -> Response:
        """One delivery with its attempts, the newest first, and what is sent now."""
        delivery = selectors.access_delivery(actor_of(request), delivery_id)
        return Response(
            delivery_json(delivery)
            | {
                "message": selectors.describe_message(delivery),
                "attempt_log": [_attempt_json(one) for one in selectors.list_attempts(delivery)],
            }
        )


class DeliveryReplayView(APIView):
    def post(self, request: Request, delivery_id: UUID) -> Response:
        """Send it once more, or now where it waits; under the same `webhook-id`."""
        actor = actor_of(request)
        delivery = selectors.access_delivery(actor, delivery_id)
        services.replay(actor=actor, delivery=delivery)
        return Response({"id": str(delivery.pk)}, status=202)


def endpoint_json(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """An endpoint on the wire; never its secret."""
    moments = ("disabled_at", "failing_since", "last_success_at", "created_at")
    return {
        "id": str(endpoint.pk),
        "account": endpoint.account.slug,
        "url": endpoint.url,
        "description": endpoint.description,
        "events": endpoint.events,
        "is_enabled": endpoint.is_enabled,
        "disabled_reason": endpoint.disabled_reason or None,
        "old_secret_until": _moment(endpoint.old_secret_until),
        **{name: _moment(getattr(endpoint, name)) for name in moments},
        **{name: getattr(endpoint, name, 0) for name in ("succeeded_24h", "failed_24h", "waiting")},
    }


def delivery_json(delivery: WebhookDelivery) -> dict[str, Any]:
    """A delivery on the wire."""
    is_waiting = delivery.state == WebhookDelivery.State.WAITING
    return {
        "id": str(delivery.pk),
        "account": delivery.account.slug,
        "endpoint": str(delivery.endpoint_id) if delivery.endpoint_id else None,
        "url": selectors.find_url(delivery),
        "type": delivery.type,
        "webhook_id": selectors.name_message(delivery.event),
        "prediction": selectors.name_prediction(delivery) or None,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "last_error": delivery.last_error or None,
        "next_at": _moment(delivery.next_at) if is_waiting else None,
        "created_at": _moment(delivery.created_at),
        "ended_at": _moment(delivery.ended_at),
    }


def _attempt_json(attempt: WebhookAttempt) -> dict[str, Any]:
    return {
        "at": to_wire(attempt.at),
        "duration_ms": attempt.duration_ms,
        "status": attempt.status,
        "error": attempt.error or None,
        "answer": attempt.answer,
    }


def _secret_json(row: SigningSecret, secret: str) -> dict[str, Any]:
    return {"key": secret, "old_secret_until": _moment(row.old_secret_until)}


def _moment(moment: Any) -> str | None:
    return to_wire(moment) if moment else None
