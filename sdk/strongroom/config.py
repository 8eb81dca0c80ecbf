"""What the command line remembers: who is logged in, whose platform, and the creator's keys.

Everything lies in one folder, `STRONGROOM_CONFIG_DIR` or `~/.config/strongroom`, in files
that only their owner may read, each replaced in one step:

- `profile.json`: the platform in use and the token for it;
- `platforms.json`: the key of every platform ever used, pinned on first sight, and those it
  had before;
- `receipt-keys.json`: likewise the keys that sign receipts;
- `identity.json`: the creator's signing key and recovery key;
- `uploads/`: what is needed to go on with an interrupted push.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from strongroom import receipts
from strongroom.errors import StrongroomError
from strongroom.platform_key import SUCCESSIONS_MAX, follow
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.errors import CanonicalError
from strongroom.sealing.suite import X25519

PROFILE_FILE = "profile.json"
PLATFORMS_FILE = "platforms.json"
RECEIPT_KEYS_FILE = "receipt-keys.json"
IDENTITY_FILE = "identity.json"
UPLOADS_FOLDER = "uploads"
# The present key and those before it; an upload is open for days, a key for months.
PINS_MAX = 8


class ConfigError(StrongroomError):
    """The stored configuration is absent, damaged or unsafe."""


@dataclass(frozen=True, slots=True)
class _Pins:
    """A kind of key that a platform shows, and where it is pinned."""

    file: str
    payload_type: str
    changed_code: str
    kept_max: int


class Pin(Enum):
    """What became of the key that a platform shows."""

    NEW = "pinned"
    SAME = "as pinned before"
    FOLLOWED = "pinned: the key before it names it as its successor"


@dataclass(frozen=True, slots=True)
class Profile:
    """The platform in use. The token never appears in a representation of it."""

    web_url: str
    gateway_url: str
    token: str = field(repr=False)
    account: str = ""
    email: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """The creator's keys, raw: Ed25519 to sign manifests, X25519 to recover data keys."""

    signing_key: bytes = field(repr=False)
    recovery_key: bytes = field(repr=False)

    @property
    def public_signing_key(self) -> bytes:
        """What the platform is told."""
        return signature.derive_public_key(self.signing_key)

    @property
    def fingerprint(self) -> str:
        """How the signing key is named."""
        return signature.fingerprint(self.public_signing_key)

    @property
    def public_recovery_key(self) -> bytes:
        """What data keys are wrapped for, beside the platform."""
        return wrap.derive_public_key(self.recovery_key)

    @property
    def recovery_kid(self) -> str:
        """How the recovery key is named in a wrap."""
        return wrap.derive_kid(self.public_recovery_key)


_PLATFORM_PINS = _Pins(
    PLATFORMS_FILE, signature.PLATFORM_KEY_TYPE, "platform_key_changed", PINS_MAX
)
# A receipt is kept for years: all of them.
_RECEIPT_PINS = _Pins(
    RECEIPT_KEYS_FILE, receipts.KEY_TYPE, "receipt_key_changed", SUCCESSIONS_MAX + 1
)


def find_folder() -> Path:
    """`STRONGROOM_CONFIG_DIR`, else `~/.config/strongroom`."""
    chosen = os.environ.get("STRONGROOM_CONFIG_DIR")
    return Path(chosen) if chosen else Path.home() / ".config" / "strongroom"


class ConfigFolder:
    """Reads and writes the folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or find_folder()

    @property
    def uploads(self) -> Path:
        """Where interrupted pushes are remembered."""
        return self.root / UPLOADS_FOLDER

    def load_profile(self) -> Profile:
        """The profile in use.

        Raises:
            ConfigError: `not_logged_in`, or `config_damaged`.
        """
        value = read_json(self.root / PROFILE_FILE)
        if value is None:
            raise ConfigError("not_logged_in", "Run `strongroom login` first.")
        try:
            return Profile(**value)
        except TypeError:
            raise _damaged(self.root / PROFILE_FILE) from None

    def save_profile(self, profile: Profile) -> None:
        """Remember the platform and the token."""
        values = {name: getattr(profile, name) for name in Profile.__slots__}
        write_json(self.root / PROFILE_FILE, values)

    def forget_profile(self) -> bool:
        """Remove the token; pins and keys stay. False if nobody was logged in."""
        try:
            (self.root / PROFILE_FILE).unlink()
        except FileNotFoundError:
            return False
        return True

    def find_pin(self, web_url: str) -> bytes | None:
        """The pinned public key of a platform; None before the first login."""
        keys = self.list_pins(web_url)
        return keys[0] if keys else None

    def list_pins(self, web_url: str) -> tuple[bytes, ...]:
        """The pinned key of a platform, and then those that it had before, newest first.

        An upload that was begun under an earlier one is gone on with.
        """
        return self._list_keys(PLATFORMS_FILE, web_url)

    def pin_platform(self, web_url: str, public_key: bytes, successions: Any = ()) -> Pin:
        """Pin a platform's key on first sight, or follow the platform to its new key.

        Args:
            web_url: The platform.
            public_key: The key that it shows now.
            successions: Its statements of one key about the next, as they came.

        Raises:
            ConfigError: `platform_key_changed` if no statement of the pinned key leads there.
        """
        return self._pin(_PLATFORM_PINS, web_url, public_key, successions)

    def list_receipt_keys(self, web_url: str) -> tuple[bytes, ...]:
        """The pinned receipt key of a platform, and then those that it had before."""
        return self._list_keys(RECEIPT_KEYS_FILE, web_url)

    def pin_receipt_key(self, web_url: str, public_key: bytes, successions: Any = ()) -> Pin:
        """Pin a platform's receipt key; like `pin_platform`.

        Raises:
            ConfigError: `receipt_key_changed`.
        """
        return self._pin(_RECEIPT_PINS, web_url, public_key, successions)

    def _list_keys(self, file: str, web_url: str) -> tuple[bytes, ...]:
        found = (read_json(self.root / file) or {}).get(web_url, [])
        # One key, as it is written while the platform has not changed it.
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, list):
            raise _damaged(self.root / file)
        try:
            return tuple(
                decode_base64(text, size_bytes=signature.PUBLIC_KEY_BYTES) for text in texts
            )
        except CanonicalError:
            raise _damaged(self.root / file) from None

    def _pin(self, kind: _Pins, web_url: str, public_key: bytes, successions: Any) -> Pin:
        known = self._list_keys(kind.file, web_url)
        if not known:
            self._write_pins(kind, web_url, [public_key])
            return Pin.NEW
        if known[0] == public_key:
            return Pin.SAME
        chain = follow(known[0], public_key, successions, payload_type=kind.payload_type)
        if chain is None:
            detail = (
                f"{web_url} shows the key {signature.fingerprint(public_key)}, but "
                f"{signature.fingerprint(known[0])} was pinned, and did not name it. If the "
                f"platform's operator confirms the new key, remove the entry from "
                f"{self.root / kind.file}."
            )
            raise ConfigError(kind.changed_code, detail)
        self._write_pins(kind, web_url, [*reversed(chain), *known[1:]])
        return Pin.FOLLOWED

    def _write_pins(self, kind: _Pins, web_url: str, keys: list[bytes]) -> None:
        pins = read_json(self.root / kind.file) or {}
        texts = [encode_base64(key) for key in keys[: kind.kept_max]]
        entry = texts[0] if len(texts) == 1 else texts
        write_json(self.root / kind.file, pins | {web_url: entry})

    @property
    def has_identity(self) -> bool:
        """False until the first push made the creator's keys."""
        return (self.root / IDENTITY_FILE).exists()

    def load_identity(self) -> Identity:
        """The creator's keys; made on first use.

        Raises:
            ConfigError: `identity_exposed` if others may read the file, or
                `config_damaged`.
        """
        path = self.root / IDENTITY_FILE
        value = read_json(path)
        if value is None:
            fresh = {
                "signing_key": encode_base64(signature.generate_signing_key()),
                "recovery_key": encode_base64(wrap.generate_private_key()),
            }
            # Two first pushes at once must end up with the same keys.
            _write(path, fresh, is_new=True)
            value = read_json(path) or {}
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            detail = f"Others may read {path}. Run `chmod 600` on it, if nobody has."
            raise ConfigError("identity_exposed", detail)
        if set(value) == {"recovery_key"}:
            # A browser's recovery file. Its signing key never leaves it, so we make our own.
            value = value | {"signing_key": encode_base64(signature.generate_signing_key())}
            write_json(path, value)
        try:
            return Identity(
                decode_base64(value.get("signing_key"), size_bytes=signature.PRIVATE_KEY_BYTES),
                decode_base64(value.get("recovery_key"), size_bytes=X25519.private_key_bytes),
            )
        except CanonicalError:
            raise _damaged(path) from None


@dataclass(frozen=True, slots=True)
class RecoveryFile:
    """A creator's recovery key, and the fingerprint of the signing key beside it, if any."""

    recovery_key: bytes = field(repr=False)
    fingerprint: str = ""


def read_recovery_file(path: Path) -> RecoveryFile:
    """The recovery key out of an `identity.json`, or of the file that the browser saved.

    Raises:
        ConfigError: `recovery_file_invalid`.
    """
    try:
        value = read_json(path) or {}
        recovery_key = decode_base64(value.get("recovery_key"), size_bytes=X25519.private_key_bytes)
        fingerprint = ""
        if "signing_key" in value:
            signing_key = decode_base64(
                value["signing_key"], size_bytes=signature.PRIVATE_KEY_BYTES
            )
            fingerprint = signature.fingerprint(signature.derive_public_key(signing_key))
    except (ConfigError, CanonicalError):
        detail = f"{path} is no JSON with a recovery_key of 32 bytes in base64."
        raise ConfigError("recovery_file_invalid", detail) from None
    return RecoveryFile(recovery_key, fingerprint)


def read_json(path: Path) -> dict[str, Any] | None:
    """An object from a file; None if there is no such file.

    Raises:
        ConfigError: `config_damaged`.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        raise _damaged(path) from None
    if not isinstance(value, dict):
        raise _damaged(path)
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file in one step; only the owner may read it."""
    _write(path, value, is_new=False)


def _write(path: Path, value: Mapping[str, Any], *, is_new: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            try:
                path.hardlink_to(draft)
            except FileExistsError:
                return  # Another process was first; its file counts.
        else:
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _damaged(path: Path) -> ConfigError:
    return ConfigError("config_damaged", f"{path} cannot be read. Repair or remove it.")
