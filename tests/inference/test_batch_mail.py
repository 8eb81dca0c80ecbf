"""Who wants mails about batches gets one for each end and each pause; the inbox has them too."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core import mail

from inference.models import Batch, BatchLine
from inference.services import batch_run
from marketplace.core.clock import utc_now
from marketplace.models import Membership, Notice, NotificationPreference
from marketplace.services.notice import mail_notices
from tests.factories import AIModelFactory, MembershipFactory, ModelVersionFactory, UserFactory
from tests.inference.storing import use_store

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(account, settings, tmp_path):
    use_store(settings, tmp_path / "objects")
    return ModelVersionFactory(model=AIModelFactory(account=account, name="echo"))


@pytest.fixture
def batch(account, version) -> Batch:
    now = utc_now()
    batch = Batch.objects.create(
        account=account,
        version=version,
        name="reviews.jsonl",
        state="paused",
        reason="insufficient_credit",
        detail="The wallet does not hold enough credit.",
        ready_at=now,
        paused_at=now,
        next_at=now + timedelta(hours=1),
        deadline_at=now + timedelta(days=1),
    )
    BatchLine.objects.create(batch=batch, number=1, input={})
    return batch


def change(batch: Batch, **fields) -> None:
    Batch.objects.filter(pk=batch.pk).update(**fields)
    batch_run.advance_batches()


def sent() -> list[tuple[str, str]]:
    """To whom something was sent by now, and what."""
    mail_notices()
    return sorted((one.to[0], one.subject) for one in mail.outbox)


def test_a_pause_is_mailed_once_and_the_next_one_again(batch, account, owner):
    for _ in range(3):
        batch_run.advance_batches()

    paused = (owner.email, f"{account.slug}: reviews.jsonl stands still")
    assert sent() == [paused]
    text = mail.outbox[0].body
    assert "The wallet does not hold enough credit." in text
    assert f"/console/batches/{batch.pk}" in text
    assert [one.title for one in owner.notifications.all()] == [
        "Your batch reviews.jsonl stands still"
    ]

    change(batch, paused_at=utc_now() + timedelta(seconds=5))
    assert sent() == [paused, paused]
    assert owner.notifications.count() == 2


def test_without_the_mark_each_look_would_mail(batch, owner):
    for _ in range(2):
        change(batch, pause_told_at=None)
    assert len(sent()) == 2
    # The inbox has it once all the same: its key says which pause.
    assert owner.notifications.count() == 1


@pytest.mark.parametrize(
    ("state", "word"),
    [("running", "completed"), ("canceling", "canceled"), ("expiring", "expired")],
)
def test_each_end_is_mailed_once(batch, account, owner, state, word):
    if state == "running":
        BatchLine.objects.all().delete()
    for _ in range(2):
        change(batch, **({"state": state} if not mail.outbox else {}), paused_at=None)

    assert sent() == [(owner.email, f"{account.slug}: reviews.jsonl is {word}")]
    assert owner.notifications.get().title == f"Your batch reviews.jsonl is {word}"


def test_a_file_that_is_gone_is_mailed_as_failed(batch, account, owner):
    change(batch, state="reading", reason="", detail="", paused_at=None, ready_at=None)

    assert sent() == [(owner.email, f"{account.slug}: reviews.jsonl is failed")]


def test_it_goes_to_those_who_want_it(batch, account, owner):
    people = {}
    for role in Membership.Role.values:
        people[role] = UserFactory(email=f"{role}@acme.example")
        MembershipFactory(account=account, user=people[role], role=role)
    refuses = UserFactory(email="refuses@acme.example")
    MembershipFactory(account=account, user=refuses, role="developer")
    NotificationPreference.objects.create(
        person=refuses, account=account, kind="batch", by_mail=False
    )
    gone = UserFactory(email="gone@acme.example", is_active=False)
    MembershipFactory(account=account, user=gone, role="developer")
    UserFactory(email="stranger@other.example")

    batch_run.advance_batches()

    builders = {owner.email, *(people[role].email for role in ("owner", "admin", "developer"))}
    assert {to for to, _ in sent()} == builders
    # Only the mail is refused.
    assert refuses.notifications.count() == 1
    NotificationPreference.objects.update(by_mail=True)
    change(batch, paused_at=utc_now() + timedelta(seconds=5))
    assert "refuses@acme.example" in {to for to, _ in sent()}


def test_a_name_is_no_header(batch):
    Batch.objects.filter(pk=batch.pk).update(name=f"a\nBcc: x@y.example {'long ' * 38}"[:200])
    batch_run.advance_batches()

    [owed] = Notice.objects.all()
    assert "\n" not in owed.subject
    assert len(owed.subject) <= 200
    assert len(sent()) == 1
