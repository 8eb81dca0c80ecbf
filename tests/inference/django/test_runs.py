"""Shared runs: kept only on wish, shown to whom the model is shown, and gone in time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core import signing
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from inference.errors import RunOfferInvalidError, TooManyRunsError
from inference.models import SharedRun
from inference.models.run import RUN_BYTES_MAX
from inference.selectors import run as runs
from inference.services import run as run_service
from inference.services.run import forget_runs, make_offer, measure, share_run
from inference.tasks.prediction import forget_predictions
from marketplace.core.ids import new_id, to_public
from marketplace.models import Account, AIModel, AuditEvent, Membership, ModelVersion
from marketplace.selectors.access import Actor
from tests.factories import AIModelFactory, ChannelFactory, MembershipFactory, UserFactory

HTMX = {"HX-Request": "true"}
SHARE = "/runs/share?account=acme"
VALUES = {"x": 3.5}
OUTPUT = {"y": 7.25}


@pytest.fixture
def model(account) -> AIModel:
    return AIModelFactory(account=account, name="digits", title="Digits")


@pytest.fixture
def version(model) -> ModelVersion:
    return ChannelFactory(version__model=model).version


def offer_of(version, account, user, *, values=VALUES, output=OUTPUT, prediction=None) -> str:
    return make_offer(
        account=account,
        user=user,
        version=version,
        prediction_id=to_public(prediction or new_id()),
        values=values,
        output=output,
    )


def share(version, account, user, *, days=7, **options) -> SharedRun:
    offer = offer_of(version, account, user, **options)
    return share_run(Actor(user=user), account, offer=offer, days=days)


def test_a_run_is_kept_on_wish_and_shown_to_everybody_with_the_address(
    version, account, owner, owner_client
):
    sent = {"offer": offer_of(version, account, owner), "days": "7"}
    assert SharedRun.objects.count() == 0

    made = owner_client.post(SHARE, sent, headers=HTMX)

    run = SharedRun.objects.get()
    assert (run.input, run.output) == (VALUES, OUTPUT)
    assert len(run.token) == 24
    assert f"/runs/{run.token}" in made.content.decode()
    seen = Client().get(f"/runs/{run.token}")
    text = seen.content.decode()
    assert seen.status_code == 200
    assert "3.5" in text
    assert "7.25" in text
    assert seen["X-Robots-Tag"] == "noindex, nofollow"
    # Who ran it and what it cost is not for strangers.
    assert owner.email not in text
    assert "Revoke" not in text
    assert AuditEvent.objects.filter(action="run.share").count() == 1


def test_without_scripts_the_form_leads_to_the_run(version, account, owner, owner_client):
    sent = {"offer": offer_of(version, account, owner), "days": "1"}

    answer = owner_client.post(SHARE, sent)

    assert answer.status_code == 302
    assert owner_client.get(answer.url).status_code == 200


def test_the_same_run_is_kept_once(version, account, owner):
    prediction = new_id()
    first = share(version, account, owner, prediction=prediction, days=1)
    again = share(version, account, owner, prediction=prediction, days=30)

    assert first.token == again.token
    assert SharedRun.objects.get().expires_at > timezone.now() + timedelta(days=29)


@pytest.mark.parametrize(
    "offer", ["", "x", "a:b:c", signing.dumps({"account": "x"}), "x" * (512 * 1024 + 1)]
)
def test_what_was_not_signed_here_is_not_kept(version, account, owner_client, offer):
    answer = owner_client.post(SHARE, {"offer": offer, "days": "7"}, headers=HTMX)

    assert answer.status_code == 422
    assert SharedRun.objects.count() == 0


def test_a_run_that_was_changed_on_its_way_is_not_kept(version, account, owner, owner_client):
    offer = offer_of(version, account, owner)
    changed = ("A" if offer[0] != "A" else "B") + offer[1:]

    answer = owner_client.post(SHARE, {"offer": changed, "days": "7"}, headers=HTMX)

    assert answer.status_code == 422
    assert "run_offer_invalid" in answer.content.decode()
    assert SharedRun.objects.count() == 0


def test_an_old_run_is_not_kept(version, account, owner, monkeypatch):
    offer = offer_of(version, account, owner)
    monkeypatch.setattr(run_service, "OFFER_MAX_AGE_S", -1)

    with pytest.raises(RunOfferInvalidError):
        share_run(Actor(user=owner), account, offer=offer, days=7)


@pytest.mark.parametrize("days", ["0", "2", "366", "", "x"])
def test_only_the_offered_times_can_be_chosen(version, account, owner, owner_client, days):
    sent = {"offer": offer_of(version, account, owner), "days": days}

    assert owner_client.post(SHARE, sent, headers=HTMX).status_code == 422
    assert SharedRun.objects.count() == 0


def test_a_run_is_shared_at_the_limit_of_its_size_and_not_one_past(version, account, owner):
    rest = RUN_BYTES_MAX - measure({"input": VALUES, "output": {"y": ""}})

    at = share(
        version, account, owner, output={"y": "é" * ((rest - rest % 2) // 2) + "x" * (rest % 2)}
    )
    past = offer_of(version, account, owner, output={"y": "x" * (rest + 1)})

    assert at.size_bytes == RUN_BYTES_MAX
    assert past == ""
    assert offer_of(version, account, owner, output={"y": "x" * rest})
    with pytest.raises(IntegrityError), transaction.atomic():
        SharedRun.objects.update(size_bytes=RUN_BYTES_MAX + 1)


def test_an_account_shares_so_many_and_not_one_more(version, account, owner, monkeypatch):
    monkeypatch.setattr(run_service, "RUNS_PER_ACCOUNT_MAX", 2)
    share(version, account, owner)
    kept = share(version, account, owner)

    with pytest.raises(TooManyRunsError):
        share(version, account, owner)
    run_service.revoke_run(Actor(user=owner), kept)

    assert share(version, account, owner).pk
    assert SharedRun.objects.count() == 2


def test_text_that_the_database_does_not_take_is_made_fit(version, account, owner):
    run = share(version, account, owner, output={"y": "a\x00b", "z": ["\x00"]})

    run.refresh_from_db()
    assert run.output == {"y": "a\N{REPLACEMENT CHARACTER}b", "z": ["\N{REPLACEMENT CHARACTER}"]}


# --- Who may ----------------------------------------------------------------------


def test_another_person_cannot_share_it_in_their_account(
    version, account, owner, outsider, outsider_client, teammate_client
):
    sent = {"offer": offer_of(version, account, owner), "days": "7"}

    assert outsider_client.post(SHARE, sent, headers=HTMX).status_code == 404
    assert outsider_client.post("/runs/share", sent, headers=HTMX).status_code == 422
    # It is the person's own page that hands it back.
    assert teammate_client.post(SHARE, sent, headers=HTMX).status_code == 422
    assert Client().post(SHARE, sent).status_code == 302
    assert SharedRun.objects.count() == 0


def test_a_private_models_run_is_for_its_people(
    version, model, account, owner, owner_client, teammate_client, outsider_client
):
    run = share(version, account, owner)
    AIModel.objects.update(visibility="private")

    for client, status in (
        (owner_client, 200),
        (teammate_client, 200),
        (outsider_client, 404),
        (Client(), 404),
    ):
        assert client.get(f"/runs/{run.token}").status_code == status


def test_an_outsiders_run_of_a_model_that_became_private_is_gone_for_all_but_its_people(
    version, outsider, outsider_client, owner_client
):
    run = share(version, outsider.accounts.get(), outsider)
    link = f'href="/runs/{run.token}"'
    assert link in outsider_client.get("/runs").content.decode()
    AIModel.objects.update(visibility="private")

    assert outsider_client.get(f"/runs/{run.token}").status_code == 404
    # It can still be found in the list, which leads nowhere then, and ended.
    text = outsider_client.get("/runs").content.decode()
    assert run.token[:8] in text
    assert link not in text
    assert "not shown: its model is private now, or suspended" in text
    assert outsider_client.post(f"/runs/{run.token}/revoke").status_code == 302
    assert SharedRun.objects.count() == 0


@pytest.mark.parametrize("what", ["model", "creator", "sharer"])
def test_what_is_suspended_shows_no_runs(version, model, account, owner, outsider, what):
    sharer = outsider.accounts.get()
    run = share(version, sharer, outsider)
    match what:
        case "model":
            AIModel.objects.update(suspended_at=timezone.now())
        case "creator":
            Account.objects.filter(pk=account.pk).update(suspended_at=timezone.now())
        case "sharer":
            Account.objects.filter(pk=sharer.pk).update(suspended_at=timezone.now())

    assert Client().get(f"/runs/{run.token}").status_code == 404


def test_owner_and_developers_revoke_and_nobody_else(
    version, account, owner, owner_client, teammate_client, outsider_client
):
    run = share(version, account, owner)
    viewer = UserFactory()
    MembershipFactory(account=account, user=viewer, role=Membership.Role.VIEWER)
    viewer_client = Client()
    viewer_client.force_login(viewer)
    url = f"/runs/{run.token}/revoke"

    assert outsider_client.post(url).status_code == 404
    assert viewer_client.post(url).status_code == 403
    assert Client().post(url).status_code == 302
    assert SharedRun.objects.count() == 1
    assert "cannot be undone" in teammate_client.get(url).content.decode()
    assert teammate_client.post(url).status_code == 302
    assert owner_client.get(f"/runs/{run.token}").status_code == 404
    assert AuditEvent.objects.filter(action="run.revoke").count() == 1


def test_without_the_rule_a_private_models_run_would_be_shown(
    version, account, owner, outsider_client, monkeypatch
):
    """The control of the tests above."""
    run = share(version, account, owner)
    AIModel.objects.update(visibility="private")
    monkeypatch.setattr(runs, "list_visible_models", lambda actor: AIModel.objects.all())

    assert outsider_client.get(f"/runs/{run.token}").status_code == 200


def test_the_list_is_the_accounts_own(version, account, owner, owner_client, outsider_client):
    run = share(version, account, owner)

    assert run.token[:8] in owner_client.get("/runs?account=acme").content.decode()
    assert outsider_client.get("/runs?account=acme").status_code == 404
    assert "Nothing is shared" in outsider_client.get("/runs").content.decode()
    assert Client().get("/runs").status_code == 302


# --- Time -------------------------------------------------------------------------


def test_a_run_whose_time_is_over_is_not_shown_and_then_deleted(version, account, owner):
    run = share(version, account, owner)
    kept = share(version, account, owner)
    SharedRun.objects.filter(pk=run.pk).update(expires_at=timezone.now())

    assert Client().get(f"/runs/{run.token}").status_code == 404
    assert forget_runs() == 1
    assert SharedRun.objects.get().pk == kept.pk


def test_beat_deletes_them(version, account, owner):
    share(version, account, owner)
    SharedRun.objects.update(expires_at=timezone.now())

    forget_predictions()

    assert SharedRun.objects.count() == 0


@pytest.mark.parametrize("token", ["x", "A" * 24, "%00", "é"])
def test_an_address_that_nobody_gave_out_is_nothing(version, client, token):
    assert client.get(f"/runs/{token}").status_code in (400, 404)


def test_script_in_a_run_is_text(version, account, owner):
    run = share(
        version,
        account,
        owner,
        values={"x": "<script>alert(1)</script>"},
        output={"y": "<img src=x onerror=alert(1)>"},
    )

    text = Client().get(f"/runs/{run.token}").content.decode()

    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)" in text
