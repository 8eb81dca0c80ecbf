"""Errors of accounts, keys and the catalogue; their codes are part of the API."""

from __future__ import annotations

from marketplace.core.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidInputError,
    LimitExceededError,
    UnavailableError,
)


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


class ChannelMovedError(ConflictError):
    code = "channel_moved"
    title = "The channel names another version by now."


class CardChangedError(ConflictError):
    """Somebody else saved the card since it was opened; nothing was changed."""

    code = "card_changed"
    title = "Somebody else has changed the card since you opened it."


class LoginThrottledError(LimitExceededError):
    code = "login_throttled"
    title = "Too many failed tries. Wait a while, then try again."


class FeatureOffError(UnavailableError):
    """A switch of the platform is off; see `marketplace.core.flags`."""

    code = "feature_off"
    retryable = False
    title = "This is switched off for now."


class ReadOnlyViewError(ForbiddenError):
    """A platform admin who sees the site as somebody else tried to change something."""

    code = "read_only_view"
    title = "You see the site as somebody else, and can change nothing."


class ReportLimitError(LimitExceededError):
    code = "report_limit"
    title = "You reported as many models as one may in a day."


class AlreadyDecidedError(ConflictError):
    """Somebody else was quicker; nothing was changed."""

    code = "already_decided"
    title = "This was decided already."


class SecondFactorRequiredError(AuthenticationError):
    """The password was right, and is not all that this person signs in with."""

    code = "second_factor_required"
    title = "A code of the authenticator app or a recovery code is needed as well."


class ConfirmationRequiredError(ForbiddenError):
    """Of calls by a session that is not fresh enough for money and keys."""

    code = "confirmation_required"
    title = "Confirm that it is you, then try again."


class EmailNotVerifiedError(ForbiddenError):
    code = "email_not_verified"
    title = "Confirm your e-mail address first: follow the link that was mailed to you."


class ExportRunningError(ConflictError):
    code = "export_running"
    title = "An archive of the account's data is being made already."


class ExportLimitError(LimitExceededError):
    code = "export_limit"
    title = "The account asked for as many archives as one may in a day."


class ExportGoneError(GoneError):
    code = "export_gone"
    title = "This archive is not there any more. Ask for another one."


class AccountClosingError(ConflictError):
    """Of an account that will be deleted: it takes on nothing new."""

    code = "account_closing"
    title = "The account is going to be deleted. Cancel that first."


class DeletionBlockedError(ConflictError):
    """Something has to be settled before an account or a person can be deleted."""

    code = "deletion_blocked"
    title = "Something has to be settled first."


class DeletionStateError(ConflictError):
    code = "deletion_state"
    title = "The deletion has begun, or there is none. Nothing was changed."


class LinkInvalidError(InvalidInputError):
    code = "link_invalid"
    title = "This link does not work any more."
