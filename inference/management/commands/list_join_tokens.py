"""Which join tokens are still good; needs the role of the schema's owner."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from inference.management.as_owner import as_owner
from inference.models import NodeJoinToken
from marketplace.core.clock import utc_now


class Command(BaseCommand):
    help = "List the join tokens that are still good: for what, until when, how often used."

    def handle(self, *args: Any, **options: Any) -> None:
        with as_owner():
            rows = NodeJoinToken.objects.filter(revoked_at=None, expires_at__gt=utc_now())
            found = [row for row in rows.order_by("expires_at") if not row.is_used_up]
        for row in found:
            uses = f"{row.use_count} of {row.use_count_max} used"
            self.stdout.write(f"{row}\tuntil {row.expires_at:%F %T} UTC\t{uses}")
        if not found:
            self.stdout.write("No join token is good. Make one with create_join_token.")
