"""Do the clocks of this machine, the database and the nodes agree? Exits 1 if one does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection

from inference.models import Node
from inference.selectors.fleet import read_clock_ahead_s
from inference.selectors.node import QUIET_AFTER
from marketplace.core.clock import utc_now

# As the alert on a node's clock has it.
SECONDS_MAX = 60


class Command(BaseCommand):
    help = (
        "Compare this machine's clock with the database's, and show how far the nodes' are off as"
        " their last reports have it; exits 1 if one is further off than --seconds."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--seconds", type=int, default=SECONDS_MAX, help="how far off is too far; %(default)s"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["seconds"] < 1:
            raise CommandError("--seconds must be at least 1.")
        is_wrong = False
        for name, ahead_s in list_clocks():
            is_off = abs(ahead_s) > options["seconds"]
            is_wrong |= is_off
            line = f"{'BROKEN' if is_off else 'ok    '} {name} {describe(ahead_s)}"
            self.stdout.write(self.style.ERROR(line) if is_off else line)
        if is_wrong:
            raise SystemExit(1)


def list_clocks() -> Iterator[tuple[str, float]]:
    """What has a clock, and by how many seconds it is ahead of the database's.

    Nodes are compared with the site when they report; so theirs are as right as the site's.

    Raises:
        CommandError: The database does not answer.
    """
    yield "this machine", -read_database_ahead_s()
    heard = Node.objects.filter(revoked_at=None, last_seen_at__gt=utc_now() - QUIET_AFTER)
    for node in heard.order_by("name"):
        yield f"node {node.name}", float(read_clock_ahead_s(node))


def read_database_ahead_s() -> float:
    """By how many seconds the database's clock is ahead of ours, half the way there and back off.

    Raises:
        CommandError: It does not answer.
    """
    try:
        with connection.cursor() as cursor:
            before = utc_now()
            cursor.execute("SELECT clock_timestamp()")
            theirs = cursor.fetchone()[0]
            after = utc_now()
    except DatabaseError as error:
        raise CommandError(f"The database does not answer ({type(error).__name__}).") from error
    return float((theirs - before - (after - before) / 2).total_seconds())


def describe(ahead_s: float) -> str:
    """In words."""
    if abs(ahead_s) < 1:
        return "is right to the second"
    return f"is {abs(ahead_s):,.0f} s {'ahead' if ahead_s > 0 else 'behind'}"
