"""What every key store must do, and what each of them does in its own way."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.errors import KmsUnavailableError
from inference.keybroker.kms import KeyDestroyedError, KeyProvider, Kms, LocalKms, UnwrapError, base
from inference.keybroker.kms import aws as aws_module
from inference.keybroker.kms import vault as vault_module
from inference.keybroker.kms.settings import VaultSettings
from inference.keybroker.kms.vault import VaultTransit
from marketplace.core.env import SettingError
from tests.inference.keybroker import key_stores, vault_server
from tests.inference.keybroker.key_stores import AWS_IDENTITY, KeyStore
from tests.inference.keybroker.meddler import Answer

CONTEXT = {"purpose": "upload-key", "artifact_id": "a", "kid": "k"}
# The largest there is: the private half of a hybrid pair.
SECRET = bytes(range(96))
REF = "model-01a1fffe-0a4f-7d7e-b3e2-da3db13dd0ac-2"


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWS_IDENTITY.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=key_stores.NAMES)
def store(request: pytest.FixtureRequest, identity: None, tmp_path: Path) -> Iterator[KeyStore]:
    with key_stores.provide(request.param, tmp_path) as store:
        yield store


@pytest.fixture(params=["vault", "aws"])
def remote(
    request: pytest.FixtureRequest,
    identity: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[KeyStore]:
    """One that is reached over a network, with little patience."""
    for module in (vault_module, aws_module):
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.5)
    with key_stores.provide(request.param, tmp_path) as store:
        yield store


class TestEveryKeyStore:
    def test_what_was_sealed_is_opened_by_every_client(self, store: KeyStore) -> None:
        one, other = store.open(), store.open()
        one.ensure_key(REF)
        blob = one.wrap(REF, SECRET, CONTEXT)
        other.ensure_key(REF)

        assert other.unwrap(REF, blob, CONTEXT) == SECRET
        assert SECRET not in blob
        assert not other.is_destroyed(REF)

    @pytest.mark.parametrize(
        "context", [{**CONTEXT, "kid": "other"}, {"artifact_id": "a"}, {**CONTEXT, "more": "x"}]
    )
    def test_another_context_does_not_open(self, store: KeyStore, context: dict[str, str]) -> None:
        kms = store.open()
        kms.ensure_key(REF)
        blob = kms.wrap(REF, SECRET, CONTEXT)

        with pytest.raises(UnwrapError):
            kms.unwrap(REF, blob, context)

    def test_another_key_does_not_open(self, store: KeyStore) -> None:
        kms = store.open()
        for ref in (REF, "model-other"):
            kms.ensure_key(ref)
        blob = kms.wrap(REF, SECRET, CONTEXT)

        with pytest.raises(UnwrapError):
            kms.unwrap("model-other", blob, CONTEXT)

    @pytest.mark.parametrize("blob", [b"", b"x", b"\xff\xfe", b"vault:v1:AAAA", b"vault:v9:QUJD"])
    def test_what_it_never_made_does_not_open(self, store: KeyStore, blob: bytes) -> None:
        kms = store.open()
        kms.ensure_key(REF)

        # AWS's own client refuses an empty one before it is sent.
        with pytest.raises((UnwrapError, KmsUnavailableError)):
            kms.unwrap(REF, blob, CONTEXT)

    def test_a_destroyed_key_is_gone_for_ever(self, store: KeyStore) -> None:
        kms = store.open()
        kms.ensure_key(REF)
        blob = kms.wrap(REF, SECRET, CONTEXT)

        first = kms.destroy(REF)
        again = kms.destroy(REF)

        assert first == again
        for client in (kms, store.open()):
            assert client.is_destroyed(REF)
            with pytest.raises(KeyDestroyedError):
                client.unwrap(REF, blob, CONTEXT)
            with pytest.raises(KeyDestroyedError):
                client.wrap(REF, SECRET, CONTEXT)
            with pytest.raises(KeyDestroyedError):
                client.ensure_key(REF)

    def test_a_name_is_destroyed_that_never_was_a_keys(self, store: KeyStore) -> None:
        kms = store.open()

        kms.destroy(REF)

        assert kms.is_destroyed(REF)
        with pytest.raises(KeyDestroyedError):
            store.open().ensure_key(REF)
        kms.ensure_key("model-other")

    def test_a_key_that_was_never_made_is_not_called_destroyed(self, store: KeyStore) -> None:
        """Else a wrong setting would look like a shred."""
        kms = store.open()
        kms.ensure_key("model-other")
        blob = kms.wrap("model-other", SECRET, CONTEXT)

        for call in (lambda: kms.unwrap(REF, blob, CONTEXT), lambda: kms.wrap(REF, b"x", {})):
            with pytest.raises(KmsUnavailableError):
                call()
        # Nor was it made by that.
        assert not kms.is_destroyed(REF)
        with pytest.raises(KmsUnavailableError):
            kms.unwrap(REF, blob, CONTEXT)

    def test_those_who_make_a_key_at_once_share_it(self, store: KeyStore) -> None:
        clients = [store.open() for _ in range(6)]

        def use(kms: KeyProvider) -> bytes:
            kms.ensure_key(REF)
            return kms.wrap(REF, SECRET, CONTEXT)

        with ThreadPoolExecutor(len(clients)) as pool:
            blobs = list(pool.map(use, clients))

        assert {clients[0].unwrap(REF, blob, CONTEXT) for blob in blobs} == {SECRET}

    def test_making_and_destroying_at_once_ends_destroyed(self, store: KeyStore) -> None:
        def make() -> None:
            try:
                store.open().ensure_key(REF)
            except KeyDestroyedError:
                return

        with ThreadPoolExecutor(4) as pool:
            tasks = [pool.submit(make) for _ in range(3)]
            tasks.append(pool.submit(lambda: store.open().destroy(REF)))
        for task in tasks:
            task.result()

        with pytest.raises(KeyDestroyedError):
            store.open().ensure_key(REF)
        with pytest.raises(KeyDestroyedError):
            store.open().wrap(REF, SECRET, CONTEXT)


RUBBISH = [
    Answer(200, b"<html>Welcome</html>", "text/html"),
    Answer(200, b"", "application/json"),
    Answer(200, b"{", "application/json"),
    Answer(200, b"[]", "application/json"),
    Answer(200, b"null", "application/json"),
    Answer(200, b"{}", "application/json"),
    Answer(200, b'{"data": [], "KeyMetadata": 1}', "application/json"),
    Answer(204, b"", "application/json"),
    Answer(302, b"", "text/html"),
    Answer(500, b"boom", "text/plain"),
    Answer(503, b'{"errors": ["Vault is sealed"]}', "application/json"),
    Answer(
        400,
        b'{"__type": "AccessDeniedException", "message": "no", "errors": ["no"]}',
        "application/json",
    ),
    Answer(403, b'{"errors": ["permission denied"]}', "application/json"),
]


def say(answer: Answer) -> Callable[[str], Answer]:
    return lambda called: answer


class TestEveryRemoteKeyStore:
    @pytest.fixture
    def kms(self, remote: KeyStore) -> KeyProvider:
        kms = remote.open()
        kms.ensure_key(REF)
        return kms

    @pytest.fixture
    def blob(self, kms: KeyProvider) -> bytes:
        return kms.wrap(REF, SECRET, CONTEXT)

    @staticmethod
    def assert_unavailable(kms: KeyProvider, blob: bytes) -> None:
        for call in (
            lambda: kms.ensure_key("model-new"),
            lambda: kms.wrap(REF, SECRET, CONTEXT),
            lambda: kms.unwrap(REF, blob, CONTEXT),
            lambda: kms.destroy(REF),
            lambda: kms.is_destroyed(REF),
        ):
            with pytest.raises(KmsUnavailableError) as caught:
                call()
            assert (caught.value.http_status, caught.value.retry_after_s) == (503, 5)

    def test_rubbish_is_no_answer(self, remote: KeyStore, kms: KeyProvider, blob: bytes) -> None:
        for answer in RUBBISH:
            remote.meddler.instead = say(answer)

            self.assert_unavailable(kms, blob)

        remote.meddler.instead = None
        assert kms.unwrap(REF, blob, CONTEXT) == SECRET

    def test_it_is_tried_twice(self, remote: KeyStore, kms: KeyProvider, blob: bytes) -> None:
        left = [1]

        def fail_once(called: str) -> Answer | None:
            return Answer(503, b"{}", "application/json") if left and left.pop() else None

        remote.meddler.instead = fail_once
        assert kms.unwrap(REF, blob, CONTEXT) == SECRET

        remote.meddler.calls.clear()
        remote.meddler.instead = say(Answer(503, b"{}", "application/json"))
        with pytest.raises(KmsUnavailableError):
            kms.is_destroyed(REF)
        assert len(remote.meddler.calls) == base.TRIES_MAX

    def test_a_slow_one_is_given_up(self, remote: KeyStore, kms: KeyProvider, blob: bytes) -> None:
        remote.meddler.hold = threading.Event()

        with pytest.raises(KmsUnavailableError):
            kms.unwrap(REF, blob, CONTEXT)

        remote.meddler.hold.set()
        assert kms.unwrap(REF, blob, CONTEXT) == SECRET

    def test_one_that_is_down(self, remote: KeyStore, kms: KeyProvider, blob: bytes) -> None:
        upstream, remote.meddler.upstream = remote.meddler.upstream, "http://127.0.0.1:9"

        with pytest.raises(KmsUnavailableError):
            kms.unwrap(REF, blob, CONTEXT)

        remote.meddler.upstream = upstream
        assert kms.unwrap(REF, blob, CONTEXT) == SECRET

    @pytest.mark.parametrize("plain", [SECRET[:-1], SECRET + b"x", b"x" * 96])
    def test_another_plaintext_is_noticed(
        self, remote: KeyStore, kms: KeyProvider, blob: bytes, plain: bytes
    ) -> None:
        """Of another size at once; of the same size when it is sealed, and by its public half."""
        remote.meddler.change = answer_plaintext(remote, plain)
        broker_kms = Kms(kms)

        with pytest.raises(KmsUnavailableError):
            asyncio.run(broker_kms.wrap(REF, SECRET, CONTEXT))
        if len(plain) != len(SECRET):
            with pytest.raises(KmsUnavailableError):
                asyncio.run(broker_kms.unwrap(REF, blob, CONTEXT, size_bytes=len(SECRET)))
        remote.meddler.change = None
        asyncio.run(broker_kms.wrap(REF, SECRET, CONTEXT))


def answer_plaintext(store: KeyStore, plain: bytes) -> Callable[[str, Answer], Answer | None]:
    """Answer every decryption with this."""

    def change(called: str, real: Answer) -> Answer | None:
        if store.decrypt_call not in called:
            return None
        document = json.loads(real.content)
        text = base64.b64encode(plain).decode()
        if store.name == "vault":
            document["data"]["plaintext"] = text
        else:
            document["Plaintext"] = text
        return replace(real, content=json.dumps(document).encode())

    return change


# --- Each in its own way ---


def test_vaults_keys_cannot_be_taken_out_or_deleted_by_mistake() -> None:
    with vault_server.serve() as vault:
        kms = VaultTransit(VaultSettings(url=vault.url, read_token=lambda: vault.token))
        kms.ensure_key(REF)

        assert not vault.keys[REF].deletion_allowed
        kms.destroy(REF)
        assert set(vault.keys) == {f"{REF}.destroyed"}
        assert not vault.keys[f"{REF}.destroyed"].deletion_allowed
        configured = vault.calls.index(("POST", f"/v1/transit/keys/{REF}/config"))
        assert vault.calls[configured + 1] == ("DELETE", f"/v1/transit/keys/{REF}")


def test_vaults_token_is_read_again_when_it_is_refused() -> None:
    with vault_server.serve() as vault:
        kms = VaultTransit(VaultSettings(url=vault.url, read_token=lambda: vault.token))
        kms.ensure_key(REF)

        vault.tokens = {"renewed"}
        kms.ensure_key(REF)

        vault.tokens = set()
        wrong = VaultTransit(VaultSettings(url=vault.url, read_token=lambda: "wrong"))
        with pytest.raises(KmsUnavailableError):
            wrong.ensure_key(REF)


def test_vaults_app_role_signs_in_and_again() -> None:
    with vault_server.serve(namespace="team", mount="sealing") as vault:
        settings = VaultSettings(
            url=vault.url,
            mount="sealing",
            namespace="team",
            role_id="role",
            read_secret_id=lambda: "secret",
        )
        kms = VaultTransit(settings)
        kms.ensure_key(REF)
        vault.tokens.clear()
        kms.ensure_key(REF)

        assert [path for _, path in vault.calls].count("/v1/auth/approle/login") == 2
        for wrong in (
            replace(settings, read_secret_id=lambda: "other"),
            replace(settings, namespace="other"),
            replace(settings, mount="transit"),
        ):
            with pytest.raises(KmsUnavailableError):
                VaultTransit(wrong).ensure_key(REF)


def test_awss_proof_says_when_it_is_final(identity: None, tmp_path: Path) -> None:
    with key_stores.provide("aws", tmp_path) as store:
        kms = store.open()
        kms.ensure_key(REF)

        final_at = kms.destroy(REF)

        left = final_at - datetime.now(UTC)
        assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
        assert kms.destroy("model-never-made") is None


def test_a_key_that_awss_owner_disabled_or_schedules_himself(
    identity: None, tmp_path: Path
) -> None:
    with key_stores.provide("aws", tmp_path) as store:
        kms = store.open()
        kms.ensure_key(REF)
        blob = kms.wrap(REF, SECRET, CONTEXT)
        key_id = kms._find(kms._alias(REF))["KeyId"]

        kms._client.disable_key(KeyId=key_id)
        with pytest.raises(KmsUnavailableError):
            kms.unwrap(REF, blob, CONTEXT)
        kms._client.enable_key(KeyId=key_id)
        assert kms.unwrap(REF, blob, CONTEXT) == SECRET
        kms._client.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=30)
        with pytest.raises(KeyDestroyedError):
            kms.unwrap(REF, blob, CONTEXT)


def test_awss_markers_outlast_the_key_and_its_alias(identity: None, tmp_path: Path) -> None:
    """And there is a further key for them where the first takes no more."""
    with key_stores.provide("aws", tmp_path) as store:
        kms = store.open()
        kms.destroy("model-first")
        # The client itself tries it a second time.
        left = [1] * base.TRIES_MAX

        def refuse_once(called: str) -> Answer | None:
            if not called.endswith("CreateAlias") or not left:
                return None
            left.pop()
            body = {"__type": "LimitExceededException", "message": "50 aliases"}
            return Answer(400, json.dumps(body).encode(), "application/x-amz-json-1.1")

        kms.ensure_key(REF)
        first = kms._find(kms._prefix + aws_module.MARKER_KEY)["KeyId"]
        store.meddler.instead = refuse_once
        kms.destroy(REF)
        store.meddler.instead = None
        kms.destroy("model-third")

        assert not left
        assert kms._find(kms._prefix + aws_module.MARKER_KEY)["KeyId"] != first
        kms._client.delete_alias(AliasName=kms._alias(REF))
        for ref in ("model-first", REF, "model-third"):
            assert kms.is_destroyed(ref)


def test_a_damaged_local_key_is_not_called_destroyed(tmp_path: Path) -> None:
    kms = LocalKms(tmp_path)
    kms.ensure_key(REF)
    blob = kms.wrap(REF, SECRET, CONTEXT)
    (tmp_path / "keks" / f"{REF}.key").write_bytes(b"x" * 60)

    with pytest.raises(KmsUnavailableError):
        kms.unwrap(REF, blob, CONTEXT)


# --- Settings ---

SETTINGS = {
    "STRONGROOM_KEYBROKER_DATABASE_URL": "postgresql:///x",
    "STRONGROOM_KEYBROKER_TOKEN": "t" * 32,
    "STRONGROOM_KEYBROKER_TLS_CERT": __file__,
    "STRONGROOM_KEYBROKER_TLS_KEY": __file__,
}
VAULT = {
    "STRONGROOM_KEYBROKER_KMS": "vault",
    "STRONGROOM_KEYBROKER_VAULT_URL": "https://vault.test",
    "STRONGROOM_KEYBROKER_VAULT_TOKEN": "x",
}
AWS = {"STRONGROOM_KEYBROKER_KMS": "aws", "STRONGROOM_KEYBROKER_AWS_REGION": "eu-central-1"}


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"STRONGROOM_ENV": "development"}, "local"),
        ({"STRONGROOM_KEYBROKER_KMS": "local"}, "local"),
        (VAULT, "vault"),
        (AWS, "aws"),
    ],
)
def test_the_settings_choose_the_store(
    env: dict[str, str], name: str, tmp_path: Path, identity: None
) -> None:
    folder = {"STRONGROOM_KEYBROKER_KMS_DIR": str(tmp_path)}

    assert KeyBrokerConfig.from_env(SETTINGS | folder | env).open_kms().name == name


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({}, "STRONGROOM_KEYBROKER_KMS is not set"),
        ({"STRONGROOM_KEYBROKER_KMS": "gcp"}, "one of local, vault, aws"),
        (VAULT | {"STRONGROOM_KEYBROKER_VAULT_URL": "http://vault.test"}, "must be https"),
        (VAULT | {"STRONGROOM_KEYBROKER_VAULT_URL": ""}, "VAULT_URL is not set"),
        (VAULT | {"STRONGROOM_KEYBROKER_VAULT_TOKEN": ""}, "VAULT_TOKEN is not set"),
        (VAULT | {"STRONGROOM_KEYBROKER_VAULT_ROLE_ID": "r"}, "VAULT_SECRET_ID is not set"),
        (AWS | {"STRONGROOM_KEYBROKER_AWS_REGION": ""}, "AWS_REGION is not set"),
        (AWS | {"STRONGROOM_KEYBROKER_AWS_ALIAS_PREFIX": "alias/aws/"}, "must be like"),
        (AWS | {"STRONGROOM_KEYBROKER_AWS_ALIAS_PREFIX": "strongroom"}, "must be like"),
    ],
)
def test_wrong_settings_stop_the_broker(env: dict[str, str], word: str, tmp_path: Path) -> None:
    folder = {"STRONGROOM_KEYBROKER_KMS_DIR": str(tmp_path)}

    with pytest.raises(SettingError, match=word):
        KeyBrokerConfig.from_env(SETTINGS | folder | env)
