"""What every template knows."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest


def site(request: HttpRequest) -> dict[str, Any]:
    """Addresses, and whether this is development."""
    return {"gateway_url": settings.GATEWAY_URL, "development": settings.DEVELOPMENT}
