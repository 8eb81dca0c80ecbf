"""Run one process of the control plane: the site, a worker, or the schedule of the workers.

Run: python -m marketplace [web | worker | beat]

Settings are read before anything is started, so that a wrong one ends this process with its
name. Then granian or Celery takes this process' place: it is the one that gets the signals.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from marketplace.core import probe, schema
from marketplace.core.env import SettingError, env_database_url, env_int, env_token
from marketplace.core.listen import env_listen

WEB_LISTEN_DEFAULT = "127.0.0.1:8000"
# Threads that serve pages and the management API; each holds a database connection.
WEB_THREADS = 8
WEB_THREADS_MAX = 64
WORKER_PROCESSES = 2
WORKER_PROCESSES_MAX = 64
SECRETS = {
    "web": (
        "STRONGROOM_SECRET_KEY",
        "STRONGROOM_KEYBROKER_TOKEN",
        "STRONGROOM_PLAYGROUND_SECRET",
    ),
    "worker": ("STRONGROOM_SECRET_KEY", "STRONGROOM_KEYBROKER_TOKEN"),
    "beat": ("STRONGROOM_SECRET_KEY",),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Become the process that the command line names.

    Exits with 2 if its settings are wrong, and as `schema.Fit` has it if the schema is.
    """
    name = _parse(arguments).process
    try:
        check_settings(name)
        schema_wait_s = schema.read_wait_s()
        command = COMMANDS[name]()
    except (SettingError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    schema.check_at_start(name, env_database_url("STRONGROOM_DATABASE_URL"), schema_wait_s)
    os.execv(sys.executable, command)  # noqa: S606 - a fixed program, and no shell


def web_command() -> list[str]:
    """The site and the management API."""
    host, port = env_listen("STRONGROOM_WEB_LISTEN", WEB_LISTEN_DEFAULT)
    threads = env_int("STRONGROOM_WEB_THREADS", WEB_THREADS, minimum=1, maximum=WEB_THREADS_MAX)
    return [
        *(sys.executable, "-P", "-m", "granian", "--interface", "wsgi"),
        *("--host", host, "--port", str(port), "--workers", "1", "--no-ws", "--http", "1"),
        *("--blocking-threads", str(threads), "marketplace.wsgi:application"),
    ]


def worker_command() -> list[str]:
    """What Celery does by itself and when it is asked to."""
    count = env_int(
        "STRONGROOM_WORKER_PROCESSES", WORKER_PROCESSES, minimum=1, maximum=WORKER_PROCESSES_MAX
    )
    return [
        *_celery("worker"),
        *("--concurrency", str(count), "--without-gossip", "--without-mingle"),
    ]


def beat_command() -> list[str]:
    """The schedule. It keeps no state worth having: every entry is due again soon."""
    schedule = probe.make_state_dir() / "schedule"
    scheduler = "marketplace.scheduler:NotedScheduler"
    return [
        *_celery("beat"),
        *("--schedule", str(schedule), "--pidfile", "", "--scheduler", scheduler),
    ]


COMMANDS: dict[str, Callable[[], list[str]]] = {
    "web": web_command,
    "worker": worker_command,
    "beat": beat_command,
}


def _celery(kind: str) -> list[str]:
    celery = (sys.executable, "-P", "-m", "celery", "--app", "marketplace.celery")
    # What is written is for the settings to say (see `marketplace.celery`).
    return [*celery, kind, "--loglevel", "INFO"]


def check_settings(name: str) -> None:
    """Read what a process is given; raises SettingError with the name of what is wrong."""
    # Its own checks run while it is imported.
    from marketplace import settings

    for secret in SECRETS[name]:
        env_token(secret)
    if name != "beat" and not settings.DEVELOPMENT:
        _check_keybroker_url(settings.KEYBROKER_URL)


def _check_keybroker_url(url: str) -> None:
    if not url.startswith("https://"):
        raise SettingError("STRONGROOM_KEYBROKER_URL must begin with https:// in production")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m marketplace",
        description="A process of the control plane. Settings come from the environment"
        " (docs/operations.md).",
    )
    parser.add_argument(
        "process",
        choices=sorted(COMMANDS),
        help="web: site and management API; worker: Celery's tasks; beat: their schedule",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
