"""Scores of consumers: who is compared with whom, who is told, and that nobody is blocked."""

from __future__ import annotations

from datetime import timedelta
from smtplib import SMTPException

import numpy as np
import pytest
from django.core import mail
from django.utils import timezone

from inference.core.copying import REFERENCE_MIN, WINDOW_MIN
from inference.models import AbuseAlert, AbuseScore, QueryBudget, QuerySample, QuerySketch
from inference.services import abuse as services
from inference.services.abuse import (
    ALERT_SCORE,
    NEW_SAMPLES_MIN,
    SAMPLE_RETENTION,
    SCORE_RETENTION,
    SKETCH_RETENTION,
    forget_queries,
    mail_alerts,
    review_score,
    score_consumers,
)
from inference.services.query_budget import set_budget
from inference.tasks import forget_queries as forget_task
from inference.tasks import score_abuse as score_task
from marketplace.core import limits
from marketplace.core.errors import InvalidInputError, NotFoundError
from marketplace.models import Account, AIModel, AuditEvent
from marketplace.models.limits import QUERIES_MAX
from marketplace.selectors.access import Actor
from strongroom.sealing.manifest import TestVector
from tests.factories import AccountFactory, AIModelFactory, ChannelFactory, UserFactory
from tests.inboxes import list_told
from tests.inference.core import traffic

pytestmark = pytest.mark.django_db

PAGE = "/dashboard/models/acme/digits/protection"
ADMIN = "/admin/inference/abusescore/"


@pytest.fixture
def model(account: Account) -> AIModel:
    return AIModelFactory(account=account, name="digits", title="Digits", samples_queries=True)


@pytest.fixture
def prober(model: AIModel) -> Account:
    """Somebody who asks by chance, among two honest consumers."""
    prober = AccountFactory(slug="prober")
    for slug in ("honest", "modest"):
        ask(model, AccountFactory(slug=slug), traffic.real, 60)
    ask(model, prober, traffic.uniform, 60)
    return prober


def ask(model, consumer, make, count: int, *, age: timedelta = timedelta(), seed: int = 0) -> None:
    """What the gateways write of so many inputs."""
    at = timezone.now() - age
    random = np.random.default_rng([seed, consumer.pk.int % 2**32 if seed else 7, count])
    QuerySample.objects.bulk_create(
        QuerySample(
            model=model,
            account=consumer,
            embedding=one,
            # In their order, and all of them before whatever comes next.
            created_at=at - timedelta(microseconds=count - place),
        )
        for place, one in enumerate(make(random, count))
    )
    for period, day in (("day", at.date()), ("total", "1970-01-01")):
        QuerySketch.objects.update_or_create(
            model=model,
            account=consumer,
            period=period,
            starts_on=day,
            defaults={"estimate": 20 * count, "row_count": 20 * count, "updated_at": at},
        )


def score_of(consumer: Account) -> int:
    return AbuseScore.objects.get(account=consumer, is_current=True).score


def test_who_probes_is_scored_high_and_the_others_are_not(model, prober, owner):
    assert score_consumers() == 3

    scores = {one.account.slug: one for one in AbuseScore.objects.select_related("account")}
    assert scores["prober"].score >= ALERT_SCORE
    assert scores["honest"].score < ALERT_SCORE / 2
    assert scores["modest"].score < ALERT_SCORE / 2
    assert "lie where no other consumer asks" in " ".join(scores["prober"].reasons)
    assert scores["prober"].facts["samples"] == 60
    # Nothing new: nothing is computed again.
    assert score_consumers() == 0


def test_a_score_is_made_anew_after_enough_new_samples(model, prober):
    score_consumers()
    ask(model, prober, traffic.uniform, NEW_SAMPLES_MIN - 1)
    assert score_consumers() == 0
    ask(model, prober, traffic.uniform, 1)
    assert score_consumers() == 1

    found = AbuseScore.objects.filter(account=prober)
    assert sorted(found.values_list("is_current", flat=True)) == [False, True]


def test_too_few_samples_are_not_scored(model, account):
    # Of those who were never scored, the one of the lower id has its turn first.
    consumer, other = sorted((AccountFactory(), AccountFactory()), key=lambda one: str(one.pk))
    ask(model, consumer, traffic.uniform, WINDOW_MIN - 1)
    ask(model, other, traffic.real, REFERENCE_MIN - 1)
    assert score_consumers() == 0
    ask(model, consumer, traffic.uniform, 1)
    # There is not enough to compare it with.
    assert score_consumers() == 0
    ask(model, other, traffic.real, 1)
    # Now there is. The other one could only be compared with somebody who is suspicious.
    assert score_consumers() == 1
    assert score_of(consumer) >= ALERT_SCORE


def test_a_model_that_is_not_watched_any_more_is_not_scored(model, prober):
    AIModel.objects.update(samples_queries=False)
    assert score_consumers() == 0


def test_one_consumer_alone_is_compared_with_its_own_past(model, account):
    consumer = AccountFactory()
    ask(model, consumer, traffic.real, 60, age=timedelta(days=10))
    ask(model, consumer, traffic.real, 60, seed=1)
    assert score_consumers() == 1
    assert score_of(consumer) < ALERT_SCORE / 2
    ask(model, consumer, traffic.uniform, 300, seed=2)
    assert score_consumers() == 1
    assert score_of(consumer) >= ALERT_SCORE


def test_who_is_suspicious_is_nobodys_measure(model, prober):
    score_consumers()
    # As many inputs as the honest ones have: against it they would look odd.
    ask(model, prober, traffic.uniform, 100, seed=3)
    for slug in ("honest", "modest"):
        ask(model, Account.objects.get(slug=slug), traffic.real, 40, seed=4)
    score_consumers()

    assert score_of(Account.objects.get(slug="honest")) < ALERT_SCORE / 2


def test_the_creators_examples_are_a_reference(creator, model):
    random = np.random.default_rng(5)
    vectors = tuple(
        TestVector({"x": random.normal(size=2).tolist()}, {"y": 0.0}) for _ in range(REFERENCE_MIN)
    )
    version_id = creator.push("acme/digits", {"model.onnx": b"weights"}, vectors=vectors)["id"]
    ChannelFactory(model=model, version=model.versions.get(pk=version_id))
    consumer = AccountFactory()

    def like(random: np.random.Generator, count: int) -> list[bytes]:
        return traffic.embed_rows(random.normal(size=(count, 2)))

    def unlike(random: np.random.Generator, count: int) -> list[bytes]:
        return traffic.embed_rows(random.uniform(-5_000, 5_000, size=(count, 2)))

    ask(model, consumer, like, 60)
    assert score_consumers() == 1
    assert score_of(consumer) < ALERT_SCORE
    other = AccountFactory()
    ask(model, other, unlike, 60)
    assert score_consumers() == 1
    assert score_of(other) >= ALERT_SCORE


def test_one_run_scores_only_so_many(model, prober, monkeypatch):
    monkeypatch.setattr(services, "SCORES_PER_RUN_MAX", 2)

    assert [score_consumers() for _ in range(3)] == [2, 1, 0]


# --- Mails ------------------------------------------------------------------------


def test_a_creator_is_told_once_of_each_consumer(model, prober, owner):
    score_task()
    score_task()
    ask(model, prober, traffic.uniform, NEW_SAMPLES_MIN)
    score_task()

    [message] = mail.outbox
    assert message.to == [owner.email]
    assert message.subject == "prober may be copying acme/digits"
    assert list_told("abuse") == [(owner.email, message.subject)]
    assert PAGE in message.body
    assert "- 100% of the inputs lie where no other consumer asks." in message.body
    assert AbuseAlert.objects.get().mailed_at is not None


def test_a_score_below_the_threshold_tells_nobody(model, prober, monkeypatch):
    monkeypatch.setattr(services, "ALERT_SCORE", 101)
    score_task()
    assert AbuseScore.objects.count() == 3
    assert mail.outbox == []


@pytest.mark.parametrize("error", [SMTPException(), ConnectionRefusedError()])
def test_a_mail_that_fails_is_sent_by_the_next_run(model, prober, monkeypatch, error):
    score_consumers()

    def fail(*_args: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(services, "send_mail", fail)
        assert mail_alerts() == 0
    assert mail_alerts() == 1
    assert mail_alerts() == 0


# --- Forgetting -------------------------------------------------------------------


def test_what_is_too_old_is_forgotten(model, account):
    consumer = AccountFactory()
    for age in (SAMPLE_RETENTION - timedelta(hours=1), SAMPLE_RETENTION + timedelta(hours=1)):
        ask(model, consumer, traffic.real, 2, age=age)
    for days in (SKETCH_RETENTION.days - 1, SKETCH_RETENTION.days + 2):
        ask(model, consumer, traffic.real, 0, age=timedelta(days=days))
    now = timezone.now()
    for is_current, age in (
        (True, SCORE_RETENTION + timedelta(days=1)),
        (False, SCORE_RETENTION + timedelta(days=1)),
        (False, SCORE_RETENTION - timedelta(days=1)),
    ):
        AbuseScore.objects.create(
            model=model,
            account=consumer,
            score=1,
            created_at=now - age,
            is_current=is_current,
        )

    assert forget_queries() == 2 + 1 + 1
    forget_task()

    assert QuerySample.objects.count() == 2
    days = sorted(QuerySketch.objects.filter(period="day").values_list("starts_on", flat=True))
    assert days[0] == (now - timedelta(days=SKETCH_RETENTION.days - 1)).date()
    assert QuerySketch.objects.filter(period="total").count() == 1
    assert AbuseScore.objects.count() == 2


# --- Reviews ----------------------------------------------------------------------


def test_an_admin_marks_a_score_as_reviewed_with_a_note(model, prober, admin_client, owner_client):
    score_consumers()
    score = AbuseScore.objects.get(account=prober)
    data = {"action": "review", "_selected_action": [score.pk]}

    question = admin_client.post(ADMIN, data)
    assert "Nobody is blocked by this." in question.content.decode()
    assert admin_client.post(ADMIN, data | {"confirmed": "yes"}).status_code == 422
    admin_client.post(ADMIN, data | {"confirmed": "yes", "reason": "A customer of ours."})

    score.refresh_from_db()
    assert score.reviewed_by.email == "admin@example.com"
    event = AuditEvent.objects.get(action="abuse.review")
    assert event.payload == {
        "model": "acme/digits",
        "consumer": "prober",
        "score": score.score,
        "reason": "A customer of ours.",
    }
    assert "A customer of ours." in owner_client.get(PAGE).content.decode()
    # It stays reviewed until it gets worse.
    ask(model, prober, traffic.uniform, NEW_SAMPLES_MIN)
    score_consumers()
    again = AbuseScore.objects.get(account=prober, is_current=True)
    assert (again.review_note, again.pk != score.pk) == ("A customer of ours.", True)
    again.score -= 10
    again.save()
    ask(model, prober, traffic.uniform, NEW_SAMPLES_MIN, seed=9)
    score_consumers()
    assert AbuseScore.objects.get(account=prober, is_current=True).review_note == ""


@pytest.mark.parametrize("note", ["", "   ", "x" * (limits.REASON_LENGTH_MAX + 1)])
def test_a_review_needs_a_note_of_some_length(model, prober, platform_admin, note):
    score_consumers()
    score = AbuseScore.objects.get(account=prober)

    with pytest.raises(InvalidInputError):
        review_score(score=score, actor=Actor(user=platform_admin), note=note)
    score.refresh_from_db()
    assert (score.reviewed_at, AuditEvent.objects.count()) == (None, 0)
    longest = "x" * limits.REASON_LENGTH_MAX
    assert review_score(score=score, actor=Actor(user=platform_admin), note=longest).reviewed_at


def test_admins_read_scores_of_all_models_and_change_none(
    model, prober, admin_client, owner_client
):
    score_consumers()
    score = AbuseScore.objects.get(account=prober)

    assert "prober on acme/digits" in admin_client.get(f"{ADMIN}?q=prober").content.decode()
    assert b'name="_save"' not in admin_client.get(f"{ADMIN}{score.pk}/change/").content
    assert admin_client.post(f"{ADMIN}{score.pk}/delete/").status_code == 403
    assert owner_client.get(ADMIN).status_code == 302


# --- The creator's page -----------------------------------------------------------


def test_the_page_lists_consumers_by_score_with_reasons_and_trend(model, prober, owner_client):
    score_consumers()
    first = AbuseScore.objects.get(account=prober)
    first.score = 35
    first.save()
    ask(model, prober, traffic.uniform, NEW_SAMPLES_MIN)
    score_consumers()

    response = owner_client.get(PAGE)
    text = response.content.decode()

    lines = response.context["consumers"]
    assert lines[0].slug == "prober"
    assert {one.slug for one in lines[1:]} == {"honest", "modest"}
    assert lines[0].trend == f"up {score_of(prober) - 35}"
    assert lines[1].trend == "first score"
    assert lines[0].distinct_today == lines[0].distinct_total == 20 * NEW_SAMPLES_MIN
    assert "lie where no other consumer asks" in text
    assert "a score never blocks anybody" in text


def test_the_page_is_read_in_few_queries(
    model, prober, owner_client, django_assert_max_num_queries
):
    score_consumers()
    owner_client.get(PAGE)
    with django_assert_max_num_queries(20):
        owner_client.get(PAGE)


def test_an_empty_page_says_what_to_do(model, owner_client):
    assert "Nobody has asked yet" in owner_client.get(PAGE).content.decode()
    AIModel.objects.update(samples_queries=False)
    assert "Nothing is counted" in owner_client.get(PAGE).content.decode()
    versions = owner_client.get("/dashboard/models/acme/digits").content.decode()
    assert f'href="{PAGE}"' in versions


def test_budgets_are_set_on_the_page(model, owner_client):
    saved = owner_client.post(PAGE, {"queries_per_day_max": "500", "samples_queries": "on"})

    assert (saved.status_code, saved["Location"]) == (302, PAGE)
    model.refresh_from_db()
    assert (model.queries_per_day_max, model.queries_total_max) == (500, None)
    assert model.samples_queries is True
    assert 'value="500"' in owner_client.get(PAGE).content.decode()
    event = AuditEvent.objects.get()
    assert (event.action, event.payload["changed"]) == ("model.update", ["queries_per_day_max"])
    refused = owner_client.post(PAGE, {"queries_per_day_max": "0"})
    assert refused.status_code == 422
    model.refresh_from_db()
    assert model.queries_per_day_max == 500


OWN = f"{PAGE}/account"


def give(client, account: str = "prober", **limits: object):
    return client.post(OWN, {"own-account": account} | {f"own-{k}": v for k, v in limits.items()})


def test_one_consumer_gets_a_budget_of_its_own_and_loses_it(model, prober, owner_client):
    saved = give(owner_client, queries_per_day_max="50")
    give(owner_client, queries_per_day_max="40")

    assert (saved.status_code, saved["Location"]) == (302, PAGE)
    budget = QueryBudget.objects.get()
    assert (budget.account, budget.queries_per_day_max) == (prober, 40)
    assert budget.queries_total_max is None
    assert "own budget: 40 a day, any number in all" in owner_client.get(PAGE).content.decode()
    event = AuditEvent.objects.order_by("-seq").first()
    assert (event.action, event.payload["consumer"]) == ("budget.set", "prober")

    for _ in range(2):
        assert owner_client.post(OWN, {"remove": "prober"}).status_code == 302
    assert not QueryBudget.objects.exists()
    assert AuditEvent.objects.filter(action="budget.remove").count() == 1


def test_a_budget_of_ones_own_is_for_who_has_asked_and_within_limits(
    model, prober, owner_client, platform_admin
):
    AccountFactory(slug="stranger")
    assert give(owner_client, "stranger", queries_per_day_max="1").status_code == 422
    assert give(owner_client, queries_per_day_max="0").status_code == 422
    assert give(owner_client, queries_total_max=str(QUERIES_MAX + 1)).status_code == 422
    actor = Actor(user=platform_admin)
    for slug in ("stranger", "nobody"):
        with pytest.raises(NotFoundError):
            set_budget(model=model, slug=slug, fields={}, actor=actor)
    with pytest.raises(InvalidInputError):
        set_budget(model=model, slug="prober", fields={"queries_per_day_max": 0}, actor=actor)
    assert (QueryBudget.objects.count(), AuditEvent.objects.count()) == (0, 0)
    assert give(owner_client, queries_total_max=str(QUERIES_MAX)).status_code == 302


def test_others_give_no_budgets(model, prober, outsider_client, admin_client, client):
    assert give(outsider_client, queries_per_day_max="1").status_code == 403
    assert give(admin_client, queries_per_day_max="1").status_code == 403
    assert give(client, queries_per_day_max="1").status_code == 302
    AIModel.objects.update(visibility="private")
    assert give(outsider_client, queries_per_day_max="1").status_code == 404
    assert not QueryBudget.objects.exists()


def test_budgets_of_ones_own_over_the_api(model, prober, owner_client, outsider_client):
    path = "/api/models/acme/digits/budgets"

    def put(client, account: str = "prober", **limits: object):
        return client.put(f"{path}/{account}", limits, content_type="application/json")

    wanted = {"account": "prober", "queries_per_day_max": 7, "queries_total_max": None}
    assert put(owner_client, queries_per_day_max=7).json() == wanted
    assert owner_client.get(path).json() == {"results": [wanted]}
    assert put(owner_client, queries_per_day_max=0).status_code == 422
    assert put(owner_client, "nobody", queries_per_day_max=7).status_code == 404
    assert put(outsider_client, queries_per_day_max=1).status_code == 403
    assert outsider_client.get(path).status_code == 403
    assert outsider_client.delete(f"{path}/prober").status_code == 403
    assert owner_client.get(path).json() == {"results": [wanted]}
    for _ in range(2):
        assert owner_client.delete(f"{path}/prober").status_code == 204
    assert owner_client.get(path).json() == {"results": []}


def test_the_page_is_its_accounts_own_business(
    model, prober, owner, outsider_client, teammate_client, admin_client, client
):
    score_consumers()
    assert outsider_client.get(PAGE).status_code == 403
    AIModel.objects.update(visibility="private")
    refused = outsider_client.get(PAGE)
    assert refused.status_code == 404
    assert b"prober" not in refused.content
    assert outsider_client.post(PAGE, {"queries_per_day_max": "1"}).status_code == 404
    assert teammate_client.get(PAGE).status_code == 200
    assert client.get(PAGE).status_code == 302
    # A platform admin looks, and leaves the budgets to their owner.
    assert b"<dt>Per day</dt><dd>no budget</dd>" in admin_client.get(PAGE).content
    assert admin_client.post(PAGE, {"queries_per_day_max": "1"}).status_code == 403
    viewer = UserFactory(email="viewer@example.com")
    model.account.memberships.create(user=viewer, role="viewer")
    client.force_login(viewer)
    assert client.get(PAGE).status_code == 200
    assert client.post(PAGE, {"queries_per_day_max": "1"}).status_code == 403
    model.refresh_from_db()
    assert model.queries_per_day_max is None
