"""What can go wrong between us and a tritonserver, as errors with stable codes."""

from __future__ import annotations

from marketplace.core.errors import (
    ConflictError,
    DeadlineError,
    InvalidInputError,
    MarketplaceError,
    UnavailableError,
)

# Begins the text of an error that another input would have avoided; Triton's stream of
# responses carries no codes.
INPUT_FAULT_MARK = "input fault: "


class TritonStartError(MarketplaceError):
    """tritonserver could not be started; the detail says where its log lies."""

    code = "triton_start_failed"
    http_status = 503
    title = "The model server could not be started."


class TritonUnavailableError(UnavailableError):
    """No answer from tritonserver: it is down, starting or unreachable."""

    code = "triton_unavailable"
    title = "The model server does not answer."


class ModelNotReadyError(UnavailableError):
    """The model is not loaded, or is on its way in or out."""

    code = "model_not_ready"
    title = "The model is not loaded."


class QueueFullError(UnavailableError):
    """Too many calls wait for a replica already."""

    code = "queue_full"
    title = "Too many requests are waiting for this model."


class TritonDeadlineError(DeadlineError):
    """The call did not finish within its time."""


class ModelLoadError(MarketplaceError):
    """A model did not load; `detail` is Triton's reason, which quotes the loader."""

    code = "load_failed"
    title = "The model could not be loaded."


class ModelUnloadError(MarketplaceError):
    """A model did not leave in time."""

    code = "unload_failed"
    http_status = 503
    retryable = True
    title = "The model could not be unloaded."


class TensorError(InvalidInputError):
    """Triton refused the tensors of a request."""

    code = "invalid_tensor"
    title = "The model server refused the request's tensors."


class ModelExecutionError(MarketplaceError):
    """The model failed while it ran. Nothing is charged for it."""

    code = "model_failed"
    title = "The model failed on this input."


class OutputError(ModelExecutionError):
    """The model answered something that its own interface does not allow."""

    code = "output_invalid"
    title = "The model's answer does not fit its interface."


class MediaTooLargeError(OutputError):
    """What this input leads to is more than an answer can carry; a smaller one is answered."""

    code = "media_too_large"
    http_status = 422
    title = "The model's answer to this input is too large to be sent."


class RepositoryError(ConflictError):
    """A model folder exists already, or its name is not one of ours."""

    code = "repository_conflict"
    title = "The model folder cannot be written."
