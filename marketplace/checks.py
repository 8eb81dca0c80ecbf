"""System checks: `manage.py check --deploy` refuses settings that are unsafe in production."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

SECRET_LENGTH_MIN = 32


@register(Tags.security, deploy=True)
def check_production(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Refuse development settings, short secrets and plain HTTP."""
    faults = {
        "E001": (settings.DEVELOPMENT, "STRONGROOM_ENV is development."),
        "E002": (
            len(settings.SECRET_KEY) < SECRET_LENGTH_MIN,
            f"STRONGROOM_SECRET_KEY is shorter than {SECRET_LENGTH_MIN} characters.",
        ),
        "E003": (
            not settings.WEB_URL.startswith("https://"),
            "STRONGROOM_WEB_URL does not use https.",
        ),
        "E004": (
            not settings.STRIPE_SECRET_KEY.startswith(("sk_", "rk_")),
            "STRONGROOM_STRIPE_SECRET_KEY is not set.",
        ),
        "E005": (
            not settings.STRIPE_WEBHOOK_SECRET.startswith("whsec_"),
            "STRONGROOM_STRIPE_WEBHOOK_SECRET is not set.",
        ),
        "E006": (
            len(settings.KEYBROKER_TOKEN) < SECRET_LENGTH_MIN,
            f"STRONGROOM_KEYBROKER_TOKEN is shorter than {SECRET_LENGTH_MIN} characters.",
        ),
        "E007": (
            len(settings.PLAYGROUND_SECRET) < SECRET_LENGTH_MIN,
            f"STRONGROOM_PLAYGROUND_SECRET is shorter than {SECRET_LENGTH_MIN} characters.",
        ),
        "E008": (
            not settings.KEYBROKER_URL.startswith("https://"),
            "STRONGROOM_KEYBROKER_URL does not use https.",
        ),
    }
    return [
        Error(text, id=f"strongroom.{number}") for number, (wrong, text) in faults.items() if wrong
    ]
