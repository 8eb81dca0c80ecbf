"""Servers that may be killed at any moment: no other test of the run stands on them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from embedded import descendants, ports, postgres, spawn
from inference.triton import repository
from strongroom.interface import Interface
from tests import servers
from tests.gateway.processes import GatewayProcess, ToyTriton

_START_TIMEOUT_S = 60.0


class OwnPostgres:
    """A Postgres with a copy of the migrated test database, roles and rights included.

    Unlike the run's own it flushes what it commits, as in production.
    """

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.database = database
        self.port = ports.choose()
        self._servers = servers.provide()
        self._user = postgres.server_user(folder)
        postgres.prepare(folder, password=self._servers.superuser_password, user=self._user)
        self.start()
        postgres.ensure_roles(
            self.port, self._servers.superuser_password, self._servers.passwords, for_tests=True
        )
        self._copy()

    def url(self, role: str) -> str:
        return postgres.url(self.port, role, self._servers.passwords[role], self.database)

    @property
    def superuser_url(self) -> str:
        """Of the copy, not of the maintenance database."""
        password = self._servers.superuser_password
        return postgres.url(self.port, postgres.SUPERUSER, password, self.database)

    def start(self) -> None:
        """Start it, after a kill as often as it takes until the memory of the dead is free."""
        password = self._servers.superuser_password
        address = postgres.url(self.port, postgres.SUPERUSER, password, "postgres")
        deadline = time.monotonic() + _START_TIMEOUT_S
        self._spawn()
        while not postgres.is_ready(address):
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            if self._process.poll() is not None:
                self._spawn()
            time.sleep(0.05)

    def kill(self) -> None:
        """All of its processes at once, as the loss of the machine's power does."""
        # It must not make another one meanwhile: that one would wait for ever for what the dead
        # have locked, and hold their memory.
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGSTOP)
        for pid in [self._process.pid, *descendants.list_descendants(self._process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self._process.send_signal(postgres.STOP_SIGNAL)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def _spawn(self) -> None:
        self._process = spawn.start(
            postgres.command(self.folder, self.port),
            env=postgres.environment(),
            cwd=self.folder,
            log=self.folder / "log",
            user=self._user,
            death_signal=signal.SIGQUIT,
        )

    def _copy(self) -> None:
        source = postgres.url(
            self._servers.postgres_port,
            postgres.SUPERUSER,
            self._servers.superuser_password,
            self.database,
        )
        dump = self.folder / "dump"
        programs, env = postgres.programs(), postgres.environment()
        subprocess.run(
            [programs / "pg_dump", "--format=custom", f"--file={dump}", source], env=env, check=True
        )
        maintenance = self.superuser_url.rpartition("/")[0] + "/postgres"
        subprocess.run(
            [programs / "pg_restore", "--create", f"--dbname={maintenance}", dump],
            env=env,
            check=True,
        )
        dump.unlink()


class OwnTriton(ToyTriton):
    """A tritonserver that comes back on its ports with the model that it had."""

    def __init__(self, folder: Path, interface: Interface, replica_id: UUID) -> None:
        self.interface, self.replica_id = interface, replica_id
        super().__init__(folder, interface, [replica_id])

    def start(self) -> None:
        shutil.rmtree(self.config.repository_dir / repository.model_name(self.replica_id))
        self.server.clean_up()
        self.server.start()
        self.server.wait_ready()
        self.load(self.interface, self.replica_id)


class Seat:
    """A place for a gateway: another process sits there after each death, on another port."""

    def __init__(self, folder: Path, database_url: str, **settings: Any) -> None:
        self._folder, self._database_url, self._settings = folder, database_url, settings
        self.start()

    @property
    def url(self) -> str:
        return self.process.url

    def start(self) -> None:
        self.process = GatewayProcess(self._folder, self._database_url, **self._settings)

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.stop()
