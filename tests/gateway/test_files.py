"""Files through a real gateway, kept by a real site: what comes, who may, and what it costs."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time

import httpx
import jsonschema
import psutil
import pytest

from inference.gateway import openapi
from inference.gateway.config import FILE_FORM_BYTES_MAX
from inference.models import File
from tests.factories import AccountFactory, APIKeyFactory
from tests.gateway.conftest import problem_of
from tests.inference.storing import use_store

pytestmark = pytest.mark.django_db(transaction=True)
DOCUMENT = openapi.describe("https://gateway.example")


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path / "objects")


@pytest.fixture
def gateway_with_files(start_gateway, live_server, settings):
    settings.WEB_URL = live_server.url
    settings.GATEWAY_URL = "https://gateway.example"
    return start_gateway(STRONGROOM_WEB_URL=live_server.url)


@pytest.fixture
def client(shop, gateway_with_files):
    return shop.client(url=gateway_with_files.url)


def put_up(client, content=b"hello", name="a.txt", **more):
    return client.post("/v1/files", files={"content": (name, content, "text/plain")}, **more)


def check_described(name, document):
    schema = {"$ref": f"#/components/schemas/{name}", **DOCUMENT}
    jsonschema.validate(document, schema)


def test_a_file_is_put_up_listed_fetched_and_deleted(client, shop):
    made = put_up(client, data={"expires_in": "600"})
    assert made.status_code == 201, made.text
    document = made.json()
    check_described("File", document)
    file = File.objects.get()
    assert (file.account, file.public_id) == (shop.consumer, document["id"])
    assert document["urls"]["get"].endswith(f"/v1/files/{document['id']}")

    page = client.get("/v1/files").json()
    check_described("FilePage", page)
    assert [one["id"] for one in page["results"]] == [document["id"]]
    # Half of the client libraries put /v1 behind a base URL that has it already.
    assert client.get(f"/v1/v1/files/{document['id']}").json()["size"] == 5

    led = client.get(f"/v1/files/{document['id']}/content")
    assert led.status_code == 307
    # Without a key: clients of most languages take it from a redirect to another host.
    assert httpx.get(led.headers["location"]).content == b"hello"

    ended = client.delete(f"/v1/files/{document['id']}")
    assert (ended.status_code, ended.content) == (204, b"")
    for path in ("", "/content"):
        refused = client.get(f"/v1/files/{document['id']}{path}")
        assert problem_of(refused) == (404, "not_found")
        check_described("FileProblem", refused.json())
    assert not File.objects.exists()


def test_an_address_of_a_file_leads_to_the_site_without_a_key(client, gateway_with_files):
    url = put_up(client).json()["urls"]["content"]
    query = url.partition("?")[2]
    file_id = File.objects.get().public_id

    led = httpx.get(f"{gateway_with_files.url}/v1/files/{file_id}/content?{query}")

    assert (led.status_code, led.headers["location"]) == (307, url)
    assert httpx.get(url).content == b"hello"
    changed = led.headers["location"].replace("expires=", "expires=1")
    assert httpx.get(changed).json()["code"] == "file_link_invalid"


@pytest.mark.parametrize(
    ("scopes", "reads", "writes"), [(["predict"], 200, 201), (["read"], 200, 403)]
)
def test_scopes_hold_through_the_gateway(client, shop, gateway_with_files, scopes, reads, writes):
    file_id = put_up(client).json()["id"]
    key = APIKeyFactory(account=shop.consumer, scopes=scopes)
    other = shop.client(key.text, url=gateway_with_files.url)
    assert put_up(other).status_code == writes
    assert other.get(f"/v1/files/{file_id}").status_code == reads
    assert other.delete(f"/v1/files/{file_id}").status_code == (204 if writes == 201 else 403)


def test_another_account_finds_nothing(client, shop, gateway_with_files):
    file_id = put_up(client).json()["id"]
    key = APIKeyFactory(account=AccountFactory())
    other = shop.client(key.text, url=gateway_with_files.url)
    assert other.get("/v1/files").json()["results"] == []
    assert other.get(f"/v1/files/{file_id}").status_code == 404
    assert other.get(f"/v1/files/{file_id}/content").status_code == 404
    assert other.delete(f"/v1/files/{file_id}").status_code == 404
    # Nobody gets at another's by naming it, as people do at the site.
    named = other.get("/v1/files", params={"account": "buyer"})
    assert named.status_code == 404
    assert File.objects.count() == 1


def test_a_revoked_key_and_none_at_all(shop, gateway_with_files):
    anonymous = shop.client("", url=gateway_with_files.url)
    assert problem_of(anonymous.get("/v1/files")) == (401, "unauthenticated")
    assert problem_of(put_up(anonymous)) == (401, "unauthenticated")


@pytest.mark.parametrize("path", ["file_x", "x", "file_" + "a" * 26, "..%2Fkeys"])
def test_what_is_no_file(client, path):
    assert client.get(f"/v1/files/{path}").status_code == 404
    assert client.delete(f"/v1/files/{path}").status_code == 404


def test_a_form_larger_than_any_file_is_refused_at_once(shop, gateway_with_files):
    connection = http.client.HTTPConnection("127.0.0.1", gateway_with_files.port, timeout=60)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Authorization", f"Bearer {shop.key.text}")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    # Only announced: nothing of it is waited for.
    connection.putheader("Content-Length", str(FILE_FORM_BYTES_MAX + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["code"] == "payload_too_large"
    connection.close()


def test_a_form_without_its_length_is_refused(client):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    refused = client.post("/v1/files", headers=headers, content=iter([b"x"]))
    assert problem_of(refused) == (400, "bad_request")


def test_the_site_s_refusals_come_through(client, shop):
    refused = client.post("/v1/files", files={"other": ("a", b"x")})
    assert problem_of(refused) == (422, "file_missing")
    check_described("FileProblem", refused.json())
    shop.consumer.retention_days = 0
    shop.consumer.save()
    assert problem_of(put_up(client)) == (409, "retention_zero")


def test_without_the_site_files_are_not_there_and_the_rest_is(client, shop, start_gateway):
    lonely = start_gateway(STRONGROOM_GATEWAY_SITE_URL="http://127.0.0.1:9")
    other = shop.client(url=lonely.url)
    assert problem_of(put_up(other)) == (503, "files_unavailable")
    assert problem_of(other.get("/v1/files")) == (503, "files_unavailable")
    assert other.get("/v1/account").status_code == 200


def test_a_large_file_holds_up_nobody_and_lies_in_no_memory(client, shop, gateway_with_files):
    size_bytes = 96 * 1024 * 1024
    process = psutil.Process(gateway_with_files.process.pid)
    workers = [process, *process.children(recursive=True)]
    client.get("/health")
    before_bytes = sum(one.memory_info().rss for one in workers)
    outcome, peaks, waits_s = [], [], []

    def put():
        sender = shop.client(url=gateway_with_files.url)
        outcome.append(put_up(sender, os.urandom(size_bytes), timeout=300).status_code)

    thread = threading.Thread(target=put)
    thread.start()
    while thread.is_alive():
        began_s = time.monotonic()
        assert client.get("/health").status_code == 200
        waits_s.append(time.monotonic() - began_s)
        peaks.append(sum(one.memory_info().rss for one in workers))
    thread.join()
    assert outcome == [201]
    assert max(peaks) - before_bytes < size_bytes / 2
    # On a busy machine; one blocked until the end would have waited for all of it.
    assert sorted(waits_s)[len(waits_s) // 2] < 2
    assert len(waits_s) > 5
