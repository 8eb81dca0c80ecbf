"""An account's own collections: who sees what of them, their order and their limits."""

from __future__ import annotations

import re
from threading import Barrier, Thread

import pytest
from django.db import connection
from django.test import Client

from marketplace.core import limits
from marketplace.errors import CountLimitError
from marketplace.models import Account, AIModel, AuditEvent, Collection, CollectionEntry
from marketplace.selectors import access
from marketplace.selectors import collection as selectors
from marketplace.selectors.access import Actor
from marketplace.services import collection as services
from tests.factories import AIModelFactory, ChannelFactory

EDIT = "/dashboard/collections/acme/best"
PAGE = "/collections/acme/best"


def sell(account, name: str, **fields) -> AIModel:
    model = AIModelFactory(account=account, name=name, **fields)
    ChannelFactory(version__model=model)
    return model


@pytest.fixture
def best(owner, account) -> Collection:
    return services.create_collection(
        actor=Actor(user=owner), account=account, title="Best", summary="Why", is_public=True
    )


def put(client: Client, model: object, do: str = "add", **fields: object):
    form = {"model": str(model), "do": do} | fields
    return client.post(f"{EDIT}/models", form, follow=True).content.decode()


def names(collection: Collection) -> list[str]:
    return [entry.model.name for entry in selectors.list_entries(collection)]


def shown(client: Client, address: str = PAGE) -> list[str]:
    text = client.get(address).content.decode()
    return re.findall(r'<p class="fine mono">acme/([^<]+)</p>', text)


# --- made and changed


def test_a_collection_is_made_and_filled(owner_client, account):
    sell(account, "digits")
    form = {"title": "For retail", "summary": "They go together", "is_public": "on"}

    answer = owner_client.post("/dashboard/collections/new?account=acme", form)
    assert (answer.status_code, answer.url) == (302, "/dashboard/collections/acme/for-retail")
    made = Collection.objects.get()
    assert (made.account, made.title, made.is_public) == (account, "For retail", True)

    owner_client.post(
        "/dashboard/collections/acme/for-retail/models", {"model": "acme/digits", "do": "add"}
    )
    assert shown(Client(), "/collections/acme/for-retail") == ["digits"]
    assert [event.action for event in AuditEvent.objects.order_by("seq")] == [
        "collection.create",
        "collection.add",
    ]
    assert AuditEvent.objects.first().account_id == account.pk


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Für die Bank", "fur-die-bank"),
        ("مجموعة", "collection"),
        ("🎉🎉", "collection"),
        ("--a__b--", "a-b"),
        ("x" * 80, "x" * 56),
    ],
)
def test_every_title_has_an_address(owner, account, title, slug):
    def make() -> str:
        made = services.create_collection(
            actor=Actor(user=owner), account=account, title=title, summary="", is_public=False
        )
        return made.slug

    assert (make(), make(), make()) == (slug, f"{slug}-2", f"{slug}-3")


def test_the_address_stays_when_the_title_changes(owner_client, best):
    owner_client.post(EDIT, {"title": "Other", "summary": "", "is_public": ""})

    best.refresh_from_db()
    assert (best.slug, best.title, best.is_public) == ("best", "Other", False)
    assert AuditEvent.objects.get(action="collection.update").payload["changed"] == [
        "is_public",
        "summary",
        "title",
    ]


def test_the_same_again_changes_nothing(owner_client, best):
    before = AuditEvent.objects.count()

    owner_client.post(EDIT, {"title": "Best", "summary": "Why", "is_public": "on"})

    assert AuditEvent.objects.count() == before


@pytest.mark.parametrize(
    "form", [{"title": ""}, {"title": "x" * 81}, {"title": "x", "summary": "y" * 281}]
)
def test_a_wrong_form_changes_nothing(owner_client, best, form):
    before = AuditEvent.objects.count()

    assert owner_client.post(EDIT, form).status_code == 422
    assert owner_client.post("/dashboard/collections/new?account=acme", form).status_code == 422
    assert Collection.objects.get().title == "Best"
    assert AuditEvent.objects.count() == before


@pytest.mark.parametrize("model", ["digits", "a/b/c", "", "no/such", "acme/no-such", "x" * 104])
def test_what_is_no_model_is_not_put_in(owner_client, best, model):
    text = put(owner_client, model)

    assert 'class="alert' in text
    assert CollectionEntry.objects.count() == 0


def test_a_deleted_collection_is_gone_and_its_models_are_not(owner, owner_client, account, best):
    model = sell(account, "digits")
    services.add_model(actor=Actor(user=owner), collection=best, model=model)

    assert "Delete this collection?" in owner_client.get(f"{EDIT}/delete").content.decode()
    assert Collection.objects.count() == 1
    owner_client.post(f"{EDIT}/delete")

    assert Collection.objects.count() == 0
    assert AIModel.objects.get() == model
    assert AuditEvent.objects.get(action="collection.delete").payload == {
        "slug": "best",
        "models": ["acme/digits"],
    }


# --- order


@pytest.mark.parametrize(
    ("name", "do", "order"),
    [
        ("b", "up", ["b", "a", "c"]),
        ("b", "down", ["a", "c", "b"]),
        ("a", "up", ["a", "b", "c"]),
        ("c", "down", ["a", "b", "c"]),
        ("a", "remove", ["b", "c"]),
        ("b", "add", ["a", "b", "c"]),
    ],
)
def test_models_are_moved_and_taken_out(owner, owner_client, account, best, name, do, order):
    for each in "abc":
        services.add_model(actor=Actor(user=owner), collection=best, model=sell(account, each))

    put(owner_client, f"acme/{name}", do)

    assert names(best) == order
    places = CollectionEntry.objects.order_by("position").values_list("position", flat=True)
    assert list(places) == list(range(len(order)))
    assert shown(Client()) == order


def test_a_model_that_is_not_in_it_is_not_moved(owner_client, account, best):
    sell(account, "digits")

    assert "not in the collection" in put(owner_client, "acme/digits", "up")
    assert names(best) == []


def test_taking_out_has_an_undo_that_brings_it_back_to_its_place(
    owner, owner_client, account, best
):
    for each in "abc":
        services.add_model(actor=Actor(user=owner), collection=best, model=sell(account, each))

    text = put(owner_client, "acme/b", "remove")
    assert 'name="position" value="1"' in text

    put(owner_client, "acme/b", "add", position=1)
    assert names(best) == ["a", "b", "c"]


def test_the_keyboard_goes_on_at_the_model_that_moved(owner, owner_client, account, best):
    for each in "ab":
        services.add_model(actor=Actor(user=owner), collection=best, model=sell(account, each))

    answer = owner_client.post(f"{EDIT}/models", {"model": "acme/b", "do": "up"})

    assert answer.url == f"{EDIT}#model-acme-b"
    assert 'id="model-acme-b"' in owner_client.get(EDIT).content.decode()


# --- limits


@pytest.mark.parametrize("extra", [0, 1])
def test_a_collection_has_so_many_models(owner, account, best, extra, monkeypatch):
    monkeypatch.setattr(limits, "OWN_COLLECTION_MODELS_MAX", 2)
    models = [sell(account, f"m{number}") for number in range(2 + extra)]

    for model in models[:2]:
        services.add_model(actor=Actor(user=owner), collection=best, model=model)
    if extra:
        with pytest.raises(CountLimitError):
            services.add_model(actor=Actor(user=owner), collection=best, model=models[2])
    assert names(best) == ["m0", "m1"]


def test_the_limit_is_fifty():
    assert limits.OWN_COLLECTION_MODELS_MAX == 50


def test_an_account_has_so_many_collections(owner_client, account, best, monkeypatch):
    monkeypatch.setattr(limits, "COLLECTIONS_PER_ACCOUNT_MAX", 2)
    new = "/dashboard/collections/new?account=acme"

    assert owner_client.post(new, {"title": "Second"}).status_code == 302
    answer = owner_client.post(new, {"title": "Third"})
    assert answer.status_code == 422
    assert "at most 2 collections" in answer.content.decode()
    assert Collection.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_two_who_put_in_the_last_one_stay_within_the_limit(owner, account, best, monkeypatch):
    monkeypatch.setattr(limits, "OWN_COLLECTION_MODELS_MAX", 1)
    models, together, outcome = [sell(account, "a"), sell(account, "b")], Barrier(2), []

    def run(model: AIModel) -> None:
        together.wait(timeout=30)
        try:
            services.add_model(actor=Actor(user=owner), collection=best, model=model)
            outcome.append("in")
        except CountLimitError:
            outcome.append("full")
        finally:
            connection.close()

    threads = [Thread(target=run, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(outcome) == ["full", "in"]


# --- who sees what


@pytest.fixture
def mixed(owner, account, best) -> Collection:
    """A public model, a private one, one that is not on sale, one that is suspended."""
    actor = Actor(user=owner)
    models = [
        sell(account, "open"),
        sell(account, "secret", visibility="private", title="Top secret"),
        AIModelFactory(account=account, name="unsold"),
        sell(account, "banned", suspended_at=account.created_at),
    ]
    for model in models:
        services.add_model(actor=actor, collection=best, model=model)
    return best


def test_strangers_see_public_models_only(client, outsider_client, owner_client, mixed):
    assert shown(client) == ["open"]
    assert shown(outsider_client) == ["open"]
    assert shown(owner_client)[:2] == ["open", "secret"]
    for address in (PAGE, "/acme"):
        text = client.get(address).content.decode()
        assert "secret" not in text
        assert "unsold" not in text
    assert "1 model<" in client.get("/acme").content.decode()


def test_the_control_without_the_access_rules_strangers_see_private_models(
    client, mixed, monkeypatch
):
    monkeypatch.setattr(access, "list_accounts", lambda actor: Account.objects.all())

    assert "secret" in shown(client)


def test_a_private_collection_is_for_members(client, outsider_client, teammate_client, mixed):
    Collection.objects.update(is_public=False)

    for stranger in (client, outsider_client):
        assert stranger.get(PAGE).status_code == 404
        assert "Best" not in stranger.get("/acme").content.decode()
    assert teammate_client.get(PAGE).status_code == 200
    assert "Best" in teammate_client.get("/acme").content.decode()


def test_a_suspended_accounts_collections_are_not_shown(client, owner_client, account, mixed):
    Account.objects.update(suspended_at=account.created_at)

    assert client.get(PAGE).status_code == 404
    assert owner_client.get(PAGE).status_code == 200


def test_a_collection_without_anything_to_see_is_not_on_the_owners_page(
    client, owner_client, account, best
):
    sell(account, "digits")

    assert "Best" not in client.get("/acme").content.decode()
    assert "Best" in owner_client.get("/acme").content.decode()


def test_others_private_models_are_not_put_in(owner_client, outsider, best):
    hidden = sell(outsider.accounts.get(), "hidden", visibility="private")
    public = sell(outsider.accounts.get(), "shown")

    put(owner_client, hidden)
    put(owner_client, public)

    assert names(best) == ["shown"]


def test_a_model_that_became_private_can_still_be_taken_out(owner_client, outsider, best):
    model = sell(outsider.accounts.get(), "fickle")
    put(owner_client, model)
    AIModel.objects.filter(pk=model.pk).update(visibility="private")

    assert shown(owner_client) == []
    put(owner_client, model, "remove")
    assert names(best) == []


def test_accounts_collections_and_the_editors_are_apart(client, admin_client, account, mixed):
    text = client.get("/collections").content.decode()
    assert "Best" not in text
    assert client.get("/collections/best").status_code == 404
    assert "/collections/acme/best" not in client.get("/sitemap.xml").content.decode()

    editors = Collection.objects.create(slug="best", title="Of editors", is_public=True)
    CollectionEntry.objects.create(collection=editors, model=AIModel.objects.get(name="open"))
    assert "Of editors" in client.get("/collections/best").content.decode()
    assert "Of editors" not in client.get(PAGE).content.decode()
    assert client.get("/dashboard/collections/acme/best").status_code == 302


def test_the_admin_refuses_an_address_that_is_taken(admin_client, best):
    form = {
        "slug": "best",
        "title": "x",
        "summary": "",
        "entries-TOTAL_FORMS": "0",
        "entries-INITIAL_FORMS": "0",
    }
    add = "/admin/marketplace/collection/add/"

    assert admin_client.post(add, form).status_code == 302  # An account's one is another.
    assert "has this address already" in admin_client.post(add, form).content.decode()
    assert Collection.objects.filter(account=None).count() == 1


def test_an_admin_may_hide_an_accounts_collection_and_its_owner_reads_so(
    admin_client, account, best
):
    form = {
        "slug": "best",
        "title": "Best",
        "summary": "",
        "entries-TOTAL_FORMS": "0",
        "entries-INITIAL_FORMS": "0",
    }
    admin_client.post(f"/admin/marketplace/collection/{best.pk}/change/", form)

    best.refresh_from_db()
    assert (best.is_public, best.account) == (False, account)
    assert AuditEvent.objects.filter(action="collection.update", account_id=account.pk).exists()


def test_script_in_a_collection_is_text(owner, client, account):
    script = "<script>alert(1)</script>"
    made = services.create_collection(
        actor=Actor(user=owner), account=account, title=script, summary=script, is_public=True
    )
    services.add_model(actor=Actor(user=owner), collection=made, model=sell(account, "m"))

    for address in (f"/collections/acme/{made.slug}", "/acme"):
        assert "<script>alert" not in client.get(address).content.decode()


def test_pages_ask_as_often_for_many_as_for_one(
    owner, owner_client, account, best, django_assert_max_num_queries
):
    for number in range(20):
        model = sell(account, f"m{number}")
        services.add_model(actor=Actor(user=owner), collection=best, model=model)

    for address in (EDIT, PAGE, "/dashboard/collections?account=acme"):
        with django_assert_max_num_queries(14):
            assert owner_client.get(address).status_code == 200
