"""Passkeys (WebAuthn): added, used to sign in, named, removed.

The library checks challenge, origin, signature and that the device has verified its user;
here stands what it leaves to us: whose key it is, the counter, and that a challenge is
answered once and soon.
"""

from __future__ import annotations

import ipaddress
import json
import struct
import time
from typing import Any
from urllib.parse import urlparse

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.db import IntegrityError, transaction
from django.utils import timezone
from fido2.cose import UnsupportedKey
from fido2.server import Fido2Server, to_descriptor
from fido2.webauthn import (
    AttestationConveyancePreference,
    AttestedCredentialData,
    AuthenticationResponse,
    PublicKeyCredentialRpEntity,
    PublicKeyCredentialUserEntity,
    RegistrationResponse,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from marketplace.core import limits
from marketplace.core.errors import AuthenticationError, ConflictError, InvalidInputError
from marketplace.errors import CountLimitError
from marketplace.models import Passkey, User
from marketplace.selectors.access import Actor
from marketplace.selectors.security import has_factor, list_passkeys
from marketplace.services import audit
from marketplace.services.second_factor import make_recovery_codes, note_added, note_removed
from marketplace.services.validation import check_row

CHALLENGE_LIFETIME_S = 300
_STATE_KEY = "passkey_to_"
_TRANSPORTS = ("ble", "hybrid", "internal", "nfc", "smart-card", "usb")
_VERIFIED = UserVerificationRequirement.REQUIRED
# What reading and checking bytes of a stranger's may end in.
_FAULTS = (
    *(ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError),
    *(NotImplementedError, RecursionError, OverflowError, struct.error),
    *(InvalidSignature, UnsupportedAlgorithm),
)


def find_origin() -> str | None:
    """The one origin at which passkeys work; None where the site has no name but a number."""
    parts = urlparse(settings.WEB_URL)
    try:
        ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return f"{parts.scheme}://{parts.netloc}"
    # Browsers keep passkeys for names only. In development, the machine has one.
    port = f":{parts.port}" if parts.port else ""
    return f"http://localhost{port}" if settings.DEVELOPMENT else None


def is_at_origin(host: str) -> bool:
    """Whether a page at this host (and port) may ask for passkeys."""
    origin = find_origin()
    return origin is not None and urlparse(origin).netloc == host


def begin_registration(user: User, session: SessionBase) -> dict[str, Any]:
    """What the browser is asked to make.

    Raises:
        CountLimitError: The person has as many passkeys as one may.
        ConflictError: The site cannot have passkeys.
    """
    _require_room(user)
    options, state = _server().register_begin(
        PublicKeyCredentialUserEntity(
            id=user.pk.bytes, name=user.email, display_name=user.name or user.email
        ),
        [_descriptor(one) for one in list_passkeys(user)],
        resident_key_requirement=ResidentKeyRequirement.REQUIRED,
        user_verification=_VERIFIED,
    )
    _keep(session, "add", state)
    return dict(options)["publicKey"]


def finish_registration(
    user: User, session: SessionBase, *, name: str, answer: str
) -> tuple[Passkey, list[str]]:
    """Keep the new passkey; with recovery codes if it is the first second factor.

    Raises:
        InvalidInputError: The name, or what the browser sent, is not acceptable.
        ConflictError, CountLimitError: Known already, or one too many.
    """
    state = _take(session, "add")
    try:
        response = RegistrationResponse.from_dict(_parse(answer))
        data = _server().register_complete(state, response).credential_data
        if data is None or isinstance(data.public_key, UnsupportedKey):
            raise InvalidInputError("The device made a key of a kind that is not supported.")
        sent = json.loads(answer).get("response", {}).get("transports") or []
        transports = [one for one in _TRANSPORTS if one in sent]
        count = response.response.attestation_object.auth_data.counter
    except _FAULTS as error:
        raise InvalidInputError("The passkey could not be checked. Try again.") from error
    passkey = Passkey(
        user=user,
        name=name.strip() or "Passkey",
        credential_id=data.credential_id,
        credential=bytes(data),
        transports=transports,
        sign_count=count,
    )
    check_row(passkey)
    try:
        with transaction.atomic():
            User.objects.select_for_update(no_key=True).get(pk=user.pk)
            _require_room(user)
            is_first = not has_factor(user)
            passkey.save(force_insert=True)
            note_added(user, f"passkey “{passkey.name}”")
            return passkey, make_recovery_codes(user) if is_first else []
    except IntegrityError as error:
        raise ConflictError("This passkey is known already.") from error


def begin_proof(session: SessionBase, *, purpose: str, user: User | None = None) -> dict[str, Any]:
    """What the browser is asked to sign.

    Args:
        session: Keeps the challenge.
        purpose: What the answer is good for, and for nothing else.
        user: Whose passkeys; None lets the person choose one, and so say who it is.
    """
    wanted = [_descriptor(one) for one in list_passkeys(user)] if user else None
    options, state = _server().authenticate_begin(wanted, user_verification=_VERIFIED)
    _keep(session, purpose, state)
    return dict(options)["publicKey"]


def finish_proof(
    session: SessionBase, *, purpose: str, answer: str, user: User | None = None
) -> User:
    """The person whom a passkey has proved.

    Raises:
        AuthenticationError: It proves nobody, or somebody else than `user`.
    """
    state = _take(session, purpose)
    try:
        response = AuthenticationResponse.from_dict(_parse(answer))
        rows = Passkey.objects.select_related("user").filter(credential_id=response.raw_id)
        passkey = rows.first()
        if passkey is None or not passkey.user.is_active:
            raise ValueError("unknown passkey")
        handle = response.response.user_handle
        if handle is not None and handle != passkey.user_id.bytes:
            raise ValueError("another's handle")
        known = AttestedCredentialData(bytes(passkey.credential))
        _server().authenticate_complete(state, [known], response)
        count = response.response.authenticator_data.counter
    except _FAULTS as error:
        raise AuthenticationError("The passkey is not known here, or was not confirmed.") from error
    if user is not None and passkey.user_id != user.pk:
        raise AuthenticationError("This is another person's passkey.")
    _count_up(passkey, count)
    return passkey.user


def rename_passkey(passkey: Passkey, name: str) -> None:
    """Call it otherwise."""
    with transaction.atomic():
        passkey.name = name.strip()
        check_row(passkey)
        passkey.save(update_fields=["name"])
        audit.record(
            Actor(user=passkey.user).label,
            "user.rename_factor",
            passkey,
            payload={"name": passkey.name},
        )


def remove_passkey(passkey: Passkey) -> None:
    """It proves nothing any more."""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=passkey.user_id)
        passkey.delete()
        note_removed(passkey.user, f"passkey “{passkey.name}”")


def _count_up(passkey: Passkey, count: int) -> None:
    """Refuse a device whose count does not go up: it may be a copy.

    Many passkeys do not count; they say 0 for ever, which is taken while it stays so.
    """
    rows = Passkey.objects.filter(pk=passkey.pk)
    is_counting = bool(count or passkey.sign_count)
    if is_counting:
        rows = rows.filter(sign_count__lt=count)
    if rows.update(sign_count=count, last_used_at=timezone.now()) == 1:
        return
    with transaction.atomic():
        audit.record(
            Actor(user=passkey.user).label,
            "user.copied_passkey",
            passkey,
            payload={"name": passkey.name, "count": count, "known": passkey.sign_count},
        )
    raise AuthenticationError("This passkey may be a copy. Remove it, and add a new one.")


def _server() -> Fido2Server:
    origin = find_origin()
    if origin is None:
        raise ConflictError("Passkeys need a site with a name; this one has a number.")
    rp = PublicKeyCredentialRpEntity(name="Strongroom", id=urlparse(origin).hostname or "")
    return Fido2Server(
        rp,
        attestation=AttestationConveyancePreference.NONE,
        verify_origin=lambda sent: sent == origin,
    )


def _descriptor(passkey: Passkey) -> Any:
    data = AttestedCredentialData(bytes(passkey.credential))
    return to_descriptor(data, passkey.transports or None)


def _require_room(user: User) -> None:
    if list_passkeys(user).count() >= limits.PASSKEYS_PER_PERSON_MAX:
        raise CountLimitError(f"A person has at most {limits.PASSKEYS_PER_PERSON_MAX} passkeys.")


def _parse(answer: str) -> dict[str, Any]:
    if len(answer) > limits.CREDENTIAL_LENGTH_MAX:
        raise ValueError("too long")
    parsed = json.loads(answer)
    if not isinstance(parsed, dict):
        raise TypeError("no object")
    return parsed


def _keep(session: SessionBase, purpose: str, state: dict[str, Any]) -> None:
    session[_STATE_KEY + purpose] = {"at": int(time.time()), "state": state}


def _take(session: SessionBase, purpose: str) -> dict[str, Any]:
    """The challenge of this purpose, once."""
    kept = session.pop(_STATE_KEY + purpose, None)
    if kept is None or time.time() - kept["at"] > CHALLENGE_LIFETIME_S:
        raise AuthenticationError("The question to your passkey is out of date. Try again.")
    state: dict[str, Any] = kept["state"]
    return state
