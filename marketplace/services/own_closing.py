"""The marketplace's part of deleting an account; see `marketplace.services.closing`."""

from __future__ import annotations

from hashlib import sha256

from django.db import transaction

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.reserved import DELETED_PREFIX
from marketplace.models import (
    Account,
    AccountDeletion,
    AIModel,
    APIKey,
    CardRevision,
    Channel,
    DataExport,
    Membership,
    ModelVersion,
    Notice,
    Notification,
    NotificationPreference,
    Report,
    RetiredName,
    User,
)
from marketplace.selectors.retired_name import digest_of
from marketplace.services import audit, erasure, export_file
from marketplace.services.closing import Closer, NotYet, Obstacle
from marketplace.services.session import drop_sessions

SYSTEM_LABEL = "system:deletion"
DELETED_NAME = "Deleted account"
DELETED_KEY = "Deleted key"
State = ModelVersion.State
# What a version becomes when its account goes: what was still on its way in has failed.
_WITHDRAWN = (State.ONBOARDING, State.IN_REVIEW, State.APPROVED)


def pseudonym_of(account: Account) -> str:
    """The name of an account that was deleted: from its id, so that the step can be repeated."""
    return f"{DELETED_PREFIX}{sha256(account.pk.bytes).hexdigest()[:12]}"


def foretell(account: Account) -> list[str]:
    """Keys, models and people."""
    keys = APIKey.objects.filter(account=account, revoked_at=None).count()
    models = account.models.count()
    people = account.memberships.count()
    told = []
    if keys:
        stop = "stops" if keys == 1 else "stop"
        told.append(f"{_count(keys, 'key')} and all that uses it {stop} working after 14 days.")
    if models:
        leave = "leaves" if models == 1 else "leave"
        told.append(
            f"{_count(models, 'model')} {leave} the catalogue for good; all versions are withdrawn."
        )
    end = "loses access, and is" if people == 1 else "lose access, and are"
    told.append(f"{_count(people, 'person', 'people')} {end} signed out.")
    told.append(f"Nobody gets the name {account.slug} again, you included.")
    return told


def find_obstacles(account: Account) -> list[Obstacle]:
    """A suspended account is the platform's to end."""
    if account.suspended_at is None:
        return []
    reason = "The account is suspended."
    return [Obstacle("suspended", reason, "Write to the platform's admins.")]


def revoke_keys(deletion: AccountDeletion) -> str:
    """End all keys of the account at once."""
    with transaction.atomic():
        live = APIKey.objects.filter(account=deletion.account, revoked_at=None)
        count = live.update(revoked_at=utc_now())
        if count:
            _record(deletion, "key.revoke_all", {"keys": count})
    return f"{_count(count, 'key')} revoked."


def unlist_models(deletion: AccountDeletion) -> str:
    """Hide the models, take their channels away, and withdraw what could still be served."""
    models = list(deletion.account.models.order_by("name"))
    for model in models:
        with transaction.atomic():
            # Held against who would publish it meanwhile.
            locked = AIModel.objects.select_for_update(no_key=True).get(pk=model.pk)
            channels, _ = Channel.objects.filter(model=locked).delete()
            versions = locked.versions.filter(state__in=_WITHDRAWN).update(state=State.WITHDRAWN)
            failed = locked.versions.filter(state=State.UPLOADING).update(state=State.FAILED)
            changed = channels + versions + failed
            if locked.visibility != AIModel.Visibility.PRIVATE:
                locked.visibility = AIModel.Visibility.PRIVATE
                locked.save(update_fields=["visibility", "updated_at"])
                changed += 1
            if changed:
                _record(deletion, "model.unlist", {"model": str(locked), "versions": versions})
    return f"{_count(len(models), 'model')} withdrawn."


def delete_archives(deletion: AccountDeletion) -> str:
    """Delete archives of the account's data, with their keys."""
    count = 0
    for export in DataExport.objects.filter(account=deletion.account):
        if not export_file.delete_all(export.pk):
            raise NotYet("The object store does not delete archives right now.")
        count += 1
    with transaction.atomic():
        exports = DataExport.objects.filter(account=deletion.account)
        exports.update(state=DataExport.State.EXPIRED, sealed_key=b"", storage_name="")
    return f"{_count(count, 'archive')} deleted."


def erase_profile(deletion: AccountDeletion) -> str:
    """Replace the account's names by a pseudonym. Its old name is given to nobody again."""
    with transaction.atomic():
        account = Account.objects.select_for_update().get(pk=deletion.account_id)
        pseudonym = pseudonym_of(account)
        if account.slug != pseudonym:
            RetiredName.objects.get_or_create(digest=digest_of(account.slug))
            account.slug, account.name, account.bio = pseudonym, DELETED_NAME, ""
            account.save(update_fields=["slug", "name", "bio"])
            # A key's name says what somebody used it for; usage points to its row.
            account.api_keys.update(name=DELETED_KEY, allowed_networks=[])
            # What a model says of itself is the creator's, too.
            account.models.update(title="Deleted model", summary="", card="")
            CardRevision.objects.filter(model__account=account).delete()
            account.collections.all().delete()
            _record(deletion, "account.erase", {"pseudonym": pseudonym})
    return f"The account is called {pseudonym} now."


def remove_people(deletion: AccountDeletion) -> str:
    """Take all members out and end their sessions; erase who wanted to be forgotten."""
    account = deletion.account
    waiting = Notice.objects.filter(
        account=account, mailed_at=None, created_at__gt=utc_now() - limits.DELETION_MAIL_WAIT
    )
    if waiting.exists():
        raise NotYet("The last mail to the owners is on its way.")
    # The mails name people and the account.
    Notice.objects.filter(account=account).delete()
    Notification.objects.filter(account=account).delete()
    NotificationPreference.objects.filter(account=account).delete()
    members = list(account.memberships.select_related("user").order_by("pk"))
    for member in members:
        drop_sessions(user=member.user)
    with transaction.atomic():
        removed, _ = Membership.objects.filter(account=account).delete()
        if removed:
            _record(deletion, "member.remove_all", {"members": removed})
    told = f"{_count(len(members), 'person', 'people')} taken out."
    requester = deletion.requested_by
    if deletion.erases_requester and requester is not None:
        if erasure.list_obstacles(requester) or requester.memberships.exists():
            return f"{told} Who asked belongs to more accounts, and stays."
        erasure.erase_person(user=requester)
    return told


def _record(deletion: AccountDeletion, action: str, payload: dict[str, object]) -> None:
    audit.record(SYSTEM_LABEL, action, deletion, account_id=deletion.account_id, payload=payload)


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def forget_person(user: User, label: str, pseudonym: str) -> None:
    """Rows of the marketplace name people by their id; texts of reports stay without one."""
    Report.objects.filter(reporter=user).update(reporter=None)


CLOSER = Closer(
    name="marketplace",
    foretell=foretell,
    find_obstacles=find_obstacles,
    steps={
        "keys": revoke_keys,
        "models": unlist_models,
        "archives": delete_archives,
        "profile": erase_profile,
        "people": remove_people,
    },
    forget_person=forget_person,
)
