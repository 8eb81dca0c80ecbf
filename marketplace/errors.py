"""Errors of accounts, keys and the catalogue; their codes are part of the API."""

from __future__ import annotations

from marketplace.core.errors import ConflictError, InvalidInputError, LimitExceededError


class NameReservedError(InvalidInputError):
    code = "name_reserved"
    title = "This name is reserved."


class NameTakenError(ConflictError):
    code = "name_taken"
    title = "This name is taken."


class NameConfusableError(ConflictError):
    code = "name_confusable"
    title = "This name looks like one that is taken."


class EmailTakenError(ConflictError):
    code = "email_taken"
    title = "Somebody signs in with this e-mail address already."


class MemberExistsError(ConflictError):
    code = "member_exists"
    title = "This person is a member already."


class LastOwnerError(ConflictError):
    code = "last_owner"
    title = "An account keeps at least one owner."


class CountLimitError(ConflictError):
    """More than an account may have; see `marketplace.core.limits`."""

    code = "count_limit"
    title = "The account has as many of these as it may have."


class VersionStateError(ConflictError):
    code = "version_state"
    title = "The version's state does not allow this."


class VersionNotApprovedError(ConflictError):
    code = "version_not_approved"
    title = "Only an approved version can be published."


class LoginThrottledError(LimitExceededError):
    code = "login_throttled"
    title = "Too many failed tries. Wait a while, then try again."
