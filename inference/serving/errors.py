"""Why a model could not be loaded, or one request not be answered."""

from __future__ import annotations


class LoadError(Exception):
    """The replica ends here.

    Args:
        reason_code: Stable code; the node reports it and onboarding shows it.
        detail: One sentence. Never a secret, never contents of a file.
    """

    def __init__(self, reason_code: str, detail: str) -> None:
        super().__init__(f"{reason_code}: {detail}")
        self.reason_code = reason_code
        self.detail = detail


class SandboxError(LoadError):
    """The process could not be confined; no key is asked for."""


class SessionError(LoadError):
    """The conversation with the node broke off or broke its rules."""


class RequestError(Exception):
    """One request fails; its neighbours do not.

    Args:
        reason_code: Stable code; stands before the detail in Triton's error.
        detail: One sentence for the consumer.
        is_input_fault: Whether another input would have worked.
    """

    def __init__(self, reason_code: str, detail: str, *, is_input_fault: bool = False) -> None:
        super().__init__(f"{reason_code}: {detail}")
        self.reason_code = reason_code
        self.detail = detail
        self.is_input_fault = is_input_fault


class CancelledError(RequestError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__("cancelled", "The request was cancelled.")
