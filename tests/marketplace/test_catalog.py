from __future__ import annotations

import threading

import pytest
from django.db import connection

from marketplace.core import limits
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.errors import CountLimitError, VersionNotApprovedError, VersionStateError
from marketplace.models import AIModel, AuditEvent, Channel, ModelVersion, Review
from marketplace.selectors import catalog as selectors
from marketplace.selectors.access import ANONYMOUS, Actor
from marketplace.services import catalog, review
from tests.factories import (
    AccountFactory,
    AIModelFactory,
    ChannelFactory,
    ModelVersionFactory,
    UserFactory,
)

State = ModelVersion.State


@pytest.fixture
def actor(owner):
    return Actor(user=owner)


def actions() -> list[str]:
    return list(AuditEvent.objects.order_by("seq").values_list("action", flat=True))


def test_put_model_creates_then_updates_then_does_nothing(actor, account):
    model, is_new = catalog.put_model(
        actor=actor, account=account, name="digits", fields={"title": "Digits"}
    )
    assert (is_new, model.title, model.visibility) == (True, "Digits", "public")

    same, is_new = catalog.put_model(
        actor=actor, account=account, name="digits", fields={"title": "Digits 2", "task": "ocr"}
    )
    assert (is_new, same.pk, same.title, same.task) == (False, model.pk, "Digits 2", "ocr")

    catalog.put_model(actor=actor, account=account, name="digits", fields={"task": "ocr"})
    assert actions() == ["model.create", "model.update"]
    assert AuditEvent.objects.get(action="model.update").payload["changed"] == ["task", "title"]


@pytest.mark.parametrize(
    ("pointer", "name", "fields"),
    [
        ("/name", "Digits", {"title": "x"}),
        ("/name", "a/b", {"title": "x"}),
        ("/title", "digits", {}),
        ("/title", "digits", {"title": "x" * 121}),
        ("/title", "digits", {"title": "a\x00b"}),
        ("/visibility", "digits", {"title": "x", "visibility": "secret"}),
        ("/card", "digits", {"title": "x", "card": "x" * (limits.CARD_LENGTH_MAX + 1)}),
    ],
)
def test_a_bad_listing_is_not_stored(actor, account, pointer, name, fields):
    with pytest.raises(InvalidInputError) as caught:
        catalog.put_model(actor=actor, account=account, name=name, fields=fields)

    assert [fault["pointer"] for fault in caught.value.errors] == [pointer]
    assert AIModel.objects.count() == 0
    assert actions() == []


def test_an_account_has_a_limited_number_of_models(actor, account, monkeypatch):
    monkeypatch.setattr(limits, "MODELS_PER_ACCOUNT_MAX", 1)
    catalog.put_model(actor=actor, account=account, name="one", fields={"title": "1"})

    with pytest.raises(CountLimitError):
        catalog.put_model(actor=actor, account=account, name="two", fields={"title": "2"})

    catalog.put_model(actor=actor, account=account, name="one", fields={"title": "still"})
    assert AIModel.objects.get().title == "still"


def test_versions_are_numbered_without_gaps(actor, account):
    model = AIModelFactory(account=account)

    numbers = [catalog.create_version(model=model, actor=actor).number for _ in range(3)]

    assert numbers == [1, 2, 3]
    other = catalog.create_version(model=AIModelFactory(account=account), actor=actor)
    assert (other.number, other.state, other.created_by) == (1, State.UPLOADING, actor.user)


def test_a_model_has_a_limited_number_of_versions(actor, account, monkeypatch):
    monkeypatch.setattr(limits, "VERSIONS_PER_MODEL_MAX", 1)
    model = AIModelFactory(account=account)
    catalog.create_version(model=model, actor=actor)

    with pytest.raises(CountLimitError):
        catalog.create_version(model=model, actor=actor)

    assert model.versions.count() == 1


def in_threads(count: int, call) -> list:
    """Run `call` in threads that begin together, each on its own connection."""
    results, barrier = [], threading.Barrier(count)

    def run() -> None:
        try:
            barrier.wait()
            results.append(call())
        except Exception as error:  # noqa: BLE001 - handed to the asserting thread
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.django_db(transaction=True)
def test_versions_made_at_once_get_different_numbers():
    user = UserFactory()
    model = AIModelFactory(account=AccountFactory(owner=user))

    versions = in_threads(
        8, lambda: catalog.create_version(model=model, actor=Actor(user=user)).number
    )

    assert sorted(versions) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.django_db(transaction=True)
def test_of_two_admins_only_one_decides(platform_admin):
    version = ModelVersionFactory(state=State.IN_REVIEW)

    def approve():
        mine = ModelVersion.objects.get(pk=version.pk)
        return review.approve_version(version=mine, reviewer=platform_admin, reason="Fine.")

    results = in_threads(4, approve)

    assert sorted(type(result).__name__ for result in results) == [
        "Review",
        "VersionStateError",
        "VersionStateError",
        "VersionStateError",
    ]
    assert Review.objects.count() == 1


ARROWS = [(before, after, after in catalog.ARROWS[before]) for before in State for after in State]


def move(version: ModelVersion, target: str, actor: Actor) -> None:
    match target:
        case State.ONBOARDING:
            catalog.start_onboarding(
                version=version, runtime="onnx", interface={}, manifest_sha256="", size_bytes=1
            )
        case State.IN_REVIEW:
            catalog.submit_for_review(version=version)
        case State.APPROVED:
            catalog.approve(version=version, actor=actor)
        case State.REFUSED:
            catalog.refuse(version=version, actor=actor, reason="No.")
        case State.FAILED:
            catalog.fail(version=version, reason="test_failed")
        case State.WITHDRAWN:
            catalog.withdraw(version=version, actor=actor)


@pytest.mark.parametrize(("before", "after", "is_allowed"), ARROWS)
def test_a_version_moves_only_along_the_arrows(actor, before, after, is_allowed):
    if after == State.UPLOADING:
        assert not is_allowed  # There is no function that leads there.
        return
    version = ModelVersionFactory(state=before)
    is_repeat = before == after and after not in (State.APPROVED, State.REFUSED)

    if is_allowed or is_repeat:
        move(version, after, actor)
    else:
        with pytest.raises(VersionStateError):
            move(version, after, actor)

    expected = after if is_allowed else before
    assert ModelVersion.objects.get().state == version.state == expected


def test_start_onboarding_fixes_the_content_once(actor):
    version = ModelVersionFactory(state=State.UPLOADING, runtime="", interface={})
    content = {"runtime": "onnx", "interface": {"a": 1}, "manifest_sha256": "0" * 64}
    catalog.start_onboarding(version=version, **content, size_bytes=7, publish_channel="prod")
    catalog.start_onboarding(
        version=version, runtime="other", interface={}, manifest_sha256="f" * 64, size_bytes=9
    )

    stored = ModelVersion.objects.get()
    assert stored.state == State.ONBOARDING
    assert (stored.runtime, stored.interface, stored.size_bytes) == ("onnx", {"a": 1}, 7)
    assert (stored.manifest_sha256, stored.publish_channel) == ("0" * 64, "prod")


def test_the_first_reason_of_a_failure_stays(actor):
    version = ModelVersionFactory(state=State.ONBOARDING)
    catalog.fail(version=version, reason="test_mismatch")
    catalog.fail(version=version, reason="another")

    assert ModelVersion.objects.get().refusal_reason == "test_mismatch"


def test_submit_stores_the_certificate(actor):
    version = ModelVersionFactory(state=State.ONBOARDING)
    catalog.submit_for_review(version=version, certificate={"load_time_s": 1.5})

    assert ModelVersion.objects.get().certificate == {"load_time_s": 1.5}


def test_publish_moves_a_channel_once(actor, account):
    model = AIModelFactory(account=account)
    first, second = (ModelVersionFactory(model=model, number=number) for number in (1, 2))

    catalog.publish_version(version=first, channel="prod", actor=actor)
    catalog.publish_version(version=second, channel="prod", actor=actor)
    catalog.publish_version(version=second, channel="prod", actor=actor)

    assert Channel.objects.get().version == second
    assert list(
        AuditEvent.objects.order_by("seq").values_list("action", "payload__from", "payload__to")
    ) == [("channel.move", None, 1), ("channel.move", 1, 2)]


@pytest.mark.parametrize("state", [state for state in State if state != State.APPROVED])
def test_only_an_approved_version_is_published(actor, account, state):
    version = ModelVersionFactory(model__account=account, state=state)

    with pytest.raises(VersionNotApprovedError):
        catalog.publish_version(version=version, channel="prod", actor=actor)

    assert Channel.objects.count() == 0
    assert actions() == []


def test_publish_looks_at_the_row_not_at_the_object(actor, account):
    version = ModelVersionFactory(model__account=account)
    ModelVersion.objects.update(state=State.WITHDRAWN)

    with pytest.raises(VersionNotApprovedError):
        catalog.publish_version(version=version, channel="prod", actor=actor)


def test_onboarding_publishes_in_its_own_name(account):
    version = ModelVersionFactory(model__account=account)
    catalog.publish_version(version=version, channel="prod")

    assert AuditEvent.objects.get().actor == "system:onboarding"


def test_withdraw_takes_the_channels_away(actor, account):
    version = ModelVersionFactory(model__account=account)
    ChannelFactory(version=version, name="prod")
    ChannelFactory(version=version, name="dev")

    catalog.withdraw(version=version, actor=actor)

    assert Channel.objects.count() == 0
    assert AuditEvent.objects.get().payload["channels"] == ["dev", "prod"]


def test_approve_writes_review_state_and_log(platform_admin):
    version = ModelVersionFactory(state=State.IN_REVIEW)
    review.approve_version(version=version, reviewer=platform_admin, reason=" Clean. ")

    stored = Review.objects.get()
    assert (stored.decision, stored.reason, stored.reviewer) == (
        "approved",
        "Clean.",
        platform_admin,
    )
    assert ModelVersion.objects.get().state == State.APPROVED
    event = AuditEvent.objects.get()
    assert (event.action, event.actor) == ("version.approve", "user:admin@example.com")


def test_refuse_tells_the_creator_why(platform_admin):
    version = ModelVersionFactory(state=State.IN_REVIEW)
    review.refuse_version(version=version, reviewer=platform_admin, reason="Licence unclear.")

    stored = ModelVersion.objects.get()
    assert (stored.state, stored.refusal_reason) == (State.REFUSED, "Licence unclear.")


@pytest.mark.parametrize("reason", ["", "   ", "x" * (limits.REASON_LENGTH_MAX + 1)])
def test_a_review_needs_a_reason(platform_admin, reason):
    version = ModelVersionFactory(state=State.IN_REVIEW)
    with pytest.raises(InvalidInputError):
        review.approve_version(version=version, reviewer=platform_admin, reason=reason)

    assert ModelVersion.objects.get().state == State.IN_REVIEW
    assert (Review.objects.count(), actions()) == (0, [])


def test_only_platform_admins_review(owner):
    version = ModelVersionFactory(state=State.IN_REVIEW)
    with pytest.raises(ForbiddenError):
        review.approve_version(version=version, reviewer=owner, reason="Mine is good.")

    assert ModelVersion.objects.get().state == State.IN_REVIEW


def test_the_catalogue_lists_what_is_on_sale(account):
    on_sale = ChannelFactory(version__model__account=account, version__model__name="sold").model
    private = ChannelFactory(version__model__visibility="private").model
    AIModelFactory(account=account, name="not-yet")
    ChannelFactory(name="dev")

    assert list(selectors.list_catalogue(ANONYMOUS)) == [on_sale]
    member = Actor(user=UserFactory())
    assert private not in selectors.list_catalogue(member)


@pytest.mark.parametrize(
    ("_case", "query", "task", "expected"),
    [
        ("all words", "sentence vectors", "", ["minilm"]),
        ("owner", "ACME", "", ["digits", "minilm"]),
        ("no such word", "sentence nonsense", "", []),
        ("like wildcards are letters", "%", "", []),
        ("task", "", "ocr", ["digits"]),
        ("task and word", "vectors", "ocr", []),
    ],
)
def test_search(account, _case, query, task, expected):
    for name, title, of_task in [
        ("digits", "Digits", "ocr"),
        ("minilm", "Sentence vectors", "embedding"),
    ]:
        model = AIModelFactory(account=account, name=name, title=title, task=of_task)
        ChannelFactory(version__model=model)

    found = selectors.list_catalogue(ANONYMOUS, query=query, task=task)
    assert [model.name for model in found] == expected


def test_the_review_queue_is_first_come_first_served(db):
    second = ModelVersionFactory(state=State.IN_REVIEW)
    ModelVersionFactory(state=State.APPROVED)
    third = ModelVersionFactory(state=State.IN_REVIEW)

    assert list(selectors.list_review_queue()) == [second, third]
