"""What can go wrong with sealed things. The codes are those of the onboarding log."""

from __future__ import annotations

from strongroom.errors import StrongroomError


class CanonicalError(StrongroomError):
    """A value that has no canonical JSON, or a text that is not the canonical one."""


class HeaderError(StrongroomError):
    """A header that is malformed, or does not belong to this key and this context."""


class TamperedError(StrongroomError):
    """Sealed bytes that differ from what was sealed. Nothing decrypted may be used."""

    def __init__(self, detail: str) -> None:
        super().__init__("tampered", detail)


class SourceChangedError(StrongroomError):
    """The file changed while it was being sealed."""

    def __init__(self, detail: str) -> None:
        super().__init__("source_changed", detail)


class WrapError(StrongroomError):
    """A wrapped key that does not open: wrong key, wrong context or changed bytes."""


class SignatureError(StrongroomError):
    """A signature that does not fit the key and the bytes."""

    def __init__(self, detail: str = "The signature does not fit the key and the bytes.") -> None:
        super().__init__("signature_invalid", detail)


class PolicyError(StrongroomError):
    """A policy that cannot be accepted; `pointer` is the place of the fault in it."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__("policy_invalid", detail)
        self.pointer = pointer


class ManifestError(StrongroomError):
    """A manifest that cannot be accepted; `pointer` is the JSON pointer of the fault."""

    def __init__(self, code: str, pointer: str, detail: str) -> None:
        super().__init__(code, detail)
        self.pointer = pointer

    def __str__(self) -> str:
        return f"{self.code} at {self.pointer or '/'}: {self.detail}"
