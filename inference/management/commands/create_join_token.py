"""Print a secret with which one node may join; needs the role of the schema's owner."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import ProgrammingError
from psycopg.errors import InsufficientPrivilege

from inference.services import node
from marketplace.core.errors import MarketplaceError


class Command(BaseCommand):
    help = "Print a secret with which one node of this name may join, once, within a day."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", required=True, help="the node's name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            token = node.create_join_token(name=options["name"])
        except MarketplaceError as error:
            raise CommandError(error.detail) from error
        except ProgrammingError as error:
            if not isinstance(error.__cause__, InsufficientPrivilege):
                raise
            detail = "STRONGROOM_DATABASE_URL must be that of the schema's owner, as for migrate."
            raise CommandError(detail) from error
        self.stdout.write(token)
