"""People at a terminal: a creator with the CLI, an operator with manage.py, a consumer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

from strongroom.config import IDENTITY_FILE, ConfigFolder
from tests.stack import Stack, environment

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = str(Path(sys.executable).with_name("strongroom"))


@dataclass(frozen=True)
class Login:
    """Who somebody is on the site."""

    email: str
    password: str


class Person:
    """Somebody at a terminal with the command line of the SDK.

    Args:
        stack: Where it signs in.
        folder: Where the person works; the client's own files lie in it, too.
        login: Who it is.
        web_url: Where the site is reached, if not directly.
    """

    def __init__(self, stack: Stack, folder: Path, login: Login, web_url: str = "") -> None:
        self.folder = folder
        self.config = folder / "config"
        self.environment = environment() | {"STRONGROOM_CONFIG_DIR": str(self.config)}
        self.environment["STRONGROOM_PASSWORD"] = login.password
        url = web_url or stack.demo["web_url"]
        self.run("login", "--url", url, "--email", login.email)

    def run(self, *arguments: str) -> str:
        """What a command prints; it must succeed."""
        return _run([_PROGRAM, *arguments], self.environment, self.folder)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command, whose output nobody reads."""
        return subprocess.Popen(
            [_PROGRAM, *arguments],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def init(self, name: str, *, title: str, price: str, task: str = "regression") -> None:
        """Write the listing of the model in the folder `name`, with `vectors.json` beside it."""
        self.run(
            "init", name, "--name", name, "--title", title, "--price", price,
            "--task", task, "--licence", "MIT", "--test-vectors-file", "vectors.json",
        )  # fmt: skip


class Creator(Person):
    """The creator of the demo.

    Args:
        stack: Whose demo it is.
        folder: Where the person works.
        web_url: Where the site is reached, if not directly.
        has_own_keys: A machine of its own: its signing key is another than the demo's.
    """

    def __init__(
        self, stack: Stack, folder: Path, web_url: str = "", *, has_own_keys: bool = False
    ) -> None:
        if not has_own_keys:
            # What another key signed would be held in review.
            _copy_identity(stack.home / "creator", folder / "config")
        demo = stack.demo["creator"]
        super().__init__(stack, folder, Login(demo["email"], demo["password"]), web_url)


def _copy_identity(source: Path, target: Path) -> None:
    ConfigFolder(source).load_identity()  # Made now if the demo has pushed nothing.
    target.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(source / IDENTITY_FILE, target / IDENTITY_FILE)


def manage(stack: Stack, *arguments: str) -> str:
    """What a command of manage.py prints against the running product; it must succeed."""
    home = {"STRONGROOM_HOME": str(stack.home)}
    return _run([sys.executable, str(ROOT / "manage.py"), *arguments], environment() | home)


def _run(command: list[str], env: dict[str, str], folder: Path | None = None) -> str:
    done = subprocess.run(
        command, env=env, cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def predict(stack: Stack, model: str, key: str, body: dict) -> httpx.Response:
    """What the gateway answers a consumer."""
    url = f"{stack.demo['gateway_url']}/v1/models/{model}/predictions"
    return httpx.post(
        url, json={"input": body}, headers={"Authorization": f"Bearer {key}"}, timeout=90
    )
