"""Print a secret with which one node may enrol."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from inference.services import node
from marketplace.core.errors import MarketplaceError


class Command(BaseCommand):
    help = "Print a secret with which one node of this name may enrol, once, within a day."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", required=True, help="the node's name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            token = node.create_join_token(name=options["name"])
        except MarketplaceError as error:
            raise CommandError(error.detail) from error
        self.stdout.write(token)
