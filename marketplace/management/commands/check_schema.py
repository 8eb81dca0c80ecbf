"""Wait until the schema is there for which this code was written; 1 if it is not in time."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection

from marketplace.core.schema import Fit, describe, judge
from marketplace.services.migration import read_number
from marketplace.services.schema import SchemaState, read_schema_state

LOOK_EVERY_S = 1.0
WAIT_S_DEFAULT = 600.0


class Command(BaseCommand):
    help = (
        "Exit 0 once every migration of this code was carried out. A schema that is newer is fine:"
        " it still has what this code needs, unless it says otherwise."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--wait-s",
            type=float,
            default=WAIT_S_DEFAULT,
            help="how long to wait for whoever migrates (%(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        deadline = time.monotonic() + options["wait_s"]
        told = ""
        while (trouble := self._find_trouble()) and time.monotonic() < deadline:
            if trouble != told:
                self.stdout.write(f"waiting: {trouble}")
                told = trouble
            time.sleep(LOOK_EVERY_S)
        if trouble:
            raise CommandError(trouble)

    def _find_trouble(self) -> str:
        try:
            state = read_schema_state()
        except OperationalError as error:
            connection.close()
            return f"the database does not answer: {str(error).strip().splitlines()[0]}"
        number = read_number()
        if judge(number) is Fit.TOO_NEW:
            # Waiting will not help.
            raise CommandError(describe(number))
        if not state.is_too_old:
            self.stdout.write(_describe(state))
            return ""
        return f"the schema is older than this code: {state.missing[0]} was not carried out"


def _describe(state: SchemaState) -> str:
    if state.unknown:
        return f"ok     the schema is newer than this code, by {len(state.unknown)} migrations"
    return "ok     the schema is that of this code"
