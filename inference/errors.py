"""What the control plane of inference answers when it refuses; each code is stable."""

from __future__ import annotations

from typing import Any

from marketplace.core.errors import (
    AuthenticationError,
    ConflictError,
    GoneError,
    InsufficientCreditError,
    InvalidInputError,
    LimitExceededError,
    MarketplaceError,
    PayloadTooLargeError,
    UnavailableError,
)
from strongroom.errors import StrongroomError


class RefusedError(InvalidInputError):
    """Sealed things that are not accepted; the code says which rule they break.

    The codes are those of the SDK and of the onboarding log, so that a person finds the same
    word on the command line, in the answer and on the page.
    """

    title = "What was sent is not accepted."

    def __init__(self, code: str, detail: str, *, pointer: str = "", **params: Any) -> None:
        errors = [{"pointer": pointer, "detail": detail}] if pointer else []
        super().__init__(detail, errors=errors, **params)  # type: ignore[arg-type]
        # An instance's own code: the SDK has dozens, and a class for each would say no more.
        self.code = code  # type: ignore[misc]

    @classmethod
    def from_sdk(cls, error: StrongroomError) -> RefusedError:
        """The same refusal, as the API answers it."""
        return cls(error.code, error.detail, pointer=getattr(error, "pointer", ""))


class LengthRequiredError(MarketplaceError):
    code = "length_required"
    http_status = 411
    title = "The request must say its Content-Length."


class PartChecksumMismatchError(InvalidInputError):
    code = "part_checksum_mismatch"
    title = "The part is not what its checksum says. Send it again."


class PartSizeMismatchError(InvalidInputError):
    code = "part_size_mismatch"
    title = "The part does not have the size that the announced file gives it."


class PartOutOfRangeError(InvalidInputError):
    code = "part_out_of_range"
    title = "The announced files have no such part."


class RangeNotSatisfiableError(MarketplaceError):
    code = "range_not_satisfiable"
    http_status = 416
    title = "It does not reach so far."


class CiphertextGoneError(GoneError):
    code = "ciphertext_gone"
    title = "The platform no longer keeps the sealed files of this version."


class UploadClosedError(ConflictError):
    code = "upload_closed"
    title = "This upload takes no more parts."


class UploadExpiredError(GoneError):
    code = "upload_expired"
    title = "This upload has expired. Begin a new one."


class TooManyUploadsError(ConflictError):
    code = "too_many_uploads"
    title = "Too many uploads are open. Complete or abort one."


class QuotaExceededError(ConflictError):
    code = "storage_quota_exceeded"
    title = "The account's storage would be exceeded."


class VersionTooLargeError(PayloadTooLargeError):
    code = "version_too_large"
    title = "The files of this version are larger than allowed."


class TooManySigningKeysError(ConflictError):
    code = "too_many_signing_keys"
    title = "The account has as many signing keys as it may have."


class SigningKeyRevokedError(ConflictError):
    code = "signing_key_revoked"
    title = "This signing key was revoked and cannot be used again."


class SigningKeyCoolingError(ConflictError):
    code = "signing_key_cooling"
    title = "The signing key is too new: an owner of the account has to confirm it first."


class SigningKeyUnconfirmedError(ConflictError):
    code = "signing_key_unconfirmed"
    title = "The version is signed by a new key, and nobody said that its creator confirmed it."


class SameSessionError(ConflictError):
    code = "signing_key_same_session"
    title = "A key is confirmed in another session than the one that registered it."


class KeyBrokerUnavailableError(UnavailableError):
    code = "keybroker_unavailable"
    title = "The key broker does not answer."


class ReleaseLogTooLongError(ConflictError):
    code = "release_log_too_long"
    title = "The release log is too long for one export."


class ConfirmationMissingError(InvalidInputError):
    code = "confirmation_missing"
    title = "What cannot be undone must be confirmed by its name."


class ObjectStoreUnavailableError(UnavailableError):
    code = "object_store_unavailable"
    title = "The object store cannot take or give this right now."


class JoinTokenInvalidError(AuthenticationError):
    code = "join_token_invalid"
    title = "The join token is unknown, used, expired, revoked, or for another name or pool."


class NodeRevokedError(MarketplaceError):
    code = "node_revoked"
    http_status = 403
    title = "This node was revoked."


class CertificateInvalidError(AuthenticationError):
    code = "certificate_invalid"
    title = "This is not a certificate that the key broker issued to a node."


class CertificateExpiredError(AuthenticationError):
    code = "certificate_expired"
    title = "The node's certificate has expired."


class CertificateMismatchError(AuthenticationError):
    code = "certificate_mismatch"
    title = "The certificate is not that of the node in whose name is asked."


class EnrolmentStaleError(AuthenticationError):
    code = "enrolment_stale"
    title = "The enrolment was signed too long ago, or by a clock that is wrong."


class GatewayUnavailableError(UnavailableError):
    code = "gateway_unavailable"
    title = "The gateway does not answer."


class PlaygroundBusyError(UnavailableError):
    code = "playground_busy"
    title = "The site shows as many running answers as it can. Try again in a moment."


class RunOfferInvalidError(InvalidInputError):
    code = "run_offer_invalid"
    title = "This run can no longer be shared: it is older than an hour, or another account's."


class RunTooLargeError(InvalidInputError):
    code = "run_too_large"
    title = "Input and output of this run are too large to be shared."


class TooManyRunsError(ConflictError):
    code = "too_many_runs"
    title = "The account shares as many runs as it may. Revoke one."


class TooManyWebhooksError(ConflictError):
    code = "too_many_webhooks"
    title = "The account has as many webhook endpoints as it may have."


class TooManyBatchesError(LimitExceededError):
    """Of those that are not over; one that ends makes room."""

    code = "too_many_batches"
    title = "The account has as many open batches as it may."

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"At most {limit} batches may be open.", retry_after_s=60)


class BatchOverError(ConflictError):
    code = "batch_over"
    title = "The batch is over, or comes to its end."


class FileNameError(InvalidInputError):
    code = "file_name_invalid"
    title = "The file's name or type is not one."


class FileLifetimeError(InvalidInputError):
    code = "file_lifetime_invalid"
    title = "A file lives for at least a minute, and no longer than its account keeps anything."


class FileTooLargeError(PayloadTooLargeError):
    code = "file_too_large"
    title = "The file is larger than allowed."


class FileLimitError(ConflictError):
    code = "file_limit"
    title = "The account has as many files as it may have."


class FileGoneError(GoneError):
    code = "file_gone"
    title = "The file was deleted, or has expired."


class FileMissingError(InvalidInputError):
    code = "file_missing"
    title = "The form has no file: its part is called `content` or `file`, and comes once."


class FileLinkError(MarketplaceError):
    code = "file_link_invalid"
    http_status = 403
    title = "This address of a file was changed, or is not one of ours."


class FileLinkExpiredError(GoneError):
    code = "file_link_expired"
    title = "This address of a file has expired. Ask for the file again to get another."


class RetentionZeroError(ConflictError):
    code = "retention_zero"
    title = "The account keeps nothing of its predictions, and so no files either."


class AlwaysWarmUnpaidError(InsufficientCreditError):
    code = "always_warm_unpaid"
    title = "The wallet does not hold enough credit to keep a version always warm for an hour."
