"""Make join tokens worthless; needs the role of the schema's owner."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from inference.management.as_owner import as_owner
from inference.services import node


class Command(BaseCommand):
    help = "Make every join token of a pool, or of a name, worthless. Nodes that joined stay."

    def add_arguments(self, parser: CommandParser) -> None:
        of = parser.add_mutually_exclusive_group(required=True)
        of.add_argument("--pool", default="", help="tokens with which nodes join this pool")
        of.add_argument("--name", default="", help="tokens of a node of this name")

    def handle(self, *args: Any, **options: Any) -> None:
        with as_owner():
            count = node.revoke_join_tokens(name=options["name"], pool=options["pool"])
        self.stdout.write(f"{count} revoked")
