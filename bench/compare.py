"""One run of a comparison: its options, the servers in turn, and what is said of the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench import load
from bench.load import LoadError, Result
from bench.servers import Server

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# What the gateway's costs are compared with.
FLOOR = "Triton alone"

Row = TypeVar("Row", bound="DataclassInstance")


def run(
    name: str,
    description: str | None,
    measure_all: Callable[[argparse.Namespace, Path], list[Row]],
    draw_table: Callable[[Sequence[Row]], Iterator[str]],
) -> int:
    """Measure and print; 1 if a measurement failed.

    Args:
        name: Of the program.
        description: What its help says.
        measure_all: Gives the rows, which are dataclasses; has a folder of its own.
        draw_table: The lines to print.
    """
    options = _parse(name, description)
    try:
        load.find_wrk()
        with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as folder:
            rows = measure_all(options, Path(folder))
    except LoadError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    print(_describe_machine(options), *draw_table(rows), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


def measure_in_turn(
    name: str,
    servers: Sequence[Server],
    connections: int,
    options: argparse.Namespace,
    folder: Path,
) -> dict[str, Result]:
    """Medians by server; round by round, so that a slow moment of the machine meets each."""
    found: dict[str, list[Result]] = {one.name: [] for one in servers}
    for _ in range(options.rounds):
        for one in servers:
            print(f"{name}, {connections} connections: {one.name}", file=sys.stderr)
            result = load.measure(
                one.request,
                connections=connections,
                duration_s=options.duration,
                pids=one.pids,
                folder=folder,
            )
            found[one.name].append(result)
    return {server: _median(results) for server, results in found.items()}


def _parse(name: str, description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--duration", type=int, default=5, help="seconds of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many counts")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    return parser.parse_args()


def _median(results: Sequence[Result]) -> Result:
    names = [one.name for one in fields(Result)]
    return Result(*(statistics.median(getattr(one, name) for one in results) for name in names))


def _describe_machine(options: argparse.Namespace) -> str:
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()};"
        f" median of {options.rounds} rounds of {options.duration} s\n"
    )
