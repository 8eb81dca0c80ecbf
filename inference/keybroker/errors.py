"""Refusals of the key broker; each is written to the release log with its code."""

from __future__ import annotations

from typing import Any

from marketplace.core.errors import (
    AuthenticationError,
    ConflictError,
    MarketplaceError,
    UnavailableError,
)


class SignatureInvalidError(MarketplaceError):
    code = "signature_invalid"
    http_status = 401
    title = "The request is not signed by an enrolled node."


class CertificateRequiredError(AuthenticationError):
    code = "certificate_required"
    title = "The node must show its certificate in the connection itself."


class TooManyPlatformKeysError(ConflictError):
    code = "too_many_platform_keys"
    title = "The platform's key was changed as often as it may be."


class NotAssignedError(MarketplaceError):
    code = "not_assigned"
    http_status = 403
    title = "This version is not assigned to this node."


class VersionNotApprovedError(MarketplaceError):
    code = "version_not_approved"
    http_status = 403
    title = "This version may not be loaded for this purpose."


class LoaderNotAllowedError(MarketplaceError):
    code = "loader_not_allowed"
    http_status = 403
    title = "The serving code on this node is not one that may receive keys."


class EvidenceInsufficientError(MarketplaceError):
    code = "evidence_insufficient"
    http_status = 403
    title = "The evidence about the node is not accepted here."


class EvidenceInvalidError(MarketplaceError):
    code = "evidence_invalid"
    http_status = 403
    title = "The evidence about the node does not hold."


class NonceReplayedError(MarketplaceError):
    code = "nonce_replayed"
    http_status = 409
    title = "The nonce is unknown, used or expired."


class LeaseLostError(MarketplaceError):
    code = "lease_lost"
    http_status = 403
    title = "The lease has ended and is not renewed."


class ShreddedError(MarketplaceError):
    code = "shredded"
    http_status = 410
    title = "The key of this model was destroyed."


class VersionInUseError(ConflictError):
    code = "version_state"
    title = "The version is not withdrawn, refused or failed."


class KeyWrapInvalidError(MarketplaceError):
    code = "key_wrap_invalid"
    http_status = 422
    title = "The wrapped key does not open with the key made for this upload."


class HeaderTagInvalidError(MarketplaceError):
    code = "header_tag_invalid"
    http_status = 422
    title = "A file's header was not made with the wrapped key for this version."


class SuiteUnsupportedError(MarketplaceError):
    code = "suite_unsupported"
    http_status = 422
    title = "The client speaks none of the wraps that are made here."


class KmsUnavailableError(UnavailableError):
    """The KMS is away, slow, refuses us or answers rubbish; nothing was changed."""

    code = "kms_unavailable"
    title = "The key store does not answer as it should."

    def __init__(self, detail: str = "", *, retry_after_s: int = 5, **params: Any) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, **params)
