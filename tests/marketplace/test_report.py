"""Reports of models: by anybody, a few a day; decided once, with a mail and an appeal."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.core import mail
from django.db import connection
from django.utils import timezone

from marketplace.core import limits
from marketplace.core.errors import ConflictError, ForbiddenError, InvalidInputError
from marketplace.errors import AlreadyDecidedError, ReportLimitError
from marketplace.models import AIModel, AuditEvent, Notice, Report, Takedown
from marketplace.selectors.access import Actor, list_visible_models
from marketplace.services import report as services
from marketplace.services import takedown as takedowns
from marketplace.services.notice import mail_notices
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory, UserFactory

FORM = {"cause": "deceit", "text": "It says cat to every picture."}


@pytest.fixture
def model(account) -> AIModel:
    model = AIModelFactory(account=account, name="digits")
    ChannelFactory(version=ModelVersionFactory(model=model))
    return model


@pytest.fixture
def report(model, outsider) -> Report:
    return services.report_model(user=outsider, model=model, **FORM)


def test_anybody_signed_in_reports_a_model_they_see(client, outsider_client, model):
    url = "/acme/digits/report"
    assert client.get(url).url.startswith("/login?next=")
    assert outsider_client.get(url).status_code == 200
    assert outsider_client.post(url, {"cause": "deceit", "text": " "}).status_code == 422
    assert outsider_client.post(url, {"cause": "odd", "text": "x"}).status_code == 422
    assert not Report.objects.exists()

    assert outsider_client.post(url, FORM).url == "/acme/digits"

    row = Report.objects.get()
    assert (row.cause, row.text, row.state) == ("deceit", FORM["text"], "open")
    # The owner does not learn who reported.
    assert not AuditEvent.objects.filter(account_id=model.account_id).exists()
    AIModel.objects.update(visibility="private")
    assert outsider_client.get(url).status_code == 404


def test_a_second_report_of_the_same_model_is_the_first(model, outsider, report):
    again = services.report_model(user=outsider, model=model, cause="harm", text="More.")

    assert again.pk == report.pk


@pytest.mark.parametrize("made", [limits.REPORTS_PER_PERSON_MAX - 1, limits.REPORTS_PER_PERSON_MAX])
def test_reports_of_a_day_have_a_limit(model, outsider, account, made):
    others = [AIModelFactory(account=account) for _ in range(made)]
    for other in others:
        services.report_model(user=outsider, model=other, **FORM)
    # Those of another day do not count.
    old = AIModelFactory(account=account)
    Report.objects.create(model=old, reporter=outsider, **FORM)
    Report.objects.filter(model=old).update(created_at=timezone.now() - timedelta(days=2))

    if made < limits.REPORTS_PER_PERSON_MAX:
        services.report_model(user=outsider, model=model, **FORM)
    else:
        with pytest.raises(ReportLimitError):
            services.report_model(user=outsider, model=model, **FORM)
        assert not model.reports.exists()


@pytest.mark.parametrize("text", ["", " ", "x" * (limits.REASON_LENGTH_MAX + 1), "a\x00b"])
def test_a_text_has_limits(model, outsider, text):
    with pytest.raises(InvalidInputError):
        services.report_model(user=outsider, model=model, cause="harm", text=text)
    longest = "x" * limits.REASON_LENGTH_MAX
    assert services.report_model(user=outsider, model=model, cause="harm", text=longest)


def mails_to(address: str) -> list[str]:
    mail_notices()
    return [one.subject for one in mail.outbox if address in one.to]


@pytest.mark.parametrize(
    ("decision", "state", "kind"),
    [
        ("dismiss", "dismissed", None),
        ("warn", "warned", "warning"),
        ("suspend", "suspended", "suspension"),
    ],
)
def test_a_decision_is_carried_out_for_all_open_reports(
    admin_client, platform_admin, owner, outsider, teammate, model, report, decision, state, kind
):
    services.report_model(user=teammate, model=model, **FORM)
    page = admin_client.get(f"/platform/reports/{report.pk}").content.decode()
    assert "1 other open report of this model is decided with it." in page
    url = f"/platform/reports/{report.pk}"
    assert admin_client.post(url, {"decision": decision}).status_code == 422
    assert admin_client.post(url, {"decision": "odd", "reason": "x"}).status_code == 422
    assert Report.objects.filter(state="open").count() == 2

    assert admin_client.post(url, {"decision": decision, "reason": "Looked."}).status_code == 302

    assert set(Report.objects.values_list("state", "decided_by__email")) == {
        (state, platform_admin.email)
    }
    assert list(Takedown.objects.values_list("kind", flat=True)) == ([kind] if kind else [])
    model.refresh_from_db()
    assert (model.suspended_at is not None) == (decision == "suspend")
    assert mails_to(outsider.email) == ["What became of your report of acme/digits"]
    owners = mails_to(owner.email)
    assert bool(owners) == (kind is not None)
    # Nobody is mailed twice.
    count = len(mail.outbox)
    mail_notices()
    assert len(mail.outbox) == count


def test_only_admins_decide(owner_client, outsider_client, owner, report):
    for client in (owner_client, outsider_client):
        for url in ("/platform/reports", f"/platform/reports/{report.pk}"):
            assert client.get(url).status_code == 404
            form = {"decision": "dismiss", "reason": "x"}
            assert client.post(url, form).status_code in (404, 405)
    with pytest.raises(ForbiddenError):
        services.decide_report(
            actor=Actor(user=owner), report=report, decision="dismiss", reason="Mine is good."
        )
    report.refresh_from_db()
    assert report.state == "open"


@pytest.mark.django_db(transaction=True)
def test_of_two_who_decide_at_once_the_second_is_told(model, report, platform_admin):
    second = UserFactory(email="second@example.com", is_staff=True)
    told: list[str] = []
    barrier = threading.Barrier(2)

    def decide(admin, decision: str) -> None:
        try:
            barrier.wait()
            services.decide_report(
                actor=Actor(user=admin),
                report=Report.objects.get(pk=report.pk),
                decision=decision,
                reason="Looked.",
            )
        except AlreadyDecidedError as error:
            told.append(error.detail)
        finally:
            connection.close()

    threads = [
        threading.Thread(target=decide, args=(platform_admin, "dismiss")),
        threading.Thread(target=decide, args=(second, "suspend")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    report.refresh_from_db()
    assert len(told) == 1
    assert report.decided_by.email in told[0]
    assert "You changed nothing." in told[0]
    model.refresh_from_db()
    assert (model.suspended_at is None) == (report.decided_by == platform_admin)
    assert AuditEvent.objects.filter(action="report.decide").count() == 1


def test_a_suspended_model_vanishes_for_all_but_its_account(
    client, owner_client, outsider_client, platform_admin, model
):
    assert client.get("/acme/digits").status_code == 200
    actor = Actor(user=platform_admin)
    takedowns.impose(actor=actor, model=model, kind="suspension", reason="Stolen.")

    for one in (client, outsider_client):
        assert one.get("/acme/digits").status_code == 404
        assert "acme/digits" not in one.get("/").content.decode()
    assert owner_client.get("/acme/digits").status_code == 200
    with pytest.raises(AlreadyDecidedError):
        takedowns.impose(actor=actor, model=model, kind="suspension", reason="Again.")
    takedowns.reinstate(actor=actor, model=model, reason="Cleared.")
    assert client.get("/acme/digits").status_code == 200
    with pytest.raises(AlreadyDecidedError):
        takedowns.reinstate(actor=actor, model=model, reason="Again.")


def test_without_the_rule_it_would_be_there(client, platform_admin, model, monkeypatch):
    # The control: what hides it is `list_visible_models`, and nothing else.
    from marketplace.selectors import access

    actor = Actor(user=platform_admin)
    takedowns.impose(actor=actor, model=model, kind="suspension", reason="Stolen.")
    monkeypatch.setattr(
        access, "list_visible_models", lambda actor: list_visible_models(Actor(user=platform_admin))
    )

    assert client.get("/acme/digits").status_code == 200


@pytest.mark.parametrize("decision", ["uphold", "lift"])
def test_an_owner_appeals_once_and_is_answered(
    admin_client, owner_client, teammate_client, owner, platform_admin, model, decision
):
    url = "/dashboard/models/acme/digits/appeal"
    assert owner_client.post(url, {"text": "Why?"}).status_code == 409
    made = takedowns.impose(
        actor=Actor(user=platform_admin), model=model, kind="suspension", reason="Stolen."
    )
    assert teammate_client.get(url).status_code == 403
    assert owner_client.post(url, {"text": ""}).status_code == 422
    assert owner_client.post(url, {"text": "It is mine."}).status_code == 302
    assert owner_client.post(url, {"text": "Again."}).status_code == 409

    assert "acme/digits" in admin_client.get("/platform/reports?show=appeals").content.decode()
    answer = f"/platform/appeals/{made.pk}"
    assert admin_client.post(answer, {"decision": "lift"}).status_code == 422
    form = {"decision": decision, "reason": "Looked again."}
    assert admin_client.post(answer, form).status_code == 302
    late = admin_client.post(answer, form)
    assert late.status_code == 409
    assert platform_admin.email in late.content.decode()

    model.refresh_from_db()
    assert (model.suspended_at is None) == (decision == "lift")
    assert "Looked again." in owner_client.get(url).content.decode()
    assert len(mails_to(owner.email)) == 2
    actions = set(AuditEvent.objects.values_list("action", flat=True))
    assert {"model.suspend", "model.appeal", "appeal.answer"} <= actions


def test_an_appeal_needs_the_right_state(owner, platform_admin, model):
    admin = Actor(user=platform_admin)
    made = takedowns.impose(actor=admin, model=model, kind="warning", reason="Say more.")

    with pytest.raises(ConflictError):
        takedowns.answer_appeal(actor=admin, takedown=made, is_upheld=True, reason="x")
    with pytest.raises(ForbiddenError):
        takedowns.impose(actor=Actor(user=owner), model=model, kind="warning", reason="x")
    assert Notice.objects.count() == 1
