"""Refusals of the key broker; each is written to the release log with its code."""

from __future__ import annotations

from marketplace.core.errors import MarketplaceError


class SignatureInvalidError(MarketplaceError):
    code = "signature_invalid"
    http_status = 401
    title = "The request is not signed by an enrolled node."


class NodeRevokedError(MarketplaceError):
    code = "node_revoked"
    http_status = 403
    title = "This node was revoked."


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


class KeyWrapInvalidError(MarketplaceError):
    code = "key_wrap_invalid"
    http_status = 422
    title = "The wrapped key does not open with the key made for this upload."


class HeaderTagInvalidError(MarketplaceError):
    code = "header_tag_invalid"
    http_status = 422
    title = "A file's header was not made with the wrapped key for this version."
