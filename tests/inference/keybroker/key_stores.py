"""The three places where keys can be, each ready to be used by a test or by a broker."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from moto.server import ThreadedMotoServer

from inference.keybroker.kms import KeyProvider, LocalKms
from inference.keybroker.kms.aws import AwsKms
from inference.keybroker.kms.settings import AwsSettings, VaultSettings
from inference.keybroker.kms.vault import VaultTransit
from tests.inference.keybroker import meddler, vault_server
from tests.inference.keybroker.meddler import Answer, Meddler
from tests.inference.keybroker.vault_server import Vault

NAMES = ("local", "vault", "aws")
AWS_IDENTITY = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
REGION = "eu-central-1"


@dataclass
class KeyStore:
    """A key store, and a way to it that can be disturbed."""

    name: str
    # Each a new client of the same store.
    open: Callable[[], KeyProvider]
    # What a broker is started with to use it.
    settings: dict[str, str] = field(default_factory=dict)
    meddler: Meddler | None = None
    vault: Vault | None = None
    # Which calls hand out what was sealed, by their path or operation.
    decrypt_call: str = ""


@contextmanager
def provide(name: str, folder: Path) -> Iterator[KeyStore]:
    with {"local": _local, "vault": _vault, "aws": _aws}[name](folder) as store:
        store.settings["STRONGROOM_KEYBROKER_KMS"] = name
        yield store


@contextmanager
def _local(folder: Path) -> Iterator[KeyStore]:
    yield KeyStore("local", lambda: LocalKms(folder / "kms"))


@contextmanager
def _vault(folder: Path) -> Iterator[KeyStore]:
    with vault_server.serve() as vault, meddler.between(vault.url) as between:
        settings = VaultSettings(url=between.url, read_token=lambda: vault.token)
        yield KeyStore(
            "vault",
            lambda: VaultTransit(settings),
            {
                "STRONGROOM_KEYBROKER_VAULT_URL": between.url,
                "STRONGROOM_KEYBROKER_VAULT_TOKEN": vault.token,
            },
            between,
            vault,
            "/decrypt/",
        )
        assert [call for call in vault.calls if call[0] == "FAULT"] == []


@contextmanager
def _aws(folder: Path) -> Iterator[KeyStore]:
    # Its state is the process's: each test has names of its own.
    prefix = f"alias/t{secrets.token_hex(6)}/"
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with meddler.between(f"http://{host}:{port}") as between:
            between.correct = correct_moto
            settings = AwsSettings(REGION, between.url, prefix)
            yield KeyStore(
                "aws",
                lambda: AwsKms(settings),
                {
                    "STRONGROOM_KEYBROKER_AWS_REGION": REGION,
                    "STRONGROOM_KEYBROKER_AWS_ENDPOINT_URL": between.url,
                    "STRONGROOM_KEYBROKER_AWS_ALIAS_PREFIX": prefix,
                    **AWS_IDENTITY,
                },
                between,
                None,
                "TrentService.Decrypt",
            )
    finally:
        server.stop()


def correct_moto(called: str, answer: Answer) -> Answer | None:
    """What KMS documents for a ciphertext of another key than the one that is named."""
    if called.endswith(".Decrypt") and b"AccessDeniedException" in answer.content:
        return replace(answer, content=b'{"__type": "IncorrectKeyException"}')
    return None
