"""Keys in HashiCorp Vault's Transit engine, over the official client.

One Transit key (AES-256-GCM) per ref; the context is the `associated_data` of each wrap. A
destroyed key leaves a marker behind, a key of its own that is never used, so that nothing
takes its name again.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from inference.keybroker.errors import KmsUnavailableError
from inference.keybroker.kms.base import (
    ANSWER_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    TRIES_MAX,
    KeyDestroyedError,
    UnwrapError,
    check_ref,
)
from inference.keybroker.kms.settings import VaultSettings
from strongroom.sealing.canonical import canonicalize

KEY_TYPE = "aes256-gcm96"
# No ref holds a dot, so no key is ever named like a marker.
MARKER_SUFFIX = ".destroyed"
CIPHERTEXT_PREFIX = "vault:v"
# How Vault says that a ciphertext is not of this key, context or form.
_NOT_OURS = ("message authentication failed", "invalid ciphertext")
_PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})


class VaultTransit:
    """See `KeyProvider`."""

    name: ClassVar[str] = "vault"

    def __init__(self, settings: VaultSettings) -> None:
        self._settings = settings
        self._client = hvac.Client(
            url=settings.url,
            token="",
            namespace=settings.namespace or None,
            timeout=(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S),
            # A redirect would carry the token to whoever it names.
            allow_redirects=False,
            session=_make_session(settings.ca_bundle),
        )
        self._transit = self._client.secrets.transit
        self._lock = threading.Lock()

    def ensure_key(self, ref: str) -> None:
        """See `KeyProvider.ensure_key`. Making one that is there already changes nothing."""
        if self.is_destroyed(ref):
            raise KeyDestroyedError(ref)
        self._create(check_ref(ref))
        # Whoever destroyed it meanwhile has set the marker first.
        if self.is_destroyed(ref):
            self._delete(ref)
            raise KeyDestroyedError(ref)

    def wrap(self, ref: str, plain: bytes, context: Mapping[str, str]) -> bytes:
        """See `KeyProvider.wrap`."""
        # Where its policy lets it, Vault would make a key that is not there.
        if not self._exists(check_ref(ref)):
            raise self._missing(ref)
        answer = self._call(
            self._transit.encrypt_data,
            name=ref,
            plaintext=_encode(plain),
            associated_data=_associate(context),
        )
        text = _member(answer, "ciphertext")
        if not text.startswith(CIPHERTEXT_PREFIX):
            raise KmsUnavailableError("Vault's answer is no ciphertext.")
        return text.encode()

    def unwrap(self, ref: str, blob: bytes, context: Mapping[str, str]) -> bytes:
        """See `KeyProvider.unwrap`."""
        try:
            ciphertext = blob.decode("ascii")
        except UnicodeDecodeError:
            raise UnwrapError from None
        if not ciphertext.startswith(CIPHERTEXT_PREFIX):
            raise UnwrapError
        try:
            answer = self._call(
                self._transit.decrypt_data,
                InvalidRequest,
                name=check_ref(ref),
                ciphertext=ciphertext,
                associated_data=_associate(context),
            )
        except InvalidRequest as error:
            said = " ".join(error.errors or ())
            if any(words in said for words in _NOT_OURS):
                raise UnwrapError from None
            raise self._missing(ref) from error
        try:
            return base64.b64decode(_member(answer, "plaintext"), validate=True)
        except binascii.Error as error:
            raise KmsUnavailableError("Vault's answer is no plaintext.") from error

    def destroy(self, ref: str) -> datetime | None:
        """See `KeyProvider.destroy`."""
        self._create(check_ref(ref) + MARKER_SUFFIX)
        self._delete(ref)
        return None

    def is_destroyed(self, ref: str) -> bool:
        """See `KeyProvider.is_destroyed`."""
        return self._exists(check_ref(ref) + MARKER_SUFFIX)

    def _create(self, name: str) -> None:
        self._call(
            self._transit.create_key,
            name=name,
            key_type=KEY_TYPE,
            exportable=False,
            allow_plaintext_backup=False,
        )
        # Of a success without a word, or of something that only looks like one.
        if not self._exists(name):
            raise KmsUnavailableError("Vault has not made the key.")

    def _delete(self, ref: str) -> None:
        if not self._exists(ref):
            return
        try:
            # Allowed at the last moment only, so that nothing else can delete a key.
            self._call(
                self._transit.update_key_configuration,
                InvalidRequest,
                name=ref,
                deletion_allowed=True,
            )
            self._call(self._transit.delete_key, InvalidRequest, name=ref)
        except InvalidRequest as error:
            if self._exists(ref):
                raise KmsUnavailableError("Vault does not delete the key.") from error
        if self._exists(ref):
            raise KmsUnavailableError("Vault has not deleted the key.")

    def _exists(self, name: str) -> bool:
        try:
            answer = self._call(self._transit.read_key, InvalidPath, name=name)
        except InvalidPath as error:
            # Vault names no error where there is no such key, and one where there is no engine.
            if error.errors != []:
                raise KmsUnavailableError("There is no Transit engine at this address.") from error
            return False
        if _member(answer, "name") != name or _member(answer, "type") != KEY_TYPE:
            raise KmsUnavailableError("Vault's answer is about another key.")
        return True

    def _missing(self, ref: str) -> Exception:
        if self.is_destroyed(ref):
            return KeyDestroyedError(ref)
        return KmsUnavailableError("Vault has no such key.")

    def _call(self, call: Callable[..., Any], *expected: type[VaultError], **arguments: Any) -> Any:
        """Call as whom we are signed in; once more after signing in anew, if refused.

        Raises:
            VaultError: One of those that are expected.
            KmsUnavailableError: Anything else went wrong.
        """
        try:
            if not self._client.token:
                self._sign_in("")
            used = self._client.token
            try:
                return call(mount_point=self._settings.mount, **arguments)
            except Forbidden:
                # The token may have run out, or been renewed in its file.
                self._sign_in(used)
                if self._client.token == used:
                    raise
                return call(mount_point=self._settings.mount, **arguments)
        except expected:
            raise
        except (VaultError, requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise KmsUnavailableError("Vault does not answer as it should.") from error

    def _sign_in(self, stale: str) -> None:
        with self._lock:
            if self._client.token and self._client.token != stale:
                return  # Another thread has.
            settings = self._settings
            if settings.read_token is not None:
                self._client.token = settings.read_token()
            else:
                assert settings.read_secret_id is not None, "there is one or the other"
                answer = self._client.auth.approle.login(
                    role_id=settings.role_id,
                    secret_id=settings.read_secret_id(),
                    use_token=False,
                )
                token = answer["auth"]["client_token"]
                if not isinstance(token, str) or not token:
                    raise KmsUnavailableError("Vault's answer holds no token.")
                self._client.token = token


def _make_session(ca_bundle: str) -> requests.Session:
    session = requests.Session()
    # Proxies and certificates of the environment are not for the key store.
    session.trust_env = False
    session.verify = ca_bundle or True
    # Every call of ours may be repeated. None waits: somebody is waiting for the key.
    retry = Retry(
        total=TRIES_MAX - 1,
        redirect=0,
        allowed_methods=None,
        status_forcelist=_PASSING_STATUSES,
        raise_on_status=False,
        raise_on_redirect=False,
        respect_retry_after_header=False,
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _member(answer: Any, name: str) -> str:
    data = answer.get("data") if isinstance(answer, dict) else None
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, str):
        raise KmsUnavailableError(f"Vault's answer has no {name}.")
    return value


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _associate(context: Mapping[str, str]) -> str:
    return _encode(canonicalize(dict(context)))
