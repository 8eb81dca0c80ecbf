"""Leaves single checks out of the key broker that starts with this folder on its path.

Python runs this file before anything else. `THREATS_WITHOUT` names what is left out, so that a
test can show what the attack would get. Nothing of the product knows of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable


def _without_assignment() -> None:
    """Give a key to whoever asks, whatever is wanted where."""
    from inference.keybroker import leases

    leases._check_assignment = _pass


def _without_nonce() -> None:
    """Take a request as often as it comes."""
    from inference.keybroker import queries

    queries.use_challenge = _agree


def _without_signature() -> None:
    """Believe every signature."""
    from strongroom.sealing import signature

    signature.verify = _believe


def _without_certificate() -> None:
    """Take whoever connects for whoever the request names."""
    from inference.keybroker import peer

    peer.Peer.check = _believe


def _without_policy() -> None:
    """Never look at what the version's creator demands."""
    from inference.keybroker import leases

    leases._check_policy = _pass


def _without_context() -> None:
    """Bind a wrapped key to nothing, neither in the key store nor in the wrap."""
    from inference.keybroker import upload_keys
    from strongroom.sealing import wrap

    upload_keys._context = _describe_nothing
    wrap.dek_info = _describe_nothing


async def _pass(*args: object, **options: object) -> None:
    """Find nothing wrong."""


async def _agree(*args: object, **options: object) -> bool:
    return True


def _believe(*args: object) -> None:
    """Find nothing wrong."""


def _describe_nothing(*args: object, **options: object) -> dict[str, str]:
    return {}


_PARTS: dict[str, Callable[[], None]] = {
    "assignment": _without_assignment,
    "nonce": _without_nonce,
    "signature": _without_signature,
    "certificate": _without_certificate,
    "policy": _without_policy,
    "context": _without_context,
}
for _name in filter(None, os.environ.get("THREATS_WITHOUT", "").split(",")):
    _PARTS[_name]()
