"""Start the whole product on this machine and keep it running: what `bin/up` executes.

Exit codes: 0 after a clean stop (with --check: and all predictions were right), 1 if
something did not come up or was wrong, 2 if it cannot start as things are.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from embedded import environment, guard, home, ports, postgres, processes, status, tls
from embedded.environment import GATEWAY_PORT, GRPC_PORT, ROOT, WEB_PORT, Place
from embedded.errors import StartError
from embedded.home import Home
from embedded.processes import Process
from embedded.supervisor import StartFailedError, Supervisor

# Converting, sealing, loading and measuring five models takes minutes on two cores.
DEMO_TIMEOUT_S = 1800.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what can be checked beforehand, then run under a guard."""
    options = _parse(arguments)
    try:
        place_home = home.make(options.home)
        lock = home.lock(place_home)
    except StartError as error:
        return _refuse(error)
    try:
        home.check_disk(place_home)
        for option, port in _list_ports(options).items():
            _check_port(option, port)
        return guard.run(lambda: supervise(options, place_home))
    except StartError as error:
        return _refuse(error)
    finally:
        lock.release()


def _refuse(error: StartError) -> int:
    print(f"bin/up: {error}", file=sys.stderr)
    return 2


def supervise(options: argparse.Namespace, place_home: Home) -> int:
    """Run all parts until a signal comes; returns the exit code."""
    display = status.for_stream(plain=options.plain)
    run_dir = home.run_dir(place_home)
    try:
        place = _prepare(options, place_home, run_dir)
        supervisor = Supervisor(_parts(options, place), place_home.logs, display)
    except StartError as error:
        return _refuse(error)
    supervisor.install_signals()
    try:
        return _run(options, supervisor, place, display)
    finally:
        supervisor.stop_all()
        _clear(run_dir, place_home)


def _run(
    options: argparse.Namespace, supervisor: Supervisor, place: Place, display: status.Status
) -> int:
    try:
        complete = supervisor.start_all()
    except StartFailedError as error:
        child = error.child
        what = "failed" if child.process.is_task else "did not come up"
        display.say(f"bin/up: {child.name} {what}; the end of {child.log}:")
        for text in child.last_words():
            display.say(f"    {text}")
        return 1
    if options.check:
        return 0 if complete else 1
    if complete:
        for text in _welcome(place):
            display.say(text)
        supervisor.run()
    return 0


def _welcome(place: Place) -> list[str]:
    """Where everything is, and a command to paste. It shows a key, so no log has it."""
    lines = ["", f"Site     {place.web_url}", f"Gateway  {place.gateway_url}"]
    lines.append(f"gRPC     {place.grpc_address}")
    if place.home.demo_file.exists():
        demo = json.loads(place.home.demo_file.read_text())
        model = demo["models"][0]
        body = json.dumps({"input": model["example_input"]}, separators=(",", ":"))
        lines += [
            f"Logins   {place.home.demo_file}",
            "",
            _curl(place, model["name"], demo["consumer"]["api_key"], body),
        ]
    return [*lines, "", "Ctrl-C stops everything.", ""]


def _curl(place: Place, model: str, api_key: str, body: str) -> str:
    parts = ["curl", "-s", f"{place.gateway_url}/v1/models/{model}/predictions"]
    parts += ["-H", f"Authorization: Bearer {api_key}"]
    return shlex.join([*parts, "-H", "Content-Type: application/json", "-d", body])


def _prepare(options: argparse.Namespace, place_home: Home, run_dir: Path) -> Place:
    secrets = home.load_secrets(place_home)
    place = Place(
        home=place_home,
        secrets=secrets,
        ports=home.choose_ports(place_home, set(_list_ports(options).values())),
        web_port=options.web_port,
        gateway_port=options.gateway_port,
        grpc_port=options.grpc_port,
        run_dir=run_dir,
    )
    tls.ensure(place_home)
    folder = place_home / "postgres"
    user = postgres.server_user(folder)
    postgres.prepare(folder, password=secrets["postgres_superuser"], user=user)
    home.write_private(place_home.env_file, environment.for_env_file(place))
    place_home.demo_file.unlink(missing_ok=True)  # Until everything in it is true again.
    return place


def _parts(options: argparse.Namespace, place: Place) -> list[Process]:
    parts = processes.build(place)
    if options.seed:
        parts.append(_demo(place, tuple(part.name for part in parts), check=options.check))
    return parts


def _demo(place: Place, after: tuple[str, ...], *, check: bool) -> Process:
    command = processes.python("-m", "embedded.demo", place.home.path)
    return Process(
        name="demo",
        command=[*command, "--check"] if check else command,
        # It is a person at a terminal: it runs manage.py and the command line client.
        env=environment.for_process(place, "demo"),
        after=after,
        start_timeout_s=DEMO_TIMEOUT_S,
    )


def _clear(run_dir: Path, place_home: Home) -> None:
    """Remove sockets; the home's own folder stays."""
    if run_dir == place_home / "run":
        for path in run_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        shutil.rmtree(run_dir, ignore_errors=True)


def _check_port(option: str, port: int) -> None:
    if not ports.is_free(port):
        raise StartError(f"port {port} is taken: choose another with --{option}-port")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bin/up", description="Start Strongroom on this machine: real servers, no Docker."
    )
    parser.add_argument("--home", type=Path, default=_default_home(), help="folder for all state")
    parser.add_argument("--web-port", type=_port, default=WEB_PORT, help="of the site")
    parser.add_argument("--gateway-port", type=_port, default=GATEWAY_PORT, help="of the API")
    parser.add_argument("--grpc-port", type=_port, default=GRPC_PORT, help="of the API by gRPC")
    parser.add_argument(
        "--check", action="store_true", help="one prediction with every demo model, then stop"
    )
    parser.add_argument("--no-seed", dest="seed", action="store_false", help="no demo models")
    parser.add_argument("--plain", action="store_true", help="a line per change, no live status")
    options = parser.parse_args(arguments)
    if options.check and not options.seed:
        parser.error("--check needs the demo models")
    # 0 means any: chosen here, so that every part knows it.
    options.web_port = options.web_port or ports.choose()
    options.gateway_port = options.gateway_port or ports.choose([options.web_port])
    taken = [options.web_port, options.gateway_port]
    options.grpc_port = options.grpc_port or ports.choose(taken)
    if len({*taken, options.grpc_port}) < len(taken) + 1:
        parser.error("--web-port, --gateway-port and --grpc-port must differ")
    return options


def _list_ports(options: argparse.Namespace) -> dict[str, int]:
    return {"web": options.web_port, "gateway": options.gateway_port, "grpc": options.grpc_port}


def _default_home() -> Path:
    return Path(os.environ.get("STRONGROOM_HOME") or ROOT / "var")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535; 0 means any)")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
