"""Rules: when they fire, what is told of it, and what is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core import mail

from inference.core import histogram
from inference.models import (
    SLO,
    AlertChannel,
    AlertDelivery,
    AlertEvent,
    AlertRule,
    Deployment,
    Metric,
    MetricCursor,
    Node,
    Replica,
)
from inference.selectors import alert as selectors
from inference.services import alert, outgoing
from inference.tasks import alert as tasks
from marketplace.core.errors import ForbiddenError, InvalidInputError, LimitExceededError
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel
from marketplace.selectors.access import Actor
from tests.factories import AIModelFactory, ModelVersionFactory
from tests.inboxes import list_told

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PAGE = "/dashboard/models/acme/digits/monitoring/alerts"


@pytest.fixture
def model(account: Account) -> AIModel:
    return AIModelFactory(account=account, name="digits", visibility="public")


@pytest.fixture
def clock(monkeypatch):
    """Moves the time of the alerts; the roll-up keeps up with it."""

    def set_time(moment: datetime) -> datetime:
        monkeypatch.setattr(alert, "utc_now", lambda: moment)
        MetricCursor.objects.update_or_create(name="fresh", defaults={"reached_at": moment})
        return moment

    set_time(NOW)
    return set_time


@pytest.fixture
def sent(monkeypatch) -> list[tuple[str, bytes, dict[str, str]]]:
    """What was posted; the server takes it."""
    posted: list[tuple[str, bytes, dict[str, str]]] = []
    monkeypatch.setattr(
        outgoing, "post", lambda url, *, body, headers: posted.append((url, body, headers))
    )
    return posted


@pytest.fixture
def asked(monkeypatch) -> list[bool]:
    asked: list[bool] = []
    monkeypatch.setattr(tasks.send_alerts, "delay", lambda: asked.append(True))
    return asked


def add(model: AIModel, ago: timedelta, *, now: datetime = NOW, **fields) -> Metric:
    at = (now - ago).replace(second=0, microsecond=0)
    return Metric.objects.create(
        model_id=model.pk,
        version_id=new_id(),
        resolution="minute",
        starts_at=at,
        **{"predictions": fields.get("succeeded", 0), **fields},
    )


def make_rule(model: AIModel, kind: str = "error_rate", **fields) -> AlertRule:
    numbers = {"threshold": 500, "window_s": 900, "count_min": 10, "cool_down_s": 900}
    return AlertRule.objects.create(model=model, kind=kind, **(numbers | fields))


def make_channel(model: AIModel, kind: str = "webhook", target: str = "https://h.example/x"):
    return AlertChannel.objects.create(model=model, kind=kind, target=target)


def look(rule: AlertRule) -> tuple[int | None, bool]:
    """After one run: what was measured, and whether it fires."""
    alert.evaluate_rules()
    rule.refresh_from_db()
    return rule.measured, rule.events.filter(resolved_at=None).exists()


# --- Kinds ------------------------------------------------------------------------


def test_error_rate_at_the_threshold_and_below(model, clock) -> None:
    row = add(model, 5 * MINUTE, succeeded=95, failed_model=5, canceled=50)
    rule = make_rule(model)
    assert look(rule) == (500, True)
    row.succeeded = 96
    row.failed_model = 4
    row.save()
    assert look(rule) == (400, False)


def test_too_few_say_nothing(model, clock) -> None:
    row = add(model, 5 * MINUTE, succeeded=4, failed_model=5)
    rule = make_rule(model)
    assert look(rule) == (None, False)
    row.succeeded = 5
    row.save()
    assert look(rule) == (5_000, True)


def test_what_lies_before_the_window_does_not_count(model, clock) -> None:
    add(model, 16 * MINUTE, failed_model=100)
    add(model, 14 * MINUTE, succeeded=100)
    assert look(make_rule(model)) == (0, False)


def test_p95(model, clock) -> None:
    slow = histogram.find_bucket(2_000_000)
    add(model, MINUTE, succeeded=20, latency_buckets=[10, slow], latency_counts=[18, 2])
    measured, fires = look(make_rule(model, "p95", threshold=1_900))
    assert fires
    assert measured == pytest.approx(2_000, rel=histogram.ERROR_MAX)
    assert not look(make_rule(model, "p95", threshold=2_200))[1]


def test_no_traffic_after_some_and_never_any(model, clock) -> None:
    rule = make_rule(model, "no_traffic", threshold=1)
    assert look(rule) == (None, False)
    add(model, timedelta(hours=3), succeeded=10)
    assert look(rule) == (1, True)
    add(model, 2 * MINUTE, succeeded=1)
    assert look(rule) == (0, False)


def test_revenue_drop_against_the_day_before(model, clock) -> None:
    add(model, timedelta(hours=24, minutes=5), succeeded=10, creator_nanos=1_000)
    now = add(model, 5 * MINUTE, succeeded=10, creator_nanos=400)
    rule = make_rule(model, "revenue_drop", threshold=6_000)
    assert look(rule) == (6_000, True)
    now.creator_nanos = 401
    now.save()
    assert look(rule) == (5_990, False)


def test_a_lost_replica(model, clock) -> None:
    version = ModelVersionFactory(model=model, state="approved")
    deployment = Deployment.objects.create(version=version, replica_count=2)
    node = Node.objects.create(name="n", token_digest=b"1")
    rule = make_rule(model, "replica_lost", threshold=1)
    Deployment.objects.update(created_at=NOW - 10 * MINUTE)
    # It is still coming up.
    assert look(rule) == (None, False)
    Deployment.objects.update(created_at=NOW - 20 * MINUTE)
    replicas = [
        Replica.objects.create(
            version=version, deployment=deployment, node=node, purpose="serve", state="ready"
        )
        for _ in range(2)
    ]
    assert look(rule) == (0, False)
    Replica.objects.filter(pk=replicas[0].pk).update(state="lost")
    assert look(rule) == (1, True)


def test_budget_burn_needs_both_windows(model, clock) -> None:
    rule = make_rule(model, "budget_burn", threshold=1_440, window_s=3_600)
    assert look(rule) == (None, False)
    SLO.objects.create(model=model, availability_target=99_000)
    # 20 % of an hour's requests failed, but not in its last five minutes.
    add(model, 30 * MINUTE, succeeded=60, failed_platform=20)
    late = add(model, 2 * MINUTE, succeeded=20)
    assert look(rule) == (0, False)
    late.failed_platform = 20
    late.save()
    measured, fires = look(rule)
    assert (measured, fires) == (3_333, True)


def test_nothing_is_said_while_the_roll_up_is_behind(model, clock) -> None:
    add(model, timedelta(hours=3), succeeded=10)
    rule = make_rule(model, "no_traffic", threshold=1)
    MetricCursor.objects.update(reached_at=NOW - 5 * MINUTE)

    assert alert.evaluate_rules() == 0
    assert not rule.events.exists()


# --- Firing, resolved, told -------------------------------------------------------


def break_it(model: AIModel, now: datetime = NOW) -> Metric:
    return add(model, MINUTE, now=now, succeeded=50, failed_model=50)


def test_it_is_told_once_when_it_begins_and_once_when_it_ends(model, clock, sent) -> None:
    rule, _ = make_rule(model), make_channel(model)
    row = break_it(model)
    for minutes in range(3):
        clock(NOW + minutes * MINUTE)
        alert.evaluate_rules()
        alert.send_alerts()
    assert [json.loads(body)["type"] for _, body, _ in sent] == ["alert.firing"]

    row.delete()
    add(model, MINUTE, succeeded=100)
    for minutes in range(3, 6):
        clock(NOW + minutes * MINUTE)
        alert.evaluate_rules()
        alert.send_alerts()

    assert [json.loads(body)["type"] for _, body, _ in sent] == ["alert.firing", "alert.resolved"]
    event = rule.events.get()
    assert (event.fired_at, event.resolved_at) == (NOW, NOW + 3 * MINUTE)
    assert list_told("alert") == [
        ("owner@example.com", "Error rate of acme/digits: firing"),
        ("owner@example.com", "Error rate of acme/digits: over"),
    ]
    data = json.loads(sent[1][1])["data"]
    assert (data["model"], data["measured"], data["rule"]["kind"]) == (
        "acme/digits",
        5_000,
        "error_rate",
    )


def test_one_that_flaps_is_told_of_once_in_its_cool_down(model, clock, sent) -> None:
    rule, _ = make_rule(model, cool_down_s=900), make_channel(model)
    row = break_it(model)
    alert.evaluate_rules()
    for minutes in range(1, 9):
        clock(NOW + minutes * MINUTE)
        row.failed_model = 0 if minutes % 2 else 50
        row.save()
        alert.evaluate_rules()
    alert.send_alerts()

    kinds = [json.loads(body)["type"] for _, body, _ in sent]
    assert sorted(kinds) == ["alert.firing", "alert.resolved"]
    # It is in the history all the same.
    assert rule.events.count() == 5

    # It still fires when the rest is over: now it is told.
    clock(NOW + 20 * MINUTE)
    add(model, MINUTE, now=NOW + 20 * MINUTE, succeeded=50, failed_model=50)
    alert.evaluate_rules()
    alert.send_alerts()
    assert json.loads(sent[-1][1])["type"] == "alert.firing"
    assert len(sent) == 3


def test_a_snoozed_rule_is_measured_and_not_told(model, clock, sent, owner) -> None:
    rule, _ = make_rule(model), make_channel(model)
    break_it(model)
    alert.snooze_rule(actor=Actor(user=owner), rule=rule, seconds=3_600)
    assert look(rule) == (5_000, True)
    assert not AlertDelivery.objects.exists()

    # When the snooze has ended and it fires still, it is told.
    alert.snooze_rule(actor=Actor(user=owner), rule=rule, seconds=0)
    alert.evaluate_rules()
    assert AlertDelivery.objects.get().what == "firing"
    with pytest.raises(InvalidInputError):
        alert.snooze_rule(actor=Actor(user=owner), rule=rule, seconds=7)


def test_a_webhook_is_signed_as_the_standard_says(model, clock, sent) -> None:
    channel = make_channel(model)
    make_rule(model)
    break_it(model)
    alert.evaluate_rules()
    assert alert.send_alerts() == 1

    ((url, body, headers),) = sent
    secret = selectors.find_secret(channel)
    assert url == channel.target
    assert secret.startswith("whsec_")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    # A control: another channel's secret does not fit.
    other = selectors.find_secret(make_channel(model, target="https://h.example/y"))
    assert other != secret


def test_slack_gets_a_text(model, clock, sent) -> None:
    make_channel(model, "slack", "https://hooks.example/services/T/B/secret")
    make_rule(model)
    break_it(model)
    alert.evaluate_rules()
    alert.send_alerts()

    ((_, body, headers),) = sent
    assert set(json.loads(body)) == {"text"}
    assert "[firing] acme/digits: Error rate" in json.loads(body)["text"]
    assert headers == {}


def test_mail_goes_to_members_who_still_belong(model, clock, owner, teammate) -> None:
    for address in (owner.email, teammate.email):
        make_channel(model, "mail", address)
    make_rule(model)
    break_it(model)
    alert.evaluate_rules()
    model.account.memberships.filter(user=teammate).delete()
    alert.send_alerts()

    (message,) = mail.outbox
    assert message.to == [owner.email]
    assert message.subject == "[firing] acme/digits: Error rate"
    assert "5 % or more of the predictions fail over 15 minutes" in message.body
    assert "measured: 50 %" in message.body


def test_an_account_gets_so_many_mails_an_hour(model, clock, owner) -> None:
    other = AIModelFactory(account=model.account, name="other")
    # All models of an account together.
    for one in (model, other):
        channel = make_channel(one, "mail", owner.email)
        for _ in range(alert.MAILS_PER_HOUR_MAX):
            AlertDelivery.objects.create(channel=channel, what="test", next_at=NOW)

    assert alert.send_alerts() == alert.MAILS_PER_HOUR_MAX
    assert len(mail.outbox) == alert.MAILS_PER_HOUR_MAX
    states = list(AlertDelivery.objects.values_list("state", flat=True))
    assert states.count("held_back") == alert.MAILS_PER_HOUR_MAX
    assert "held back" in AlertChannel.objects.get(model=other).last_error

    clock(NOW + timedelta(minutes=61))
    AlertDelivery.objects.create(channel=channel, what="test", next_at=NOW)
    assert alert.send_alerts() == 1


def test_a_failure_is_tried_again_and_given_up(model, clock, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise outgoing.OutgoingError("The server answered 500.")

    monkeypatch.setattr(outgoing, "post", refuse)
    channel = make_channel(model)
    make_rule(model)
    break_it(model)
    alert.evaluate_rules()
    now = NOW
    for seconds in (0, *alert.RETRY_S):
        now = clock(now + timedelta(seconds=seconds - 1)) if seconds else now
        if seconds:
            alert.send_alerts()
            now = clock(now + timedelta(seconds=1))
        alert.send_alerts()

    delivery = AlertDelivery.objects.get()
    assert (delivery.state, delivery.attempts) == ("failed", 1 + len(alert.RETRY_S))
    channel.refresh_from_db()
    assert channel.last_error == "The server answered 500."


def test_a_repeated_run_sends_nothing_twice(model, clock, sent) -> None:
    make_channel(model)
    make_rule(model)
    break_it(model)
    alert.evaluate_rules()
    event = AlertEvent.objects.get()
    alert._tell(event, "firing", NOW)
    alert.send_alerts()
    alert.send_alerts()

    assert len(sent) == 1


# --- Pages ------------------------------------------------------------------------

RULE = {
    "rule-kind": "error_rate",
    "rule-threshold": "5",
    "rule-window_s": "900",
    "rule-count_min": "20",
    "rule-cool_down_s": "900",
}


def test_the_page_adds_snoozes_and_removes_a_rule(owner_client, model) -> None:
    assert owner_client.post(PAGE, RULE).status_code == 302
    rule = AlertRule.objects.get()
    assert (rule.threshold, rule.window_s, rule.count_min) == (500, 900, 20)
    assert "5 % or more" in owner_client.get(PAGE).content.decode()
    # Twice the same is one too many.
    assert owner_client.post(PAGE, RULE).status_code == 422

    owner_client.post(f"{PAGE}/rules/{rule.pk}", {"seconds": "3600"})
    rule.refresh_from_db()
    assert rule.snoozed_until is not None
    assert "snoozed" in owner_client.get(PAGE).content.decode()
    owner_client.post(f"{PAGE}/rules/{rule.pk}", {"remove": "1"})
    assert not AlertRule.objects.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"rule-threshold": ""},
        {"rule-threshold": "0"},
        {"rule-threshold": "100.01"},
        {"rule-threshold": "NaN"},
        {"rule-kind": "x"},
        {"rule-window_s": "7"},
        {"rule-count_min": "0"},
        {"rule-count_min": "1000001"},
        {"rule-cool_down_s": "1"},
        {"rule-kind": "p95", "rule-threshold": "600001"},
    ],
)
def test_bad_rules_are_refused(owner_client, model, change: dict[str, str]) -> None:
    assert owner_client.post(PAGE, RULE | change).status_code == 422
    assert not AlertRule.objects.exists()


def test_rules_and_channels_have_a_limit(model, owner, clock) -> None:
    actor = Actor(user=owner)
    for threshold in range(1, alert.RULES_PER_MODEL_MAX + 1):
        alert.add_rule(actor=actor, model=model, kind="p95", threshold=threshold, window_s=300)
    with pytest.raises(LimitExceededError):
        alert.add_rule(actor=actor, model=model, kind="p95", threshold=99, window_s=300)
    for number in range(alert.CHANNELS_PER_MODEL_MAX):
        alert.add_channel(
            actor=actor, model=model, kind="webhook", target=f"https://h.example/{number}"
        )
    with pytest.raises(LimitExceededError):
        alert.add_channel(actor=actor, model=model, kind="webhook", target="https://h.example/x")


def test_the_page_adds_tests_and_removes_a_channel(
    owner_client, owner, model, asked, django_capture_on_commit_callbacks
) -> None:
    fields = {"channel-kind": "mail", "channel-target": owner.email}
    assert owner_client.post(f"{PAGE}/channels", fields).status_code == 302
    channel = AlertChannel.objects.get()
    with django_capture_on_commit_callbacks(execute=True):
        owner_client.post(f"{PAGE}/channels/{channel.pk}")
    assert asked == [True]
    alert.send_alerts()
    assert "Nothing is wrong" in mail.outbox[0].body
    assert "acme/digits: Test" in mail.outbox[0].subject

    for _ in range(alert.TESTS_PER_HOUR_MAX + 2):
        owner_client.post(f"{PAGE}/channels/{channel.pk}")
    assert channel.deliveries.count() == alert.TESTS_PER_HOUR_MAX
    owner_client.post(f"{PAGE}/channels/{channel.pk}", {"remove": "1"})
    assert not AlertChannel.objects.exists()


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("mail", "stranger@example.com"),
        ("mail", "x"),
        ("webhook", "https://10.0.0.1/"),
        ("webhook", "ftp://example.com"),
        ("slack", "https://169.254.169.254/latest"),
        ("webhook", "https://user:secret@example.com/"),
        ("x", "https://example.com"),
    ],
)
def test_bad_channels_are_refused(owner_client, model, settings, kind: str, target: str) -> None:
    fields = {"channel-kind": kind, "channel-target": target}
    assert owner_client.post(f"{PAGE}/channels", fields).status_code == 422
    assert not AlertChannel.objects.exists()


def test_the_path_of_an_address_is_a_secret(owner_client, teammate_client, model) -> None:
    make_channel(model, "slack", "https://hooks.example/services/T/B/secret")
    text = owner_client.get(PAGE).content.decode()
    assert "https://hooks.example/…" in text
    assert "T/B/secret" not in text


@pytest.mark.parametrize(("count", "line"), [(2, "Of 90 days."), (3, "The latest 3 of 90 days.")])
def test_the_history_says_when_it_is_not_all(owner_client, model, monkeypatch, count, line) -> None:
    monkeypatch.setattr(selectors, "HISTORY_SHOWN", 3)
    rule = make_rule(model)
    for hour in range(count):
        at = NOW - timedelta(hours=hour + 1)
        AlertEvent.objects.create(rule=rule, fired_at=at, resolved_at=at, measured=1)

    assert line in owner_client.get(PAGE).content.decode()


@pytest.mark.parametrize(("count", "lines"), [(3, 3), (4, 1)])
def test_many_alerts_are_told_in_one_line(owner_client, model, count, lines) -> None:
    for number in range(count):
        rule = make_rule(model, threshold=number)
        AlertEvent.objects.create(rule=rule, fired_at=NOW, measured=1)

    text = owner_client.get(PAGE.removesuffix("/alerts")).content.decode()
    assert text.count("Look at the alert") == lines
    assert ("<strong>4 alerts</strong> are firing" in text) is (count == 4)


def test_acknowledging(owner_client, owner, model, clock) -> None:
    make_rule(model)
    break_it(model)
    alert.evaluate_rules()
    event = AlertEvent.objects.get()
    owner_client.post(f"{PAGE}/events/{event.pk}")

    event.refresh_from_db()
    assert event.acknowledged_by == owner
    assert "Acknowledged by Olive Owner" in owner_client.get(PAGE).content.decode()


def test_others_change_nothing(
    outsider_client, admin_client, owner_client, outsider, model, clock
) -> None:
    rule, channel = make_rule(model), make_channel(model)
    break_it(model)
    alert.evaluate_rules()
    event = AlertEvent.objects.get()
    other = AIModelFactory(account=outsider.accounts.get(), name="digits")
    paths = [
        (PAGE, RULE),
        (f"{PAGE}/channels", {"channel-kind": "webhook", "channel-target": "https://x.example/"}),
        (f"{PAGE}/rules/{rule.pk}", {"remove": "1"}),
        (f"{PAGE}/channels/{channel.pk}", {"remove": "1"}),
        (f"{PAGE}/events/{event.pk}", {}),
    ]
    for client in (outsider_client, admin_client):
        for path, fields in paths:
            assert client.post(path, fields).status_code in (403, 404)
    # Another's rule, under a model of one's own.
    own = f"/dashboard/models/elsewhere/{other.name}/monitoring/alerts"
    for part in (f"rules/{rule.pk}", f"channels/{channel.pk}", f"events/{event.pk}"):
        assert outsider_client.post(f"{own}/{part}", {"remove": "1"}).status_code == 404
    assert (AlertRule.objects.count(), AlertChannel.objects.count()) == (1, 1)
    with pytest.raises(ForbiddenError):
        alert.remove_rule(actor=Actor(user=outsider), rule=rule)
    assert owner_client.post(*paths[2]).status_code == 302
