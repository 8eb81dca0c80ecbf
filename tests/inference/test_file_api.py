"""Files over the API and by their own addresses: who may, what comes, and what browsers may do."""

from __future__ import annotations

import io
import os
import time
from datetime import timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from inference.api import file as api
from inference.core.file_link import (
    WORD_TTL_S,
    LinkExpiredError,
    LinkWrongError,
    Word,
    check_link,
    make_link,
    read_word,
    write_word,
)
from inference.models import File
from inference.services import file as files
from marketplace.core.ids import new_id, to_public
from marketplace.models import AuditEvent
from tests.factories import AccountFactory, APIKeyFactory
from tests.inference.storing import list_objects, use_store

pytestmark = pytest.mark.django_db
CONTENT = b"{'n': 1}\n" * 1000


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path / "objects")


@pytest.fixture
def api_key(account):
    return APIKeyFactory(account=account, scopes=["predict"])


@pytest.fixture
def call(api_key):
    return bearer(api_key.text)


def bearer(text, scheme="Bearer"):
    return Client(headers={"Authorization": f"{scheme} {text}"})


def put_up(client, content=CONTENT, name="a b.txt", kind="text/plain", field="content", **more):
    form = {field: SimpleUploadedFile(name, content, kind), **more}
    return client.post("/api/files" + more.pop("query", ""), form)


def read(response):
    return b"".join(response.streaming_content)


# --- what is put up ---


@pytest.mark.parametrize("field", ["content", "file"])
def test_a_file_is_put_up_listed_fetched_and_deleted(call, account, store, field):
    made = put_up(call, field=field)
    assert made.status_code == 201, made.content
    document = made.json()
    assert document["size"] == len(CONTENT)
    assert (document["name"], document["content_type"]) == ("a b.txt", "text/plain")
    assert document["checksums"]["sha256"] == document["etag"]
    assert len(list_objects(store)) == 1

    assert [one["id"] for one in call.get("/api/files").json()["results"]] == [document["id"]]
    shown = call.get(f"/api/files/{document['id']}").json()
    assert shown | {"urls": None} == document | {"urls": None}
    assert read(call.get(f"/api/files/{document['id']}/content")) == CONTENT

    assert call.delete(f"/api/files/{document['id']}").status_code == 204
    assert call.get(f"/api/files/{document['id']}").status_code == 404
    assert call.get(f"/api/files/{document['id']}/content").status_code == 404
    assert not list_objects(store)


def test_what_clients_send_beside_it_does_no_harm(call):
    extra = SimpleUploadedFile("metadata", b'{"a": 1}', "application/json")
    made = put_up(call, metadata=extra, filename="other.bin", type="image/png")
    assert (made.json()["name"], made.json()["content_type"]) == ("other.bin", "image/png")


@pytest.mark.parametrize(
    ("_case", "form", "code"),
    [
        ("nothing", {}, "file_missing"),
        ("another field", {"picture": ("x.png", b"x")}, "file_missing"),
        ("two", {"content": ("x", b"x"), "file": ("y", b"y")}, "file_missing"),
        ("no name", {"content": ("x", b"x"), "filename": "a\nb"}, "file_name_invalid"),
        ("no type", {"content": ("x", b"x"), "type": "nonsense"}, "file_name_invalid"),
        ("too short", {"content": ("x", b"x"), "expires_in": "59"}, "file_lifetime_invalid"),
        ("too long", {"content": ("x", b"x"), "expires_in": "86401"}, "file_lifetime_invalid"),
        ("no time", {"content": ("x", b"x"), "expires_in": "-1"}, "file_lifetime_invalid"),
    ],
)
def test_what_is_no_file_leaves_nothing(call, store, _case, form, code):
    sent = {
        name: SimpleUploadedFile(*one) if isinstance(one, tuple) else one
        for name, one in form.items()
    }
    refused = call.post("/api/files", sent)
    assert (refused.status_code, refused.json()["code"]) == (422, code)
    assert not File.objects.exists()
    assert not list_objects(store)


def test_what_is_no_form_is_refused(call):
    refused = call.post("/api/files", b"x", content_type="text/plain")
    assert refused.status_code == 400


@pytest.mark.parametrize("expires_in", [60, 86_400])
def test_a_lifetime_at_its_limits(call, expires_in):
    made = put_up(call, expires_in=expires_in)
    file = File.objects.get()
    assert made.status_code == 201
    assert abs((file.expires_at - file.created_at).total_seconds() - expires_in) < 1


def test_a_file_one_byte_too_large_is_refused(call, store, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES_MAX", len(CONTENT))
    assert put_up(call).status_code == 201
    refused = put_up(call, CONTENT + b"x")
    assert (refused.status_code, refused.json()["code"]) == (413, "file_too_large")
    assert len(list_objects(store)) == 1


def test_nothing_of_an_upload_is_on_the_disk_in_clear(call, store, monkeypatch, tmp_path):
    # What the framework would do: keep the form's file in the system's folder.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    seen = []
    original = files.Incoming.write

    def look(self, chunk):
        original(self, chunk)
        seen.extend(path.read_bytes() for path in list_objects(tmp_path))

    monkeypatch.setattr(files.Incoming, "write", look)
    canary = b"a canary that sings in clear text"
    assert put_up(call, canary * 200_000).status_code == 201
    assert any(seen)
    assert not any(canary in one for one in seen)


def test_pages_of_a_list(call, monkeypatch):
    monkeypatch.setattr("inference.selectors.file.PAGE_SIZE", 2)
    ids = [put_up(call).json()["id"] for _ in range(5)]
    found, before = [], ""
    while before is not None:
        page = call.get("/api/files", {"before": before}).json()
        found += [one["id"] for one in page["results"]]
        before = page["next"]
    assert found == ids[::-1]
    assert call.get("/api/files", {"before": "file_x"}).status_code == 404


# --- who may ---


@pytest.mark.parametrize(
    ("scopes", "reads", "writes"),
    [(["predict"], 200, 201), (["read"], 200, 403), (["keys", "billing"], 403, 403)],
)
def test_scopes_of_keys(call, account, scopes, reads, writes):
    file_id = put_up(call).json()["id"]
    other = bearer(APIKeyFactory(account=account, scopes=scopes).text)
    assert put_up(other).status_code == writes
    assert other.get("/api/files").status_code == reads
    assert other.get(f"/api/files/{file_id}").status_code == reads
    assert other.get(f"/api/files/{file_id}/content").status_code == reads
    assert other.delete(f"/api/files/{file_id}").status_code == (204 if writes == 201 else 403)


def test_another_account_finds_nothing(call):
    file_id = put_up(call).json()["id"]
    stranger = bearer(APIKeyFactory(account=AccountFactory(), scopes=["predict", "read"]).text)
    assert stranger.get("/api/files").json()["results"] == []
    for path in (f"/api/files/{file_id}", f"/api/files/{file_id}/content"):
        assert stranger.get(path).status_code == 404
    assert stranger.delete(f"/api/files/{file_id}").status_code == 404
    assert stranger.get("/api/files", {"account": "acme"}).status_code == 404
    assert Client().get(f"/api/files/{file_id}").status_code == 401
    assert File.objects.count() == 1


def test_a_person_says_whose_and_is_in_the_log(owner_client, outsider, account):
    made = owner_client.post("/api/files?account=acme", {"file": io.BytesIO(b"x")})
    assert made.status_code == 201
    assert owner_client.delete(f"/api/files/{made.json()['id']}").status_code == 204
    assert owner_client.post("/api/files", {"file": io.BytesIO(b"x")}).status_code == 404
    actions = AuditEvent.objects.filter(account_id=account.pk).values_list("action", flat=True)
    assert {"file.add", "file.delete"} <= set(actions)
    client = Client()
    client.force_login(outsider)
    assert client.post("/api/files?account=acme", {"file": io.BytesIO(b"x")}).status_code == 404


def test_a_form_of_another_site_is_refused(owner, account, settings):
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner)
    refused = client.post("/api/files?account=acme", {"file": io.BytesIO(b"x")})
    assert refused.status_code == 403
    assert not File.objects.exists()
    # With the token of a form of ours it is taken, whether it stands in the form or in a header.
    client.get("/console/files?account=acme")
    token = client.cookies[settings.CSRF_COOKIE_NAME].value
    form = {"file": io.BytesIO(b"x"), "csrfmiddlewaretoken": token}
    assert client.post("/api/files?account=acme", form).status_code == 201
    headers = {"X-CSRFToken": token}
    form = {"file": io.BytesIO(b"x")}
    assert client.post("/api/files?account=acme", form, headers=headers).status_code == 201


def test_an_account_that_keeps_nothing(call, account):
    account.retention_days = 0
    account.save()
    refused = put_up(call)
    assert (refused.status_code, refused.json()["code"]) == (409, "retention_zero")


# --- through a gateway ---


def word(settings, account, *scopes, now_s=None):
    claims = Word(account.pk, scopes)
    return write_word(settings.PLAYGROUND_SECRET, claims, now_s=now_s or time.time())


def test_a_gateway_s_word_stands_for_a_key(settings, account):
    text = word(settings, account, "predict")
    assert put_up(bearer(text, "Gateway")).status_code == 201
    assert bearer(text, "Gateway").get("/api/keys?account=acme").status_code == 401
    assert bearer(text).get("/api/files").status_code == 401
    reader = bearer(word(settings, account, "read"), "Gateway")
    assert put_up(reader).status_code == 403


@pytest.mark.parametrize("_case", ["forged", "old", "far ahead", "of another account"])
def test_a_word_that_no_gateway_gave(settings, account, _case):
    now_s = time.time()
    good = word(settings, account, "predict", now_s=now_s)
    text = {
        "forged": write_word("another secret", Word(account.pk, ("predict",)), now_s=now_s),
        "old": word(settings, account, "predict", now_s=now_s - WORD_TTL_S - 1),
        "far ahead": word(settings, account, "predict", now_s=now_s + 2 * WORD_TTL_S),
        "of another account": word(settings, AccountFactory(), "predict").split(".")[0]
        + "."
        + good.split(".")[1],
    }[_case]
    assert bearer(text, "Gateway").get("/api/files").status_code == 401
    assert read_word(settings.PLAYGROUND_SECRET, good, now_s=now_s) is not None


def test_an_output_is_kept_under_the_id_that_the_gateway_gave_it(settings, account, api_key):
    file_id, prediction_id = new_id(), new_id()
    query = urlencode({"prediction": to_public(prediction_id), "name": "sound.wav"})
    url = f"/api/gateway/outputs/file_{to_public(file_id)}?{query}"
    gateway = bearer(word(settings, account, "output"), "Gateway")
    made = gateway.post(url, b"RIFF", content_type="audio/wav")
    assert made.status_code == 201, made.content
    file = File.objects.get()
    assert (file.pk, file.prediction_id, file.purpose) == (file_id, prediction_id, "output")
    # No caller may do so, with or without a gateway.
    caller = bearer(word(settings, account, "predict"), "Gateway")
    assert caller.post(url, b"RIFF", content_type="audio/wav").status_code == 403
    assert bearer(api_key.text).post(url, b"R", content_type="audio/wav").status_code == 401


# --- by its own address ---


def link_of(call, content=CONTENT, **how):
    url = urlsplit(put_up(call, content, **how).json()["urls"]["content"])
    return f"{url.path}?{url.query}"


def test_an_address_opens_its_file_without_a_key(call, settings):
    url = put_up(call).json()["urls"]["content"]
    assert url.startswith(f"{settings.WEB_URL}/v1/files/file_")
    parts = urlsplit(url)
    response = Client().get(f"{parts.path}?{parts.query}")
    assert response.status_code == 200
    assert read(response) == CONTENT
    # Some clients send their key wherever an address leads.
    assert bearer("nonsense").get(f"{parts.path}?{parts.query}").status_code == 200


def test_a_changed_address_opens_nothing(call, settings):
    first, second = link_of(call), link_of(call)
    path, query = first.split("?")
    fields = dict(parse_qsl(query))
    changed = [
        f"{second.split('?')[0]}?{query}",
        f"{path}?{urlencode(fields | {'expires': int(fields['expires']) + 1})}",
        f"{path}?{urlencode(fields | {'signature': fields['signature'][:-1]})}",
        f"{path}?{urlencode(fields | {'signature': 'é' * 43})}",
        f"{path}?{urlencode(fields | {'expires': '9' * 13})}",
        f"{path}?{urlencode(fields | {'expires': '²'})}",
        f"{path}?expires={fields['expires']}",
        path,
        f"/v1/files/nonsense/content?{query}",
    ]
    for url in changed:
        refused = Client().get(url)
        assert (refused.status_code, refused.json()["code"]) == (403, "file_link_invalid"), url
    # The same look lets the right one pass.
    assert Client().get(first).status_code == 200


def test_an_address_ends_in_time(call, settings):
    file_id = File.objects.get(pk=put_up(call) and File.objects.get().pk).pk
    for lifetime_s, status in ((60, 200), (-1, 410)):
        link = make_link("", settings.PLAYGROUND_SECRET, file_id, int(time.time()) + lifetime_s)
        response = Client().get(link)
        assert response.status_code == status
    assert response.json()["code"] == "file_link_expired"


def test_a_link_is_over_at_its_moment():
    file_id = new_id()
    link = make_link("", "secret", file_id, 1_000)
    signature = dict(parse_qsl(link.split("?")[1]))["signature"]
    check_link("secret", file_id, "1000", signature, now_s=999.9)
    with pytest.raises(LinkExpiredError):
        check_link("secret", file_id, "1000", signature, now_s=1_000)
    with pytest.raises(LinkWrongError):
        check_link("other", file_id, "1000", signature, now_s=0)


def test_an_address_outlives_neither_its_file_nor_its_account(call, account):
    link = link_of(call)
    account.suspended_at = timezone.now()
    account.save()
    assert Client().get(link).status_code == 404
    account.suspended_at = None
    account.save()
    File.objects.update(created_at=timezone.now() - timedelta(days=2), expires_at=timezone.now())
    assert Client().get(link).status_code == 404


# --- what browsers may do ---


@pytest.mark.parametrize(
    ("kind", "answered", "shown"),
    [
        ("image/png", "image/png", True),
        ("audio/wav", "audio/wav", True),
        ("text/plain", "text/plain", False),
        ("text/html", "application/octet-stream", False),
        ("image/svg+xml", "application/octet-stream", False),
        ("application/xhtml+xml", "application/octet-stream", False),
        ("text/xml", "application/octet-stream", False),
        ("application/pdf", "application/octet-stream", False),
        ("text/javascript", "application/octet-stream", False),
    ],
)
def test_nothing_active_is_shown(call, kind, answered, shown):
    script = b"<script>alert(1)</script>"
    response = Client().get(link_of(call, script, name='a".html', kind=kind))
    assert response.headers["Content-Type"] == answered
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]
    disposition = response.headers["Content-Disposition"]
    assert disposition.startswith("inline" if shown else "attachment")
    assert "no-store" in response.headers["Cache-Control"]
    assert read(response) == script


def test_a_part_of_it(call):
    content = os.urandom(3_000_000)
    link = link_of(call, content)
    for wanted, status, part in [
        ("bytes=0-9", 206, content[:10]),
        ("bytes=2000000-", 206, content[2_000_000:]),
        ("bytes=2999999-9999999", 206, content[-1:]),
        ("nonsense", 200, content),
    ]:
        response = Client().get(link, headers={"Range": wanted})
        assert response.status_code == status
        assert read(response) == part
    refused = Client().get(link, headers={"Range": "bytes=3000000-"})
    assert (refused.status_code, refused.json()["code"]) == (416, "range_not_satisfiable")
    head = Client().head(link)
    assert (head.status_code, head.headers["Content-Length"]) == (200, "3000000")


def test_what_is_shown_holds_no_active_type():
    assert not any("svg" in one or "html" in one or "xml" in one for one in api.SHOWN_TYPES)
