"""Look after a node's cache by hand: fill it, look at it, read all of it.

It uses the identity in the node's folder, the node's settings and the same locks, and may run
beside the node, or before its first start on an image that has joined. No key passes through it.

Run: python -m inference.node.commands prefetch|status|verify [--json]

Exit codes: 0 done; 1 something is damaged or did not come; 2 the settings, the command line or
the identity; 3 the platform did not answer or refused.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.node import prefetch
from inference.node.cache import ArtifactCache
from inference.node.config import (
    read_cache_bytes,
    read_cache_dir,
    read_mirror_url,
)
from inference.node.control_plane import ControlPlane
from inference.node.errors import (
    CancelledError,
    IdentityError,
    RefusedError,
    ReplicaError,
    UnreachableError,
)
from inference.node.identity import IdentityStore
from inference.node.origin import Mirror
from inference.node.store import PartStore
from marketplace.core.env import SettingError, env_text, env_url

DONE, FAILED, MISUSED, AWAY = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _make_parser().parse_args(arguments)
    env = dict(os.environ if env is None else env)
    try:
        return int(options.run(options, env))
    except (SettingError, IdentityError) as error:
        return _complain(error, MISUSED)
    except (UnreachableError, RefusedError) as error:
        return _complain(error, AWAY)
    except (ReplicaError, OSError, ValueError) as error:
        return _complain(error, FAILED)
    except CancelledError:
        return _complain("it was ended; what came stays", FAILED)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="strongroom-node", description="Look after a node's cache of ciphertext."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fill = commands.add_parser(
        "prefetch", help="fetch versions that the node may be given next; no key is asked for"
    )
    fill.add_argument(
        "versions",
        nargs="*",
        metavar="MODEL[:VERSION]",
        help="such as acme/digits:3, or an id; all that the platform names if none is given",
    )
    fill.set_defaults(run=_prefetch)
    look = commands.add_parser("status", help="what lies in the cache")
    look.set_defaults(run=_status)
    check = commands.add_parser("verify", help="read all of it; set aside what went bad")
    check.set_defaults(run=_verify)
    for one in (fill, look, check):
        one.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _prefetch(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    identities = _find_identity(_read_node_dir(env))
    mirror_url = read_mirror_url(env)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ControlPlane(env_url("STRONGROOM_WEB_URL", env=env), identities) as control_plane:
        likely = prefetch.parse_likely(control_plane.get_prefetch())
        chosen, unknown = prefetch.choose(likely, options.versions)
        cache = ArtifactCache(
            read_cache_dir(env, _read_node_dir(env)),
            limit_bytes=read_cache_bytes(env),
            control_plane=control_plane,
            manifest_dir=_read_node_dir(env) / "manifests",
            mirror=Mirror(mirror_url) if mirror_url else None,
        )
        try:
            lines = [_bring(cache, one, stop) for one in chosen]
        finally:
            cache.close()
    lines += [{"name": one, "state": "unknown"} for one in unknown]
    _print(options, {"versions": lines}, [f"{one['name']}  {one['state']}" for one in lines])
    return DONE if all(one["state"] == "here" for one in lines) else FAILED


def _bring(cache: ArtifactCache, one: prefetch.Likely, stop: threading.Event) -> dict[str, Any]:
    line = {"name": one.name, "version_id": str(one.version_id), "size_bytes": one.size_bytes}
    try:
        prefetch.fetch_ahead(cache, one.version_id, stop)
    except ReplicaError as error:
        return {**line, "state": error.reason_code, "detail": error.detail}
    return {**line, "state": "here"}


def _status(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    store = _open_store(env)
    found = store.status().to_json()
    lines = [f"{name:<14} {value:>16}" for name, value in found.items()]
    _print(options, {"folder": str(store.folder), **found}, [str(store.folder), *lines])
    return DONE


def _verify(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    damaged: list[str] = []
    good_count, damaged_count = _open_store(env).verify(
        on_part=lambda digest, good: None if good else damaged.append(digest)
    )
    _print(
        options,
        {"good": good_count, "damaged": damaged},
        [f"{good_count} parts are right, {damaged_count} are not", *damaged],
    )
    return FAILED if damaged_count else DONE


def _open_store(env: Mapping[str, str]) -> PartStore:
    folder = read_cache_dir(env, _read_node_dir(env))
    if not folder.is_dir():
        raise SettingError(f"there is no cache in {folder}")
    return PartStore(folder, limit_bytes=read_cache_bytes(env))


def _read_node_dir(env: Mapping[str, str]) -> Path:
    return Path(env_text("STRONGROOM_NODE_DIR", env=env)).resolve()


def _find_identity(node_dir: Path) -> IdentityStore:
    """That of a node that has joined: none is made here."""
    if not (node_dir / "identity.json").is_file():
        raise IdentityError(f"no node has joined from {node_dir}")
    identities = IdentityStore(node_dir)
    if not identities.current.has_joined:
        raise IdentityError(f"the node in {node_dir} has not joined yet")
    return identities


def _print(options: argparse.Namespace, document: dict[str, Any], lines: list[str]) -> None:
    print(json.dumps(document) if options.json else "\n".join(lines))


def _complain(error: object, code: int) -> int:
    print(f"strongroom-node: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
