"""Take all second factors from a person who has lost them, recovery codes included.

The operator has recognised the person by other means; how, is the reason, and stays in the
audit log. The person's sessions end, and it hears of it by mail. The password stays: signing
in takes that one, and then a new factor.
"""

from __future__ import annotations

import getpass
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from marketplace.core import limits
from marketplace.models import User
from marketplace.services.second_factor import reset_factors


class Command(BaseCommand):
    help = "Take all second factors from a person who has lost them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--reason", required=True, help="how the person was recognised")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(email=options["email"].strip().lower()).first()
        if user is None:
            raise CommandError("nobody signs in with this address")
        reason = options["reason"].strip()
        if not 0 < len(reason) <= limits.REASON_LENGTH_MAX:
            raise CommandError(f"a reason has 1 to {limits.REASON_LENGTH_MAX} characters")
        reset_factors(user, operator=f"operator:{getpass.getuser()}", reason=reason)
        self.stdout.write(f"{user.email} signs in by password alone, until it adds a factor.")
