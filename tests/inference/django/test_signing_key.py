"""Signing keys that change: what a later key may do, who is told, who has to agree."""

from __future__ import annotations

import io
import json
import threading
from datetime import timedelta

import pytest
import time_machine
from django.core import mail
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from django.utils import timezone

from inference.errors import (
    SigningKeyCoolingError,
    SigningKeyRevokedError,
    SigningKeyUnconfirmedError,
)
from inference.models import OnboardingStep, SigningKey
from inference.selectors import signing_key as selectors
from inference.services import onboarding, onboarding_steps
from inference.services import signing_key as service
from inference.tasks import mail_signing_keys as mail_task
from marketplace.models import AuditEvent, Membership, ModelVersion, Review
from marketplace.services import doubt, review
from tests.factories import PASSWORD, APIKeyFactory, MembershipFactory, UserFactory
from tests.inboxes import list_told
from tests.inference.django.creator import Creator

FILES = {"model.onnx": b"weights" * 1000}
VERSIONS = "/admin/marketplace/modelversion/"
DAY = service.COOL_DOWN


@pytest.fixture(autouse=True)
def _no_tries_counted() -> None:
    cache.clear()


@pytest.fixture
def later(creator, owner, account) -> Creator:
    """Another machine, with a token and a key of its own."""
    token = APIKeyFactory(account=account, created_by=owner, mode="token")
    client = Client(headers={"Authorization": f"Bearer {token.text}"})
    machine = Creator(client)
    assert machine.register().json()["state"] == "new"
    return machine


def push(machine: Creator, **options) -> ModelVersion:
    """A version in review, as it is once everything else was right."""
    answer = machine.push("acme/digits", FILES, **options)
    ModelVersion.objects.filter(pk=answer["id"]).update(state="in_review")
    return ModelVersion.objects.get(pk=answer["id"])


def key_of(machine: Creator) -> SigningKey:
    return SigningKey.objects.get(fingerprint=machine.fingerprint)


def age(key: SigningKey, by: timedelta) -> None:
    SigningKey.objects.filter(pk=key.pk).update(created_at=timezone.now() - by)


def approve(version: ModelVersion, admin, *, is_confirmed: bool = False) -> Review:
    return review.approve_version(
        version=version, reviewer=admin, reason="Fine.", is_confirmed=is_confirmed
    )


def assert_held(version: ModelVersion, admin, error: type[Exception], **options) -> None:
    """The approval is refused, and nothing of it stays."""
    before = AuditEvent.objects.count()
    with pytest.raises(error):
        approve(version, admin, **options)
    version.refresh_from_db()
    assert version.state == "in_review"
    assert not Review.objects.filter(version=version).exists()
    assert AuditEvent.objects.count() == before


def actions() -> list[str]:
    found = AuditEvent.objects.filter(action__startswith="signing_key.")
    return list(found.order_by("seq").values_list("action", flat=True))


# --- Which key is trusted -----------------------------------------------------------


def test_the_first_key_of_an_account_is_trusted_at_once(creator, model, platform_admin):
    key = key_of(creator)
    assert (key.state, key.registered_by) == ("trusted", "user:owner@example.com")

    approve(push(creator), platform_admin)

    assert actions() == ["signing_key.register"]


def test_a_later_key_is_new(creator, later):
    assert key_of(later).state == "new"
    assert key_of(later).registered_by.startswith("key:srt_")
    assert key_of(later).registered_by.endswith(" of owner@example.com")
    assert creator.register().json()["state"] == "trusted"


def test_revoking_every_key_makes_nobody_the_first_again(creator, owner_client, account):
    """Who has taken the account over cannot clear the table."""
    service.revoke_signing_key(key=key_of(creator), actor=_actor(account))

    assert Creator(owner_client).register().json()["state"] == "new"


def _actor(account):
    from marketplace.selectors.access import Actor

    return Actor(user=account.members.first())


def test_each_account_has_a_first_key_of_its_own(creator, outsider):
    client = Client()
    client.force_login(outsider)
    stranger = Creator(client, account="elsewhere", signing_key=creator.signing_key)

    assert stranger.register().json()["state"] == "trusted"


@pytest.mark.django_db(transaction=True)
def test_of_two_keys_that_come_at_once_one_is_the_first(owner, account):
    states = []
    barrier = threading.Barrier(2)

    def register() -> None:
        client = Client()
        client.force_login(owner)
        machine = Creator(client)
        barrier.wait()
        states.append(machine.register().json()["state"])
        connections.close_all()

    threads = [threading.Thread(target=register) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(states) == ["new", "trusted"]


def test_keys_from_before_stay_trusted(migrated_keys):
    assert {key.state for key in migrated_keys} == {"trusted"}


@pytest.fixture
def migrated_keys(account):
    """Rows as they were, after the migration's own statement."""
    from importlib import import_module

    from django.db import connection

    SigningKey.objects.create(account=account, public_key="k", fingerprint="old")
    operations = import_module("inference.migrations.0012_signing_keys").Migration.operations
    with connection.cursor() as cursor:
        cursor.execute(operations[-1].sql)
    return SigningKey.objects.all()


# --- What it signs is held ----------------------------------------------------------


def test_in_its_first_day_no_reviewers_word_is_enough(later, model, platform_admin):
    version = push(later)

    assert_held(version, platform_admin, SigningKeyCoolingError, is_confirmed=True)
    age(key_of(later), DAY - timedelta(minutes=1))
    assert_held(version, platform_admin, SigningKeyCoolingError, is_confirmed=True)


def test_after_a_day_the_reviewer_has_to_have_asked(later, model, platform_admin):
    version = push(later)
    age(key_of(later), DAY)

    assert_held(version, platform_admin, SigningKeyUnconfirmedError)
    approve(version, platform_admin, is_confirmed=True)

    assert key_of(later).state == "trusted"
    event = AuditEvent.objects.get(action="signing_key.trust")
    assert event.payload == {"fingerprint": later.fingerprint, "version": "acme/digits:1"}
    assert event.actor == "user:admin@example.com"


def test_once_it_is_trusted_nobody_asks_again(later, model, platform_admin):
    first, second = push(later), push(later)
    age(key_of(later), DAY)
    approve(first, platform_admin, is_confirmed=True)

    approve(second, platform_admin)

    assert actions().count("signing_key.trust") == 1


def test_versions_of_earlier_keys_are_not_affected(creator, later, model, platform_admin):
    earlier, approved = push(creator), push(creator)
    approve(approved, platform_admin)
    held = push(later)

    assert_held(held, platform_admin, SigningKeyCoolingError)
    approve(earlier, platform_admin)
    approved.refresh_from_db()

    assert approved.state == "approved"
    assert doubt.find_doubts(earlier) == []


def test_a_version_that_wants_to_be_published_is_held_as_well(later, model, platform_admin):
    version = push(later, channel="prod")

    assert_held(version, platform_admin, SigningKeyCoolingError)
    onboarding.advance(version_id=version.pk)

    assert not version.channels.exists()


def test_a_held_version_can_be_refused(later, model, platform_admin):
    version = push(later)

    review.refuse_version(version=version, reviewer=platform_admin, reason="Not theirs.")

    version.refresh_from_db()
    assert version.state == "refused"
    assert key_of(later).state == "new"


def test_without_the_doubt_it_would_be_approved(later, model, platform_admin, monkeypatch):
    """Negative control: nothing else holds the version."""
    monkeypatch.setattr(doubt, "_doubters", [])

    approve(push(later), platform_admin)


def test_the_review_step_says_who_registered_the_key(later, model):
    version = push(later)
    step = OnboardingStep.objects.get(version=version, name="review")

    (line,) = onboarding_steps.review(step, version).lines

    assert line.startswith("Waiting for a reviewer. Signed by a new key (SHA256:")
    assert later.fingerprint in line
    assert f"by {key_of(later).registered_by}." in line
    assert line.endswith("No owner of acme has confirmed it.")


def test_a_trusted_key_is_not_mentioned(creator, model):
    version = push(creator)
    step = OnboardingStep.objects.get(version=version, name="review")

    assert onboarding_steps.review(step, version).lines == ("Waiting for a reviewer.",)


# --- An owner confirms --------------------------------------------------------------


def confirm(client: Client, key: SigningKey, password: str = PASSWORD):
    return client.post(f"/dashboard/signing-keys/{key.pk}/confirm", {"password": password})


@pytest.fixture
def other_session(owner) -> Client:
    client = Client()
    client.force_login(owner)
    return client


def test_an_owners_word_ends_the_first_day_but_not_the_review(
    later, model, platform_admin, other_session
):
    version = push(later)

    assert confirm(other_session, key_of(later)).status_code == 302

    assert_held(version, platform_admin, SigningKeyUnconfirmedError)
    (found,) = doubt.find_doubts(version)
    assert "The owner owner@example.com confirmed it on " in found.text
    approve(version, platform_admin, is_confirmed=True)
    assert actions()[-2:] == ["signing_key.confirm", "signing_key.trust"]


def test_confirming_twice_is_one_event(later, other_session):
    confirm(other_session, key_of(later))
    first = key_of(later).confirmed_at

    confirm(other_session, key_of(later))

    assert key_of(later).confirmed_at == first
    assert actions().count("signing_key.confirm") == 1


def test_the_password_is_asked_again(later, other_session):
    answer = confirm(other_session, key_of(later), "wrong")

    assert answer.status_code == 422
    assert "This is not your password." in answer.content.decode()
    assert key_of(later).confirmed_at is None


def test_passwords_cannot_be_guessed_there(later, other_session):
    for _ in range(30):
        answer = confirm(other_session, key_of(later), "wrong")
    answer = confirm(other_session, key_of(later))

    assert "Too many failed tries" in answer.content.decode()
    assert key_of(later).confirmed_at is None


def test_the_session_that_registered_a_key_does_not_confirm_it(creator, owner_client, model):
    machine = Creator(owner_client)
    machine.register()

    answer = confirm(owner_client, key_of(machine))

    assert answer.status_code == 422
    assert "another session" in answer.content.decode()
    assert key_of(machine).confirmed_at is None


def test_the_session_is_what_refuses_it(creator, owner_client, model):
    """Negative control: without the note of the session, the same request is taken."""
    machine = Creator(owner_client)
    machine.register()
    SigningKey.objects.update(registered_session="")

    assert confirm(owner_client, key_of(machine)).status_code == 302
    assert key_of(machine).confirmed_at is not None


def test_no_session_key_is_stored_as_it_is(creator, owner_client):
    stored = key_of(creator).registered_session

    assert len(stored) == 64
    assert stored != owner_client.session.session_key


@pytest.mark.parametrize("role", [one for one in Membership.Role.values if one != "owner"])
def test_only_owners_confirm(later, account, role):
    person = UserFactory()
    MembershipFactory(account=account, user=person, role=role)
    client = Client()
    client.force_login(person)

    answer = confirm(client, key_of(later))

    # Who may not push does not even see the page.
    assert answer.status_code == (422 if role in ("admin", "developer") else 403)
    assert key_of(later).confirmed_at is None


def test_a_revoked_key_cannot_be_confirmed(later, other_session):
    SigningKey.objects.filter(pk=key_of(later).pk).update(revoked_at=timezone.now())

    answer = confirm(other_session, key_of(later))

    assert answer.status_code == 422
    assert key_of(later).confirmed_at is None


def test_the_pages_say_what_there_is_to_do(creator, later, other_session, account):
    key = key_of(later)
    page = other_session.get("/dashboard/signing-keys?account=acme").content.decode()
    assert key.fingerprint in page
    assert creator.fingerprint in page
    assert "in its first 24 hours" in page
    assert f"/dashboard/signing-keys/{key.pk}/confirm" in page
    assert f"/dashboard/signing-keys/{key_of(creator).pk}/confirm" not in page

    question = other_session.get(f"/dashboard/signing-keys/{key.pk}/confirm").content.decode()
    assert key.fingerprint in question
    confirm(other_session, key)
    page = other_session.get("/dashboard/signing-keys?account=acme").content.decode()
    assert "confirmed by an owner" in page
    assert "nothing to confirm" in (
        other_session.get(f"/dashboard/signing-keys/{key.pk}/confirm").content.decode()
    )


# --- Revoking -----------------------------------------------------------------------


def test_a_revoked_key_signs_nothing_any_more(creator, other_session, model):
    key = key_of(creator)
    question = other_session.get(f"/dashboard/signing-keys/{key.pk}/revoke").content.decode()
    assert "go on to serve" in question
    assert key_of(creator).revoked_at is None

    assert other_session.post(f"/dashboard/signing-keys/{key.pk}/revoke").status_code == 302

    assert key_of(creator).state == "revoked"
    answer = creator.begin("acme/digits", FILES)
    assert (answer.status_code, answer.json()["code"]) == (409, "signing_key_revoked")
    assert creator.register().json()["code"] == "signing_key_revoked"
    assert actions()[-1] == "signing_key.revoke"


def test_approved_versions_of_a_revoked_key_go_on(creator, model, platform_admin, account):
    version = push(creator)
    approve(version, platform_admin)

    service.revoke_signing_key(key=key_of(creator), actor=_actor(account))

    version.refresh_from_db()
    assert version.state == "approved"


def test_versions_in_review_of_a_revoked_key_are_not_approved(
    creator, model, platform_admin, account
):
    version = push(creator)
    service.revoke_signing_key(key=key_of(creator), actor=_actor(account))

    assert_held(version, platform_admin, SigningKeyRevokedError, is_confirmed=True)
    assert "was revoked on" in doubt.find_doubts(version)[0].text


def test_revoking_twice_is_one_event(creator, account):
    for _ in range(2):
        service.revoke_signing_key(key=key_of(creator), actor=_actor(account))

    assert actions().count("signing_key.revoke") == 1


# --- The API ------------------------------------------------------------------------


def test_the_api_lists_keys_with_their_last_version(creator, later, model):
    push(creator)
    push(creator)

    answer = later.client.get("/api/signing-keys?account=acme")

    new, first = answer.json()["results"]
    assert (new["fingerprint"], new["state"], new["last_used_for"]) == (
        later.fingerprint,
        "new",
        None,
    )
    assert (first["state"], first["last_used_for"]) == ("trusted", "acme/digits:2")
    assert first["registered_by"] == "user:owner@example.com"
    assert "registered_session" not in first


def test_the_api_revokes(creator, later):
    answer = later.client.delete(f"/api/signing-keys/{key_of(creator).pk}")

    assert (answer.status_code, answer.json()["state"]) == (200, "revoked")


def test_the_api_confirms_nothing(later):
    """A token is what somebody may have stolen."""
    for method in ("post", "put", "patch"):
        answer = getattr(later.client, method)(f"/api/signing-keys/{key_of(later).pk}")
        assert answer.status_code == 405
    page = later.client.post(
        f"/dashboard/signing-keys/{key_of(later).pk}/confirm", {"password": PASSWORD}
    )
    assert page.status_code == 302
    assert page.url.startswith("/login")
    assert key_of(later).confirmed_at is None


# --- Mail ---------------------------------------------------------------------------


def test_the_owners_are_told_once(creator, later, account):
    MembershipFactory(account=account, user=UserFactory(email="b@example.com"), role="owner")
    MembershipFactory(account=account, user=UserFactory(email="dev@example.com"), role="developer")
    SigningKey.objects.filter(pk=key_of(creator).pk).update(mailed_at=timezone.now())

    mail_task()
    mail_task()

    (sent,) = mail.outbox
    assert sent.to == ["b@example.com", "owner@example.com"]
    # Told when it was registered: the second owner came later.
    assert {address for address, _ in list_told("signing_key")} == {"owner@example.com"}
    assert sent.subject == "A signing key was registered for acme"
    assert later.fingerprint in sent.body
    assert key_of(later).registered_by in sent.body
    assert "/dashboard/signing-keys?account=acme" in sent.body
    assert "not trusted yet" in sent.body


def test_the_first_key_is_told_as_well(creator):
    assert service.mail_signing_keys() == 1

    assert "first key" in mail.outbox[0].body


def test_a_mail_that_fails_is_tried_again(creator, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("no mail server")

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(service, "send_mail", fail)
        assert service.mail_signing_keys() == 0
    assert key_of(creator).mailed_at is None

    assert service.mail_signing_keys() == 1


def test_old_news_and_revoked_keys_are_not_mailed(creator, later):
    age(key_of(creator), service.MAIL_WITHIN)
    SigningKey.objects.filter(pk=key_of(later).pk).update(revoked_at=timezone.now())

    assert service.mail_signing_keys() == 0


def test_a_worker_is_asked_as_soon_as_a_key_is_there(
    owner_client, account, monkeypatch, django_capture_on_commit_callbacks
):
    asked = []
    monkeypatch.setattr(service.tasks.mail_signing_keys, "delay", lambda: asked.append(1))
    with django_capture_on_commit_callbacks(execute=True):
        machine = Creator(owner_client)
        machine.register()
        machine.register()

    assert asked == [1]


# --- The console and the command ----------------------------------------------------


def act(client, version: ModelVersion, **form: str):
    body = {"action": "approve", "_selected_action": [str(version.pk)], **form}
    return client.post(VERSIONS, body)


def test_the_console_asks_about_a_new_key(later, model, admin_client):
    version = push(later)
    age(key_of(later), DAY)
    box = f"confirmed-{version.pk}"

    question = act(admin_client, version).content.decode()
    assert later.fingerprint in question
    assert box in question
    answered = {"confirmed": "yes", "reason": "Fine."}
    page = act(admin_client, version, **answered)
    told = [str(one) for one in admin_client.get(page.url).context["messages"]]
    assert "Signed by a new key" in told[0]
    version.refresh_from_db()
    assert version.state == "in_review"

    act(admin_client, version, **answered, **{box: "on"})

    version.refresh_from_db()
    assert version.state == "approved"
    assert key_of(later).state == "trusted"


def test_the_console_asks_nothing_about_a_trusted_key(creator, model, admin_client):
    version = push(creator)

    assert "confirmed-" not in act(admin_client, version).content.decode()


def test_what_creators_call_themselves_is_text(later, model, admin_client):
    """Django shows a field's help as it is, and an address may hold a tag."""
    version = push(later)
    SigningKey.objects.update(registered_by='user:"<script>alert(1)</script>"@example.com')

    question = act(admin_client, version).content.decode()

    assert "&lt;script&gt;" in question
    assert "<script>alert" not in question


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_the_command_asks_as_well(later, model, platform_admin, is_confirmed):
    version = push(later)
    age(key_of(later), DAY)
    flags = ["--approve", "--reason", "Fine.", "--email", "admin@example.com"]

    if is_confirmed:
        call_command(
            "review_version", str(version.pk), *flags, "--key-confirmed", stdout=io.StringIO()
        )
    else:
        with pytest.raises(CommandError, match="signing_key_unconfirmed"):
            call_command("review_version", str(version.pk), *flags)

    version.refresh_from_db()
    assert version.state == ("approved" if is_confirmed else "in_review")


def test_the_clock_is_what_ends_the_first_day(later, model, platform_admin):
    version = push(later)
    with time_machine.travel(timezone.now() + DAY, tick=True):
        approve(version, platform_admin, is_confirmed=True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("first", ["approving", "revoking"])
def test_approving_and_revoking_take_turns(
    later, model, platform_admin, account, monkeypatch, first
):
    """Whoever has the key's row goes first, and neither ever waits for one that waits for it."""
    version = push(later)
    age(key_of(later), DAY)
    results: list[str] = []
    has_lock = threading.Event()
    real = service._lock

    def lock(key: SigningKey) -> SigningKey:
        if threading.current_thread().name != first:
            assert has_lock.wait(60)
        locked = real(key)
        has_lock.set()
        return locked

    monkeypatch.setattr(service, "_lock", lock)

    def approving() -> None:
        try:
            approve(ModelVersion.objects.get(pk=version.pk), platform_admin, is_confirmed=True)
            results.append("approved")
        except SigningKeyRevokedError:
            results.append("held")
        finally:
            connections.close_all()

    def revoking() -> None:
        try:
            service.revoke_signing_key(key=key_of(later), actor=_actor(account))
            results.append("revoked")
        finally:
            connections.close_all()

    threads = [
        threading.Thread(target=target, name=target.__name__) for target in (approving, revoking)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    version.refresh_from_db()
    assert sorted(results) == (
        ["approved", "revoked"] if first == "approving" else ["held", "revoked"]
    )
    assert version.state == ("approved" if first == "approving" else "in_review")
    assert key_of(later).state == "revoked"


def test_the_answer_of_the_api_is_json_all_through(creator):
    listed = selectors.list_signing_keys(key_of(creator).account)
    assert json.dumps([selectors.describe_signing_key(one) for one in listed])
