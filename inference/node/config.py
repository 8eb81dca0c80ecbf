"""What a node is told when it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inference.node import evidence
from inference.node.canary import INTERVAL_S_DEFAULT
from inference.node.evidence import Evidence, NoEvidence
from inference.node.origin import read_template
from inference.node_certificate import NODE_NAME
from inference.triton.server import HOST, TritonConfig
from marketplace.core.env import (
    PORT_MAX,
    SettingError,
    env_environment,
    env_int,
    env_secret,
    env_text,
    env_url,
)
from marketplace.core.metrics_listener import read_listen, read_token
from marketplace.core.spans import Spans

# A unix socket's address has 108 bytes, the ending zero among them.
SOCKET_PATH_LENGTH_MAX = 107
CACHE_BYTES_DEFAULT = 20 * 1024**3
SLOTS_DEFAULT = 1
DRAIN_S_DEFAULT = 5


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Settings of one node; `from_env` reads them."""

    node_dir: Path
    run_dir: Path
    name: str
    web_url: str
    keybroker_url: str
    # Of ciphertext; shared with other nodes of this machine that are told the same.
    cache_dir: Path
    triton: TritonConfig
    # Read again at each enrolment: the file may be written after the node was started.
    environment: Mapping[str, str] = field(repr=False)
    # Which pool its join token must be for; empty: whichever it is for.
    pool: str = ""
    cache_bytes: int = CACHE_BYTES_DEFAULT
    # Asked for ciphertext first; empty: the platform alone.
    mirror_url: str = ""
    # Whether ciphertext is fetched ahead.
    prefetches: bool = False
    # What it shows of itself when it asks for a key.
    evidence: Evidence = field(default_factory=NoEvidence)
    # Of the key broker's certificate; None: the authorities that the system knows.
    keybroker_ca: Path | None = None
    # Between two questions to one replica; 0 asks none.
    canary_interval_s: int = INTERVAL_S_DEFAULT
    # Where jobs come from; empty: this node runs none.
    gateway_url: str = ""
    # How many jobs run at once.
    slot_count: int = SLOTS_DEFAULT
    # How long a job may go on when the node is told to stop; then it is handed back.
    drain_s: int = DRAIN_S_DEFAULT
    # Where its numbers are scraped; None: nowhere.
    metrics_listen: tuple[str, int] | None = None
    metrics_token: str = field(default="", repr=False)

    @property
    def socket_path(self) -> Path:
        """Where the loaders come for their artifact."""
        return self.run_dir / "stub.sock"

    @property
    def manifest_dir(self) -> Path:
        """What the platform said of versions; never shared."""
        return self.node_dir / "manifests"

    @property
    def lock_path(self) -> Path:
        """Held by the one agent of this folder."""
        return self.node_dir / "node.lock"

    def read_join_token(self) -> str:
        """The one-time secret for enrolment; empty where there is none."""
        try:
            return env_secret("STRONGROOM_NODE_JOIN_TOKEN", env=self.environment)
        except SettingError:
            return ""

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> NodeConfig:
        """Read the settings.

        Raises:
            SettingError: One is missing or has a form that is not accepted.
        """
        env = dict(os.environ if env is None else env)
        node_dir = Path(env_text("STRONGROOM_NODE_DIR", env=env)).resolve()
        run_dir = Path(env_text("STRONGROOM_NODE_RUN_DIR", str(node_dir / "run"), env=env))
        name = _read_name("STRONGROOM_NODE_NAME", env_text("STRONGROOM_NODE_NAME", env=env))
        pool = env_text("STRONGROOM_NODE_POOL", "", env=env)
        slot_count = env_int("STRONGROOM_NODE_SLOTS", SLOTS_DEFAULT, minimum=0, env=env)
        config = cls(
            node_dir=node_dir,
            run_dir=run_dir.resolve(),
            name=name,
            pool=_read_name("STRONGROOM_NODE_POOL", pool) if pool else "",
            web_url=env_url("STRONGROOM_WEB_URL", env=env),
            keybroker_url=_read_broker_url(env),
            triton=TritonConfig(
                work_dir=node_dir / "triton",
                http_port=_read_port("HTTP", 18000, env),
                grpc_port=_read_port("GRPC", 18001, env),
                metrics_port=_read_port("METRICS", 18002, env),
                host=env_text("STRONGROOM_NODE_TRITON_HOST", HOST, env=env),
                triton_dir=_read_triton_dir(env),
                slot_count=slot_count,
            ),
            environment=env,
            evidence=evidence.from_env(env),
            cache_bytes=read_cache_bytes(env),
            cache_dir=read_cache_dir(env, node_dir),
            mirror_url=read_mirror_url(env),
            prefetches=_read_switch("STRONGROOM_NODE_PREFETCH", env),
            keybroker_ca=_read_ca(env),
            gateway_url=(
                env_url("STRONGROOM_GATEWAY_URL", env=env)
                if "STRONGROOM_GATEWAY_URL" in env
                else ""
            ),
            slot_count=slot_count,
            drain_s=env_int("STRONGROOM_NODE_DRAIN_S", DRAIN_S_DEFAULT, minimum=0, env=env),
            canary_interval_s=env_int(
                "STRONGROOM_NODE_CANARY_INTERVAL_S", INTERVAL_S_DEFAULT, minimum=0, env=env
            ),
            metrics_listen=read_listen("STRONGROOM_NODE_METRICS_LISTEN", env),
            metrics_token=read_token(env),
        )
        Spans("strongroom-node", env)  # Now, so that a wrong setting stops the node at its start.
        if len(os.fsencode(config.socket_path)) > SOCKET_PATH_LENGTH_MAX:
            raise SettingError("STRONGROOM_NODE_RUN_DIR is too long for a unix socket below it")
        return config


def _read_name(setting: str, name: str) -> str:
    if not NODE_NAME.fullmatch(name):
        detail = "must have lowercase letters, digits and inner hyphens, at most 63"
        raise SettingError(f"{setting} {detail}")
    return name


def _read_triton_dir(env: Mapping[str, str]) -> Path | None:
    path = env_text("STRONGROOM_NODE_TRITON_DIR", "", env=env)
    if path and not (Path(path) / "bin" / "tritonserver").is_file():
        raise SettingError(f"STRONGROOM_NODE_TRITON_DIR: there is no {path}/bin/tritonserver")
    return Path(path) if path else None


def read_cache_dir(env: Mapping[str, str], node_dir: Path) -> Path:
    """Where ciphertext lies."""
    return Path(env_text("STRONGROOM_NODE_CACHE_DIR", str(node_dir / "cache"), env=env)).resolve()


def read_cache_bytes(env: Mapping[str, str]) -> int:
    """How much of it may lie there."""
    return env_int("STRONGROOM_NODE_CACHE_BYTES", CACHE_BYTES_DEFAULT, minimum=1, env=env)


def read_mirror_url(env: Mapping[str, str]) -> str:
    """Where ciphertext is asked for first; empty: nowhere."""
    text = env_text("STRONGROOM_NODE_MIRROR_URL", "", env=env)
    return read_template(text) if text else ""


def _read_switch(name: str, env: Mapping[str, str]) -> bool:
    text = env_text(name, "off", env=env)
    if text not in ("on", "off"):
        raise SettingError(f"{name} must be on or off, not {text!r}")
    return text == "on"


def _read_port(plane: str, default: int, env: Mapping[str, str]) -> int:
    name = f"STRONGROOM_NODE_TRITON_{plane}_PORT"
    return env_int(name, default, minimum=1, maximum=PORT_MAX, env=env)


def _read_broker_url(env: Mapping[str, str]) -> str:
    url = env_url("STRONGROOM_KEYBROKER_URL", env=env)
    development = env_environment(env=env) == "development"
    if not url.startswith("https://") and not development:
        raise SettingError("STRONGROOM_KEYBROKER_URL must begin with https:// in production")
    return url


def _read_gateway_url(env: Mapping[str, str]) -> str:
    name = "STRONGROOM_GATEWAY_URL"
    return env_url(name, env=env) if name in env else ""


def _read_ca(env: Mapping[str, str]) -> Path | None:
    path = env_text("STRONGROOM_KEYBROKER_CA", "", env=env)
    if path and not Path(path).is_file():
        raise SettingError(f"STRONGROOM_KEYBROKER_CA: there is no file {path}")
    return Path(path) if path else None
