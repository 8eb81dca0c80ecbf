"""Where Stripe tells us that something happened."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from billing.services.stripe_event import receive_event
from marketplace.core.errors import PayloadTooLargeError

# Stripe's largest events are some tens of kilobytes.
BODY_BYTES_MAX = 512 * 1024


@csrf_exempt  # Stripe signs its requests instead.
@require_POST
def stripe_webhook(request: HttpRequest) -> HttpResponse:
    """Store a verified event and answer; what it asks for is done afterwards."""
    if int(request.headers.get("Content-Length") or 0) > BODY_BYTES_MAX:
        raise PayloadTooLargeError
    event = receive_event(request.body, request.headers.get("Stripe-Signature", ""))
    return JsonResponse({"received": event.pk})
