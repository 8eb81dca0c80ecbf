"""System checks: `manage.py check --deploy` refuses settings that are unsafe in production."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

SECRET_LENGTH_MIN = 32
# Modules of backends that keep mail on the machine.
_MAIL_TO_NOBODY = (["console"], ["dummy"], ["filebased"], ["locmem"])


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
        "E009": (
            not settings.STAFF_SECOND_FACTOR,
            "STRONGROOM_STAFF_SECOND_FACTOR is off: a password alone makes an admin.",
        ),
        "E010": (
            not settings.REQUIRE_VERIFIED_EMAIL,
            "STRONGROOM_REQUIRE_VERIFIED_EMAIL is off: anybody publishes under any address.",
        ),
        "E011": (
            settings.EMAIL_BACKEND.split(".")[-2:-1] in _MAIL_TO_NOBODY,
            "STRONGROOM_EMAIL_BACKEND sends no mail: people hear of nothing that happens to them.",
        ),
    }
    return [
        Error(text, id=f"strongroom.{number}") for number, (wrong, text) in faults.items() if wrong
    ]
