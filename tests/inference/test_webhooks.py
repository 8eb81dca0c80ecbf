"""Webhooks: told in the transaction, signed, brought at least once, and to nobody else."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import psycopg
import pytest
from django.core import mail
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from inference.core import webhook_signature
from inference.core.calling import ANSWER_BYTES_MAX, RETRY_AFTER_S_MAX, URL_LENGTH_MAX
from inference.errors import TooManyWebhooksError
from inference.models import (
    Prediction,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookSecret,
)
from inference.models.webhook import DESCRIPTION_LENGTH_MAX, HISTORY_KEPT
from inference.selectors import webhook as selectors
from inference.services import webhook, webhook_delivery, webhook_secret
from inference.services.webhook_delivery import RETRY_S, send_webhooks
from marketplace.core.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    LimitExceededError,
    NotFoundError,
)
from marketplace.core.ids import lowest_id, new_id, to_public
from marketplace.models import AuditEvent, Membership, Notification
from marketplace.selectors.access import Actor
from marketplace.services.notice import mail_notices
from tests.factories import AccountFactory, AIModelFactory, MembershipFactory, ModelVersionFactory
from tests.inboxes import list_told
from tests.inference.hooked import add, finish, make_due, note
from tests.inference.receivers import receive

pytestmark = pytest.mark.django_db

OTHER = "https://93.184.216.34/hook"


@pytest.fixture
def receiver():
    with receive() as found:
        yield found


@pytest.fixture
def actor(owner, account) -> Actor:
    return Actor(user=owner)


@pytest.fixture
def version(account):
    return ModelVersionFactory(model=AIModelFactory(account=account, name="digits"))


@pytest.fixture
def endpoint(actor, account, receiver) -> WebhookEndpoint:
    made, made.secret = add(actor, account, receiver.url)
    return made


def only() -> WebhookDelivery:
    return WebhookDelivery.objects.get()


# --- The outbox ---------------------------------------------------------------------


def test_an_event_is_there_if_its_transaction_is(account, version, endpoint):
    with transaction.atomic():
        finish(account, version)
        transaction.set_rollback(True)
    assert not WebhookEvent.objects.exists()

    finish(account, version)

    assert WebhookEvent.objects.get().type == "prediction.completed"


def die_after(account, version, *, told_inside: bool) -> None:
    """A writer that is killed right after its commit."""
    with transaction.atomic():
        now = timezone.now()
        one = Prediction.objects.create(
            id=new_id(), account_id=account.pk, version=version, state="succeeded", created_at=now
        )
        if told_inside:
            note(account.pk, "prediction.completed", one.pk)
    raise KeyboardInterrupt


def test_control_without_the_row_in_the_transaction_an_event_is_lost(
    account, version, endpoint, receiver
):
    with pytest.raises(KeyboardInterrupt):
        die_after(account, version, told_inside=False)
    assert send_webhooks() == 0
    assert receiver.seen == []

    with pytest.raises(KeyboardInterrupt):
        die_after(account, version, told_inside=True)
    assert send_webhooks() == 1
    assert len(receiver.seen) == 1


def test_nothing_is_noted_where_nobody_wants_to_be_told(actor, account, version, receiver):
    finish(account, version)
    assert not WebhookEvent.objects.exists()

    finish(account, version, url=receiver.url)
    assert WebhookEvent.objects.count() == 1
    made, _ = add(actor, account, OTHER)
    finish(account, version)
    assert WebhookEvent.objects.count() == 2
    webhook.change_endpoint(actor=actor, endpoint=made, changes={"is_enabled": False})
    finish(account, version)
    assert WebhookEvent.objects.count() == 2


def test_noting_fails_at_nothing(account, endpoint):
    for kind in ("start!", "x" * 200, ""):
        note(account.pk, kind, None)
    note(new_id(), "completed", new_id(), "y" * 5_000, ["z" * 500])

    types = list(WebhookEvent.objects.order_by("id").values_list("type", flat=True))
    assert types == ["start!", "x" * 32, "", "prediction.completed"]
    assert send_webhooks() == 0
    # What nobody knows is told to nobody, and looked at once.
    assert not WebhookDelivery.objects.exists()
    assert not WebhookEvent.objects.filter(spread_at=None).exists()


@pytest.mark.django_db(transaction=True)
def test_the_gateway_may_note_and_not_write(account, database_urls):
    with psycopg.connect(database_urls["gateway"], autocommit=True) as gateway:
        gateway.execute(
            "SELECT inference_note_event(%s, 'completed', %s, 'https://x.example/')",
            [account.pk, new_id()],
        )
        for statement in (
            "INSERT INTO inference_webhookevent (id) VALUES (gen_random_uuid())",
            "SELECT * FROM inference_webhookevent",
            "SELECT * FROM inference_webhooksecret",
            "SELECT * FROM inference_webhookendpoint",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                gateway.execute(statement)
    assert WebhookEvent.objects.get().account_id == account.pk
    with (
        psycopg.connect(database_urls["keybroker"], autocommit=True) as broker,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        broker.execute("SELECT inference_note_event(%s, 'ping', NULL)", [account.pk])


# --- What is sent -------------------------------------------------------------------


def test_an_endpoint_gets_a_signed_envelope(account, version, endpoint, receiver):
    prediction = finish(account, version, input={"x": 1}, output={"y": 2})

    assert send_webhooks() == 1

    (got,) = receiver.seen
    document = got.verify(endpoint.secret)
    assert (document["type"], set(document)) == (
        "prediction.completed",
        {"type", "timestamp", "data"},
    )
    data = document["data"]
    assert data["id"] == to_public(prediction.pk)
    assert (data["status"], data["model"]) == ("succeeded", "acme/digits")
    assert (data["input"], data["output"], data["data_removed"]) == ({"x": 1}, {"y": 2}, False)
    assert got.headers["content-type"] == "application/json"
    assert "." not in got.headers["webhook-id"]
    delivery = only()
    assert (delivery.state, delivery.attempts, delivery.last_error) == ("succeeded", 1, "")
    endpoint.refresh_from_db()
    assert endpoint.last_success_at is not None


def test_control_a_changed_body_is_not_believed(account, version, endpoint, receiver):
    finish(account, version)
    send_webhooks()
    (got,) = receiver.seen

    assert got.verify(endpoint.secret)
    got.body = got.body.replace(b"succeeded", b"failed   ")
    with pytest.raises(WebhookVerificationError):
        got.verify(endpoint.secret)


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp"])
def test_control_a_changed_header_is_not_believed(account, version, endpoint, receiver, header):
    finish(account, version)
    send_webhooks()
    (got,) = receiver.seen

    # Within what is believed of a clock, and not the moment of the sending itself.
    got.headers[header] = f"{int(time.time()) - 60}"
    with pytest.raises(WebhookVerificationError):
        got.verify(endpoint.secret)


def test_a_prediction_s_own_webhook_gets_the_bare_object(actor, account, version, receiver):
    prediction = finish(account, version, url=receiver.url, output={"y": 2})

    assert send_webhooks() == 1

    _, secret = webhook.show_default_secret(actor=actor, account=account)
    document = receiver.seen[0].verify(secret)
    assert document["id"] == to_public(prediction.pk)
    assert document["output"] == {"y": 2}
    assert set(document["urls"]) == {"get", "cancel", "web", "stream"}
    # Its log keeps no address that opens anything.
    assert "signature" not in json.dumps(document)


def test_what_is_not_kept_is_null(account, version, endpoint, receiver):
    finish(account, version, input=None, output=None)
    send_webhooks()

    data = receiver.seen[0].verify(endpoint.secret)["data"]
    assert (data["input"], data["output"], data["data_removed"]) == (None, None, True)


def test_what_was_forgotten_meanwhile_is_null(account, version, endpoint, receiver):
    receiver.plan = [500]
    prediction = finish(account, version, input={"x": "secret"}, output={"y": "secret"})
    send_webhooks()
    # Nothing of it stands in the outbox.
    assert "secret" not in json.dumps(list(WebhookEvent.objects.values()), default=str)
    assert "secret" not in json.dumps(list(WebhookDelivery.objects.values()), default=str)
    Prediction.objects.filter(pk=prediction.pk).update(input=None, output=None)
    make_due()
    send_webhooks()

    first, second = receiver.seen
    assert b"secret" in first.body
    assert b"secret" not in second.body


def test_of_a_prediction_that_is_gone_only_its_name_is_told(account, endpoint, receiver):
    prediction_id = new_id()
    note(account.pk, "start", prediction_id)
    send_webhooks()

    document = receiver.seen[0].verify(endpoint.secret)
    assert document["type"] == "prediction.started"
    assert document["data"] == {"id": to_public(prediction_id), "data_removed": True}


def test_another_account_s_prediction_is_not_shown(account, version, endpoint, receiver):
    stranger = AccountFactory(slug="stranger")
    theirs = Prediction.objects.create(
        id=new_id(),
        account_id=stranger.pk,
        version=version,
        state="succeeded",
        output="theirs",
        created_at=timezone.now(),
    )
    note(account.pk, "completed", theirs.pk)
    send_webhooks()

    assert b"theirs" not in receiver.seen[0].body


@pytest.mark.parametrize("more", [0, 1])
def test_a_body_at_the_limit_and_one_past_it(account, version, endpoint, receiver, more):
    finish(account, version, output="")
    send_webhooks()
    rest = webhook_delivery.BODY_BYTES_MAX - len(receiver.seen.pop().body)
    output = "x" * (rest + more)
    finish(account, version, output=output)
    send_webhooks()

    data = receiver.seen[0].verify(endpoint.secret)["data"]
    assert data["output"] == (None if more else output)
    assert data["urls"]["get"].endswith(data["id"])
    assert len(receiver.seen[0].body) <= webhook_delivery.BODY_BYTES_MAX


@pytest.mark.parametrize(
    ("chosen", "kind", "is_told"),
    [
        ([], "prediction.logs", True),
        (["prediction.completed"], "prediction.completed", True),
        (["prediction.completed"], "prediction.started", False),
    ],
)
def test_endpoints_get_what_they_have_chosen(
    actor, account, version, receiver, chosen, kind, is_told
):
    add(actor, account, receiver.url, events=chosen)
    finish(account, version, kind=kind)

    assert send_webhooks() == is_told


@pytest.mark.parametrize(
    ("chosen", "kind", "is_told"),
    [
        ([], "logs", True),
        (["completed"], "completed", True),
        (["start", "completed"], "start", True),
        (["prediction.started"], "start", True),
        (["completed"], "start", False),
        (["nonsense"], "completed", False),
    ],
)
def test_a_prediction_s_own_filter_knows_both_names(
    account, version, receiver, chosen, kind, is_told
):
    finish(account, version, url=receiver.url, events=chosen, kind=kind)

    assert send_webhooks() == is_told


# --- How it goes --------------------------------------------------------------------


def test_500_then_200_arrives_once_more_under_the_same_id(account, version, endpoint, receiver):
    receiver.plan, receiver.answer = [500], b"no \x00 luck"
    finish(account, version)

    assert send_webhooks() == 0
    delivery = only()
    assert (delivery.state, delivery.last_error) == ("waiting", "It answered 500.")
    wait_s = (delivery.next_at - timezone.now()).total_seconds()
    assert 0 < wait_s <= RETRY_S[0] * 1.1
    endpoint.refresh_from_db()
    assert endpoint.failing_since is not None
    assert send_webhooks() == 0
    assert len(receiver.seen) == 1

    make_due()
    assert send_webhooks() == 1
    first, second = receiver.seen
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    second.verify(endpoint.secret)
    statuses = list(WebhookAttempt.objects.order_by("id").values_list("status", "answer"))
    assert [one for one, _ in statuses] == [500, 204]
    assert statuses[0][1] == "no \N{REPLACEMENT CHARACTER} luck"
    endpoint.refresh_from_db()
    assert endpoint.failing_since is None


def test_it_is_tried_over_three_days_and_then_given_up(account, version, endpoint, receiver):
    assert 3 * 86_400 < sum(RETRY_S) < 4 * 86_400
    assert list(RETRY_S) == sorted(RETRY_S)
    receiver.status = 500
    finish(account, version)
    waits = []
    for _ in RETRY_S:
        send_webhooks()
        waits.append((only().next_at - timezone.now()).total_seconds())
        make_due()
    assert only().state == "waiting"
    send_webhooks()

    delivery = only()
    assert (delivery.state, delivery.attempts) == ("failed", len(RETRY_S) + 1)
    for wait_s, wanted_s in zip(waits, RETRY_S, strict=True):
        assert wanted_s * 0.9 <= wait_s <= wanted_s * 1.1
    assert len(receiver.seen) == len(RETRY_S) + 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_failures(account, version, endpoint, receiver, status):
    receiver.status, receiver.headers = status, {"Location": receiver.url.replace("hook", "other")}
    finish(account, version)
    send_webhooks()

    assert [one.path for one in receiver.seen] == ["/hook"]
    assert only().last_error == f"It answered {status}: redirects are not followed."


@pytest.mark.parametrize(
    ("said", "wait_s"), [("600", 600), ("9" * 20, RETRY_AFTER_S_MAX), ("soon", 5), ("-3", 5)]
)
def test_retry_after_is_honoured_up_to_a_day(account, version, endpoint, receiver, said, wait_s):
    receiver.status, receiver.headers = 429, {"Retry-After": said}
    finish(account, version)
    send_webhooks()

    assert (only().next_at - timezone.now()).total_seconds() == pytest.approx(wait_s, abs=3)


def test_410_turns_the_endpoint_off_and_its_owner_is_told(account, version, endpoint, receiver):
    receiver.status = 410
    finish(account, version)
    finish(account, version)
    send_webhooks()

    endpoint.refresh_from_db()
    assert (endpoint.is_enabled, endpoint.disabled_reason) == (False, "gone")
    assert set(WebhookDelivery.objects.values_list("state", flat=True)) == {"failed"}
    title = "acme: a webhook endpoint was turned off"
    assert list_told(Notification.Kind.ACCOUNT) == [("owner@example.com", title)]
    assert mail_notices() == 1
    (sent,) = mail.outbox
    assert (sent.to, sent.subject) == (["owner@example.com"], title)
    assert f"/console/webhooks/{endpoint.pk}" in sent.body
    # The path of an address may be a secret.
    assert "/hook" not in sent.body
    finish(account, version)
    assert WebhookEvent.objects.count() == 2


def test_410_ends_a_prediction_s_own_webhook(account, version, receiver):
    receiver.status = 410
    finish(account, version, url=receiver.url)
    send_webhooks()

    assert (only().state, only().attempts) == ("failed", 1)


@pytest.mark.parametrize(("since_h", "is_enabled"), [(71, True), (72.01, False)])
def test_failing_for_three_days_turns_it_off(
    account, version, endpoint, receiver, since_h, is_enabled
):
    receiver.status = 500
    since = timezone.now() - timedelta(hours=since_h)
    WebhookEndpoint.objects.update(failing_since=since)
    finish(account, version)
    send_webhooks()

    endpoint.refresh_from_db()
    assert endpoint.is_enabled is is_enabled
    assert len(list_told(Notification.Kind.ACCOUNT)) == (not is_enabled)


def test_a_slow_receiver_is_cut(account, version, endpoint, receiver, monkeypatch):
    monkeypatch.setattr(webhook_delivery, "CALL_LIMIT_S", 0.5)
    receiver.slow_s = 20
    finish(account, version)
    began_s = time.monotonic()
    send_webhooks()

    assert time.monotonic() - began_s < 10
    assert only().last_error == "The server took longer than 0.5 s."
    assert WebhookAttempt.objects.get().status is None


@pytest.mark.parametrize("answer", [b"z" * 300_000, b"z"], ids=["much at once", "little for ever"])
def test_an_endless_answer_is_cut(account, version, endpoint, receiver, monkeypatch, answer):
    monkeypatch.setattr(webhook_delivery, "CALL_LIMIT_S", 1.0)
    receiver.status, receiver.answer, receiver.endless_s = 200, answer, 20
    finish(account, version)
    began_s = time.monotonic()
    assert send_webhooks() == 1

    assert time.monotonic() - began_s < 10
    kept = WebhookAttempt.objects.get().answer
    assert set(kept) == {"z"}
    assert len(kept) <= ANSWER_BYTES_MAX
    assert len(kept) == ANSWER_BYTES_MAX or len(answer) == 1


def test_nobody_listens(actor, account, version):
    add(actor, account, "http://127.0.0.1:9/hook")
    finish(account, version)
    send_webhooks()

    assert only().last_error == "The server could not be reached."


# --- Killed at any point ------------------------------------------------------------


@pytest.mark.parametrize("point", ["_space_out", "make_message", "_call", "_record"])
def test_killed_at_any_point_it_is_sent_all_the_same(
    account, version, endpoint, receiver, monkeypatch, point
):
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    finish(account, version)
    with monkeypatch.context() as patch:
        patch.setattr(webhook_delivery, point, die)
        with pytest.raises(Killed):
            send_webhooks()
    seen_before = len(receiver.seen)
    # A lease that somebody living holds is left alone.
    assert send_webhooks() == (point == "_space_out")
    WebhookDelivery.objects.filter(leased_until__isnull=False).update(next_at=timezone.now())
    send_webhooks()

    assert only().state == "succeeded"
    assert len(receiver.seen) == seen_before + 1
    assert len({one.headers["webhook-id"] for one in receiver.seen}) == 1


def test_what_a_late_try_says_does_not_undo_a_newer_one(account, version, endpoint, receiver):
    finish(account, version)
    webhook_delivery.spread_events()
    (late,) = webhook_delivery._claim()
    make_due()
    receiver.status = 500
    send_webhooks()
    before = only()
    failed = webhook_delivery.Outcome(timezone.now(), 1, None, "Too late.")
    webhook_delivery._record(late, failed)

    assert (only().state, only().tries) == ("waiting", before.tries)
    assert only().next_at == before.next_at
    # A success is one, whoever brings it.
    good = webhook_delivery.Outcome(timezone.now(), 1, None, "")
    webhook_delivery._record(late, good)
    assert only().state == "succeeded"


def test_spreading_twice_makes_one(account, version, endpoint):
    finish(account, version)
    webhook_delivery.spread_events()
    WebhookEvent.objects.update(spread_at=None)
    webhook_delivery.spread_events()

    assert WebhookDelivery.objects.count() == 1


def test_an_account_with_much_to_send_does_not_hold_up_others(actor, account, version, receiver):
    add(actor, account, receiver.url)
    for _ in range(30):
        finish(account, version)
    small = AccountFactory(slug="small")
    finish(small, version, url=receiver.url)
    webhook_delivery.spread_events()

    claimed = webhook_delivery._claim()

    owners = [one.account_id for one in claimed]
    assert owners.count(account.pk) == webhook_delivery.CALLS_PER_ACCOUNT_MAX
    assert owners.count(small.pk) == 1
    WebhookDelivery.objects.update(next_at=timezone.now(), leased_until=None)
    assert send_webhooks() == 31


# --- Distances ----------------------------------------------------------------------


def test_output_is_told_at_a_distance_and_the_newest_wins(account, version, endpoint, receiver):
    prediction = finish(account, version, kind="output")
    assert send_webhooks() == 1
    for kind in ("output", "output", "logs", "output", "completed"):
        note(account.pk, kind, prediction.pk)
    newest = WebhookEvent.objects.filter(type="prediction.output").latest("id")
    webhook_delivery.spread_events()

    outputs = list(WebhookDelivery.objects.filter(type="prediction.output").order_by("due_at"))
    first, second = outputs
    assert second.event_id == newest.pk
    assert second.due_at - first.due_at >= webhook_delivery.GAP
    assert WebhookDelivery.objects.filter(type="prediction.logs").count() == 1
    assert WebhookDelivery.objects.filter(type="prediction.completed").count() == 1
    # One more takes the place of the one that waits.
    note(account.pk, "output", prediction.pk)
    webhook_delivery.spread_events()
    second.refresh_from_db()
    third = WebhookDelivery.objects.filter(type="prediction.output").latest("event_id")
    assert (second.state, third.state, third.due_at) == ("skipped", "waiting", second.due_at)
    make_due()
    send_webhooks()
    told = [json.loads(one.body)["type"] for one in receiver.seen]
    assert sorted(told) == sorted(
        ["prediction.output"] * 2 + ["prediction.logs", "prediction.completed"]
    )


def test_control_without_the_distance_all_are_told(
    account, version, endpoint, receiver, monkeypatch
):
    monkeypatch.setattr(webhook_delivery, "THROTTLED", frozenset())
    prediction = finish(account, version, kind="output")
    for _ in range(3):
        note(account.pk, "output", prediction.pk)
    assert send_webhooks() == 4


def test_two_predictions_keep_no_distance(account, version, endpoint, receiver):
    finish(account, version, kind="output")
    finish(account, version, kind="output")

    assert send_webhooks() == 2


# --- Replays ------------------------------------------------------------------------


def test_a_replay_is_the_same_message_once_more(actor, account, version, endpoint, receiver):
    finish(account, version)
    send_webhooks()
    webhook.replay(actor=actor, delivery=only())
    with pytest.raises(ConflictError):
        webhook.replay(actor=actor, delivery=only())
    assert send_webhooks() == 1

    first, second = receiver.seen
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    second.verify(endpoint.secret)
    assert (only().attempts, only().tries) == (2, 1)
    assert AuditEvent.objects.filter(action="webhook.replay").count() == 1


def test_what_waits_can_be_tried_now_unless_it_is_on_its_way(
    actor, account, version, endpoint, receiver
):
    receiver.plan = [500]
    finish(account, version)
    send_webhooks()
    webhook.replay(actor=actor, delivery=only())
    webhook_delivery._claim()

    with pytest.raises(ConflictError):
        webhook.replay(actor=actor, delivery=only())


def test_all_that_failed_is_sent_once_more(actor, account, version, endpoint, receiver):
    for _ in range(3):
        finish(account, version)
    webhook_delivery.spread_events()
    WebhookDelivery.objects.update(state="failed", ended_at=timezone.now())
    old = WebhookDelivery.objects.earliest("id")
    WebhookDelivery.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=2))
    since = timezone.now() - timedelta(days=1)

    assert webhook.replay_failed(actor=actor, endpoint=endpoint, since=since) == 2
    # Sent twice, it does it once.
    assert webhook.replay_failed(actor=actor, endpoint=endpoint, since=since) == 0
    assert send_webhooks() == 2


def test_replays_at_the_limit_and_one_past_it(
    actor, account, version, endpoint, receiver, monkeypatch
):
    monkeypatch.setattr(webhook, "REPLAYS_AT_ONCE_MAX", 2)
    for _ in range(3):
        finish(account, version)
    webhook_delivery.spread_events()
    WebhookDelivery.objects.update(state="failed", ended_at=timezone.now())
    since = timezone.now() - timedelta(hours=1)

    assert webhook.replay_failed(actor=actor, endpoint=endpoint, since=since) == 2
    assert webhook.replay_failed(actor=actor, endpoint=endpoint, since=since) == 1
    with pytest.raises(InvalidInputError):
        webhook.replay_failed(
            actor=actor, endpoint=endpoint, since=timezone.now() - timedelta(days=40)
        )


def test_to_an_endpoint_that_is_off_nothing_is_replayed(actor, account, version, endpoint):
    finish(account, version)
    webhook_delivery.spread_events()
    off = webhook.change_endpoint(actor=actor, endpoint=endpoint, changes={"is_enabled": False})

    assert (only().state, only().last_error) == ("failed", "The endpoint was turned off.")
    for call in (
        lambda: webhook.replay(actor=actor, delivery=only()),
        lambda: webhook.replay_failed(actor=actor, endpoint=off, since=timezone.now()),
        lambda: webhook.send_test(actor=actor, endpoint=off),
    ):
        with pytest.raises(ConflictError):
            call()
    on = webhook.change_endpoint(actor=actor, endpoint=off, changes={"is_enabled": True})
    assert (on.is_enabled, on.disabled_reason) == (True, "")
    webhook.replay(actor=actor, delivery=only())


def test_a_test_is_sent_once_and_says_so(actor, endpoint, receiver):
    receiver.status = 500
    webhook.send_test(actor=actor, endpoint=endpoint)
    send_webhooks()

    document = receiver.seen[0].verify(endpoint.secret)
    assert (document["type"], document["data"]["message"]) == ("ping", "This is a test.")
    assert only().state == "failed"
    endpoint.refresh_from_db()
    assert endpoint.failing_since is None


def test_tests_at_the_limit_and_one_past_it(actor, endpoint):
    for _ in range(webhook.TESTS_PER_MINUTE_MAX):
        webhook.send_test(actor=actor, endpoint=endpoint)
    with pytest.raises(LimitExceededError):
        webhook.send_test(actor=actor, endpoint=endpoint)


# --- Secrets ------------------------------------------------------------------------


def test_while_a_secret_changes_both_sign(actor, account, version, endpoint, receiver):
    changed, new = webhook.rotate_secret(actor=actor, endpoint=endpoint)
    assert changed.old_secret_until - timezone.now() == pytest.approx(
        timedelta(hours=24), abs=timedelta(minutes=1)
    )
    finish(account, version)
    send_webhooks()
    (got,) = receiver.seen
    assert got.headers["webhook-signature"].count("v1,") == 2
    assert got.verify(endpoint.secret) == got.verify(new)

    WebhookEndpoint.objects.update(old_secret_until=timezone.now())
    finish(account, version)
    send_webhooks()
    receiver.seen[1].verify(new)
    with pytest.raises(WebhookVerificationError):
        receiver.seen[1].verify(endpoint.secret)


def test_a_secret_that_is_changed_twice_at_once_keeps_the_one_that_is_used(actor, endpoint):
    webhook.rotate_secret(actor=actor, endpoint=endpoint)
    with pytest.raises(ConflictError):
        webhook.rotate_secret(actor=actor, endpoint=endpoint)
    ended = webhook.end_old_secret(actor=actor, endpoint=endpoint)
    assert ended.old_secret_until is None
    assert len(webhook_secret.list_keys(ended, timezone.now())) == 1
    webhook.rotate_secret(actor=actor, endpoint=endpoint)


def test_the_default_secret_stays_and_can_be_changed(actor, account):
    _, first = webhook.show_default_secret(actor=actor, account=account)
    _, again = webhook.show_default_secret(actor=actor, account=account)
    row, second = webhook.rotate_default_secret(actor=actor, account=account)

    assert first == again != second
    assert len(webhook_secret.list_keys(row, timezone.now())) == 2
    assert WebhookSecret.objects.count() == 1
    assert second.startswith("whsec_")


def test_no_secret_stands_in_the_database(actor, endpoint):
    key = Webhook(endpoint.secret)._whsecret
    sealed = bytes(endpoint.sealed_secret)

    assert len(key) == webhook_secret.SECRET_BYTES
    assert key not in sealed
    # Nor does a row that is copied to another open.
    other = WebhookEndpoint(account=endpoint.account, sealed_secret=sealed)
    with pytest.raises(webhook_secret.SecretLostError):
        webhook_secret.list_keys(other, timezone.now())


def test_a_secret_that_cannot_be_opened_is_told(
    actor, account, version, endpoint, settings, receiver
):
    settings.SECRET_KEY = "another secret of the platform, long enough for it"
    finish(account, version)
    send_webhooks()

    assert receiver.seen == []
    assert only().last_error == "The signing secret cannot be read any more. Change it."
    _, new = webhook.rotate_secret(actor=actor, endpoint=endpoint)
    make_due()
    assert send_webhooks() == 1
    assert receiver.seen[0].verify(new)


def test_signatures_are_those_of_the_standard():
    # The example of the library: https://www.standardwebhooks.com
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    now = timezone.now()
    key = Webhook(secret)._whsecret
    headers = webhook_signature.sign([key], message_id="msg_1", now=now, body=b'{"a":1}')

    assert webhook_signature.write_secret(key) == secret
    assert headers["webhook-signature"] == Webhook(secret).sign("msg_1", now, '{"a":1}')


# --- Endpoints ----------------------------------------------------------------------


def test_endpoints_at_the_limit_and_one_past_it(actor, account):
    for number in range(webhook.ENDPOINTS_PER_ACCOUNT_MAX):
        add(actor, account, f"{OTHER}/{number}")
    with pytest.raises(TooManyWebhooksError):
        add(actor, account, OTHER)


def test_what_is_sent_twice_makes_one(actor, account):
    made, _ = add(actor, account, OTHER)
    with pytest.raises(ConflictError):
        add(actor, account, OTHER)
    second, _ = add(actor, account, f"{OTHER}/2")
    with pytest.raises(ConflictError):
        webhook.change_endpoint(actor=actor, endpoint=second, changes={"url": made.url})
    assert WebhookEndpoint.objects.count() == 2


@pytest.mark.parametrize("more", [0, 1])
def test_lengths_at_the_limit_and_one_past_it(actor, account, more):
    url = OTHER + "x" * (URL_LENGTH_MAX - len(OTHER))
    values = [
        {"url": url + "x" * more},
        {"url": OTHER, "description": "d" * (DESCRIPTION_LENGTH_MAX + more)},
    ]
    for fields in values:
        if more:
            with pytest.raises(InvalidInputError):
                add(actor, account, **fields)
        else:
            add(actor, account, **fields)


def test_events_are_known_ones(actor, account):
    made, _ = add(actor, account, OTHER, events=[str(one) for one in webhook.CHOICES])
    assert made.events == []
    for wrong in (["ping"], ["prediction.nothing"], ["completed"]):
        with pytest.raises(InvalidInputError):
            add(actor, account, f"{OTHER}/2", events=wrong)


def test_others_may_do_nothing(account, endpoint, outsider, version):
    finish(account, version)
    webhook_delivery.spread_events()
    stranger = Actor(user=outsider)
    viewer = MembershipFactory(account=account, role=Membership.Role.VIEWER).user

    with pytest.raises(NotFoundError):
        selectors.access_endpoint(stranger, endpoint.pk)
    with pytest.raises(NotFoundError):
        selectors.access_delivery(stranger, only().pk)
    with pytest.raises(ForbiddenError):
        selectors.access_endpoint(Actor(user=viewer), endpoint.pk)
    calls = {
        "add": lambda actor: add(actor, account, OTHER),
        "change": lambda actor: webhook.change_endpoint(actor=actor, endpoint=endpoint, changes={}),
        "remove": lambda actor: webhook.remove_endpoint(actor=actor, endpoint=endpoint),
        "rotate": lambda actor: webhook.rotate_secret(actor=actor, endpoint=endpoint),
        "end": lambda actor: webhook.end_old_secret(actor=actor, endpoint=endpoint),
        "show": lambda actor: webhook.show_default_secret(actor=actor, account=account),
        "rotate default": lambda actor: webhook.rotate_default_secret(actor=actor, account=account),
        "test": lambda actor: webhook.send_test(actor=actor, endpoint=endpoint),
        "replay": lambda actor: webhook.replay(actor=actor, delivery=only()),
        "replay failed": lambda actor: webhook.replay_failed(
            actor=actor, endpoint=endpoint, since=timezone.now()
        ),
    }
    for call in calls.values():
        for who in (stranger, Actor(user=viewer)):
            with pytest.raises(ForbiddenError):
                call(who)


def test_what_people_change_is_in_the_log_without_secrets(actor, account, endpoint):
    webhook.change_endpoint(actor=actor, endpoint=endpoint, changes={"is_enabled": False})
    webhook.rotate_secret(actor=actor, endpoint=endpoint)
    webhook.show_default_secret(actor=actor, account=account)
    webhook.remove_endpoint(actor=actor, endpoint=endpoint)

    events = AuditEvent.objects.filter(account_id=account.pk)
    actions = set(events.values_list("action", flat=True))
    assert actions >= {
        *("webhook.add", "webhook.change", "webhook.rotate", "webhook.remove"),
        "webhook_secret.show",
    }
    told = json.dumps(list(events.values_list("payload", flat=True)))
    assert "whsec_" not in told
    assert "/hook" not in told


# --- Forgetting ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("past", "is_kept"), [(timedelta(hours=-1), True), (timedelta(hours=1), False)]
)
def test_what_is_old_is_forgotten(account, version, endpoint, receiver, past, is_kept):
    finish(account, version)
    send_webhooks()
    old_id = lowest_id(timezone.now() - HISTORY_KEPT - past)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        cursor.execute("UPDATE inference_webhookevent SET id = %s", [old_id])
        cursor.execute("UPDATE inference_webhookdelivery SET event_id = %s", [old_id])

    assert webhook_delivery.forget_webhooks() == (not is_kept)
    assert WebhookDelivery.objects.exists() is is_kept
    assert WebhookAttempt.objects.exists() is is_kept


def test_an_endpoint_that_is_deleted_takes_what_waits_along(actor, account, version, endpoint):
    finish(account, version)
    webhook_delivery.spread_events()
    claimed = webhook_delivery._claim()
    webhook.remove_endpoint(actor=actor, endpoint=endpoint)
    # What is under way when it goes is written down nowhere.
    webhook_delivery._record(claimed[0], webhook_delivery.Outcome(timezone.now(), 1, None, ""))

    assert not WebhookDelivery.objects.exists()
    assert send_webhooks() == 0


def test_an_endpoint_is_in_an_account_once(endpoint):
    with pytest.raises(DatabaseError), transaction.atomic():
        WebhookEndpoint.objects.create(account=endpoint.account, url=endpoint.url)
