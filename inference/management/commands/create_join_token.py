"""Print a secret with which nodes may join; needs the role of the schema's owner."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from inference.management.as_owner import as_owner
from inference.models.node import POOL_DEFAULT
from inference.services import node

HOURS_DEFAULT = int(node.JOIN_TOKEN_LIFETIME.total_seconds() // 3600)


class Command(BaseCommand):
    help = (
        "Print a secret with which one node may join (--name), or, without a name, with which"
        " nodes that come and go by themselves may join a pool (--pool and --uses)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", help="the node's name; the token is used once")
        parser.add_argument("--pool", help=f"the pool it joins; of a name's: {POOL_DEFAULT}")
        parser.add_argument("--uses", type=int, help="how many nodes may join the pool with it")
        parser.add_argument(
            "--hours", type=int, default=HOURS_DEFAULT, help="good for so long; %(default)s"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        name, pool, uses = options["name"], options["pool"], options["uses"]
        lifetime = timedelta(hours=options["hours"])
        if name is None and pool is None:
            raise CommandError("Give a --name, or a --pool and how many --uses.")
        if (uses is None) == (name is None):
            raise CommandError("A token for a pool has --uses; one for a --name is used once.")
        with as_owner():
            if name is not None:
                pool = POOL_DEFAULT if pool is None else pool
                token = node.create_join_token(name=name, pool=pool, lifetime=lifetime)
            else:
                token = node.create_pool_token(pool=pool, use_count_max=uses, lifetime=lifetime)
        self.stdout.write(token)
