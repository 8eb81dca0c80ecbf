"""What the command line remembers: who is logged in, whose platform, and the creator's keys.

Everything lies in one folder, `STRONGROOM_CONFIG_DIR` or `~/.config/strongroom`, in files
that only their owner may read, each replaced in one step:

- `profile.json`: the platform in use and the token for it;
- `platforms.json`: the key of every platform ever used, pinned on first sight;
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
from pathlib import Path
from typing import Any

from strongroom.errors import StrongroomError
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.errors import CanonicalError
from strongroom.sealing.suite import X25519

PROFILE_FILE = "profile.json"
PLATFORMS_FILE = "platforms.json"
IDENTITY_FILE = "identity.json"
UPLOADS_FOLDER = "uploads"


class ConfigError(StrongroomError):
    """The stored configuration is absent, damaged or unsafe."""


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
        pins = read_json(self.root / PLATFORMS_FILE) or {}
        text = pins.get(web_url)
        if text is None:
            return None
        try:
            return decode_base64(text, size_bytes=signature.PUBLIC_KEY_BYTES)
        except CanonicalError:
            raise _damaged(self.root / PLATFORMS_FILE) from None

    def pin_platform(self, web_url: str, public_key: bytes) -> bool:
        """Pin a platform's key on first sight; true if it was new.

        Raises:
            ConfigError: `platform_key_changed` if another key was pinned before.
        """
        pinned = self.find_pin(web_url)
        if pinned == public_key:
            return False
        if pinned is not None:
            detail = (
                f"{web_url} shows the key {signature.fingerprint(public_key)}, but "
                f"{signature.fingerprint(pinned)} was pinned. If the platform's operator "
                f"confirms the new key, remove the entry from {self.root / PLATFORMS_FILE}."
            )
            raise ConfigError("platform_key_changed", detail)
        pins = read_json(self.root / PLATFORMS_FILE) or {}
        write_json(self.root / PLATFORMS_FILE, pins | {web_url: encode_base64(public_key)})
        return True

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
        try:
            return Identity(
                decode_base64(value.get("signing_key"), size_bytes=signature.PRIVATE_KEY_BYTES),
                decode_base64(value.get("recovery_key"), size_bytes=X25519.private_key_bytes),
            )
        except CanonicalError:
            raise _damaged(path) from None


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
