"""What each process is told, and nothing more.

One table decides who holds which secret. The node has no database credentials, the key
broker alone knows where its key store lies, and no process but the migrations connects as
the owner of the schema. What a person sets for one part (`STRONGROOM_GATEWAY_…`) reaches
that part only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedded import postgres, redis
from embedded.home import Home
from inference.serving.digest import compute_loader_digest

ROOT = Path(__file__).resolve().parents[1]
NODE_NAME = "node-1"
WEB_PORT = 8000
GATEWAY_PORT = 8001
GRPC_PORT = 8002

# From the person's own environment: what programs need to find their way about.
_PASSED_TO_ALL = ("HOME", "LANG", "TMPDIR", "STRONGROOM_LOG_LEVEL", "STRONGROOM_LOG_FORMAT")
_STRIPE = ("STRONGROOM_STRIPE_SECRET_KEY", "STRONGROOM_STRIPE_WEBHOOK_SECRET")
_PROXY = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")  # To reach the real Stripe.
_SITE = (
    "STRONGROOM_EMAIL_",
    "STRONGROOM_OBJECT_",
    "STRONGROOM_CREATOR_SHARE_BPS",
    "STRONGROOM_IDLE_AFTER_S",
    "STRONGROOM_WARM_HOUR_NANOS",
    "STRONGROOM_COPY_",
    "STRONGROOM_COPIES_MAX",
    "STRONGROOM_ACCOUNT_STORAGE_BYTES_MAX",
    "STRONGROOM_VERSION_BYTES_MAX",
    "STRONGROOM_SEARCH_MODEL",
    "AWS_",
)
# Where spans go, and what opens the numbers of a process; its own listener has its own prefix.
_WATCHED = ("STRONGROOM_METRICS_TOKEN", "STRONGROOM_OTLP_", "OTEL_EXPORTER_OTLP_")
# By process: prefixes of further variables that may be set for it.
_PASSED: Mapping[str, tuple[str, ...]] = {
    "web": (*_SITE, *_WATCHED, "STRONGROOM_TRUSTED_PROXY_COUNT", "STRONGROOM_WEB_THREADS"),
    "worker": (
        *_SITE,
        *_WATCHED,
        "STRONGROOM_WORKER_METRICS_LISTEN",
        "STRONGROOM_WORKER_PROCESSES",
    ),
    "beat": (*_WATCHED, "STRONGROOM_BEAT_METRICS_LISTEN"),
    "gateway": ("STRONGROOM_GATEWAY_", "STRONGROOM_POOL_", *_WATCHED),
    "keybroker": ("STRONGROOM_KEYBROKER_", *_WATCHED),
    "node": (
        *_WATCHED,
        "STRONGROOM_NODE_",
        "STRONGROOM_SANDBOX",
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
    ),
}


@dataclass(frozen=True)
class Place:
    """All that the environments are made of.

    Args:
        home: Where the state lies.
        secrets: From `home.load_secrets`.
        ports: Of the inner parts, by name.
        run_dir: For unix sockets.
        person: The environment of whoever started us.
    """

    home: Home
    secrets: Mapping[str, str] = field(repr=False)
    ports: Mapping[str, int]
    web_port: int
    gateway_port: int
    grpc_port: int
    run_dir: Path
    person: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def grpc_address(self) -> str:
        """Where the gateway speaks gRPC, as its clients want it: without a scheme."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def keybroker_url(self) -> str:
        return f"https://127.0.0.1:{self.ports['keybroker']}"

    @property
    def fakestripe_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['fakestripe']}"

    @property
    def redis_url(self) -> str:
        return redis.url(self.ports["redis"], self.secrets["redis"])

    @property
    def gateway_redis_url(self) -> str:
        return redis.url(
            self.ports["redis"], self.secrets["redis_gateway"], user=redis.GATEWAY_USER
        )

    @property
    def has_real_stripe(self) -> bool:
        """Whether the person gave a key: then no stand-in is started."""
        return bool(self.person.get(_STRIPE[0]) or self.person.get(f"{_STRIPE[0]}_FILE"))

    def database_url(self, role: str) -> str:
        """Where a role reaches the product's database."""
        return postgres.url(self.ports["postgres"], role, self.secrets[role])


def for_process(place: Place, name: str) -> dict[str, str]:
    """The whole environment of one process.

    Args:
        place: Where it runs.
        name: web, worker, beat, gateway, keybroker, node, fakestripe, demo, or `manage`
            for commands that change the schema.
    """
    return _passed(place, name) | _common(place) | _TABLE[name](place)


def for_env_file(place: Place) -> dict[str, str]:
    """What `manage.py` needs to work against the running product."""
    return {"STRONGROOM_ENV": "development", **_web(place)}


def _common(place: Place) -> dict[str, str]:
    python = str(Path(sys.executable).parent)
    return {
        "PATH": os.pathsep.join([python, "/usr/local/bin", "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")]),
        "PYTHONUNBUFFERED": "1",
        "STRONGROOM_ENV": "development",
    }


def _passed(place: Place, name: str) -> dict[str, str]:
    prefixes = _PASSED.get(name, ())
    return {
        variable: value
        for variable, value in place.person.items()
        if variable in _PASSED_TO_ALL or (prefixes and variable.startswith(prefixes))
    }


def _django(place: Place) -> dict[str, str]:
    """The least with which Django's settings can be read."""
    return {
        "STRONGROOM_HOME": str(place.home.path),
        "STRONGROOM_SECRET_KEY": place.secrets["secret_key"],
        "STRONGROOM_DATABASE_URL": place.database_url(postgres.APP),
        "STRONGROOM_REDIS_URL": place.redis_url,
        "STRONGROOM_WEB_URL": place.web_url,
        "STRONGROOM_GATEWAY_URL": place.gateway_url,
        "STRONGROOM_OBJECTS_DIR": str(place.home / "objects"),
    }


def _stripe(place: Place) -> dict[str, str]:
    if place.has_real_stripe:
        wanted = {*_STRIPE, *(f"{name}_FILE" for name in _STRIPE), *_PROXY}
        return {name: value for name, value in place.person.items() if name in wanted}
    return {
        "STRONGROOM_STRIPE_SECRET_KEY": place.secrets["stripe_secret_key"],
        "STRONGROOM_STRIPE_WEBHOOK_SECRET": place.secrets["stripe_webhook_secret"],
        "STRONGROOM_STRIPE_API_BASE": place.fakestripe_url,
    }


def _worker(place: Place) -> dict[str, str]:
    return {
        **_control_plane(place),
        "STRONGROOM_STATE_DIR": _state_dir(place),
        "STRONGROOM_RECEIPT_KEY": place.secrets["receipt_key"],
    }


def _control_plane(place: Place) -> dict[str, str]:
    return {
        **_django(place),
        **_stripe(place),
        "STRONGROOM_KEYBROKER_URL": place.keybroker_url,
        "STRONGROOM_KEYBROKER_CA": str(place.home.tls_ca),
        "STRONGROOM_KEYBROKER_TOKEN": place.secrets["keybroker_token"],
        "STRONGROOM_SEARCH_KEY": place.secrets["search_key"],
    }


def _web(place: Place) -> dict[str, str]:
    return {
        **_control_plane(place),
        "STRONGROOM_PLAYGROUND_SECRET": place.secrets["playground_secret"],
        "STRONGROOM_WEB_LISTEN": f"127.0.0.1:{place.web_port}",
    }


def _beat(place: Place) -> dict[str, str]:
    return {**_django(place), "STRONGROOM_STATE_DIR": _state_dir(place)}


def _state_dir(place: Place) -> str:
    """Where the schedule lies, and signs of life."""
    return str(place.home / "beat")


def _manage(place: Place) -> dict[str, str]:
    return {**_django(place), "STRONGROOM_DATABASE_URL": place.database_url(postgres.OWNER)}


def _gateway(place: Place) -> dict[str, str]:
    return {
        "STRONGROOM_ENV": "development",
        "STRONGROOM_GATEWAY_DATABASE_URL": place.database_url(postgres.GATEWAY),
        "STRONGROOM_GATEWAY_LISTEN": f"127.0.0.1:{place.gateway_port}",
        "STRONGROOM_GATEWAY_GRPC_LISTEN": place.grpc_address,
        "STRONGROOM_REDIS_URL": place.gateway_redis_url,
        "STRONGROOM_WEB_URL": place.web_url,
        "STRONGROOM_GATEWAY_URL": place.gateway_url,
        "STRONGROOM_PLAYGROUND_SECRET": place.secrets["playground_secret"],
        # There is no other gateway that could go on meanwhile.
        "STRONGROOM_GATEWAY_DRAIN_S": "0",
    }


def _keybroker(place: Place) -> dict[str, str]:
    return {
        "STRONGROOM_KEYBROKER_DATABASE_URL": place.database_url(postgres.KEYBROKER),
        "STRONGROOM_KEYBROKER_TOKEN": place.secrets["keybroker_token"],
        "STRONGROOM_KEYBROKER_KMS_DIR": str(place.home / "keybroker"),
        "STRONGROOM_KEYBROKER_LISTEN": f"127.0.0.1:{place.ports['keybroker']}",
        "STRONGROOM_KEYBROKER_TLS_CERT": str(place.home.tls_certificate),
        "STRONGROOM_KEYBROKER_TLS_KEY": str(place.home.tls_key),
        # The code of this very checkout may receive keys, and no other.
        "STRONGROOM_LOADER_DIGESTS": compute_loader_digest(),
    }


def _node(place: Place) -> dict[str, str]:
    return {
        "STRONGROOM_WEB_URL": place.web_url,
        "STRONGROOM_KEYBROKER_URL": place.keybroker_url,
        "STRONGROOM_KEYBROKER_CA": str(place.home.tls_ca),
        "STRONGROOM_NODE_DIR": str(place.home / "node"),
        "STRONGROOM_NODE_NAME": NODE_NAME,
        # Where it asks for jobs.
        "STRONGROOM_GATEWAY_URL": place.gateway_url,
        "STRONGROOM_NODE_JOIN_TOKEN_FILE": str(place.home.join_token_file),
        "STRONGROOM_NODE_RUN_DIR": str(place.run_dir),
        "STRONGROOM_NODE_TRITON_HTTP_PORT": str(place.ports["triton_http"]),
        "STRONGROOM_NODE_TRITON_GRPC_PORT": str(place.ports["triton_grpc"]),
        "STRONGROOM_NODE_TRITON_METRICS_PORT": str(place.ports["triton_metrics"]),
    }


def _fakestripe(place: Place) -> dict[str, str]:
    return {
        "FAKESTRIPE_PORT": str(place.ports["fakestripe"]),
        "FAKESTRIPE_STATE": str(place.home / "stripe" / "fakestripe.sqlite3"),
        "FAKESTRIPE_SECRET_KEY": place.secrets["stripe_secret_key"],
        "FAKESTRIPE_WEBHOOK_URL": f"{place.web_url}/stripe/webhook",
        "FAKESTRIPE_WEBHOOK_SECRET": place.secrets["stripe_webhook_secret"],
    }


def _demo(place: Place) -> dict[str, str]:
    return {
        "STRONGROOM_HOME": str(place.home.path),
        "HF_HUB_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }


_TABLE = {
    "web": _web,
    "worker": _worker,
    "beat": _beat,
    "manage": _manage,
    "gateway": _gateway,
    "keybroker": _keybroker,
    "node": _node,
    "fakestripe": _fakestripe,
    "demo": _demo,
}
