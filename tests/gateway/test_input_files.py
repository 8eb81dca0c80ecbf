"""Models that take files: as data URLs, and as files of the account, and from nowhere else."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from inference.gateway.config import FILE_INPUT_BYTES_MAX
from inference.models import File, Job
from inference.services.file import store_file
from inference.triton import repository
from marketplace.core.ids import new_id
from marketplace.models import ModelVersion
from strongroom.interface import PLAIN_FILES, Interface
from tests.factories import AccountFactory
from tests.gateway.conftest import check_books, check_nothing_booked, problem_of
from tests.gateway.pulling import PullingNode
from tests.gateway.test_files import gateway_with_files, store  # noqa: F401 - fixtures
from tests.gateway.test_jobs import wait_for
from tests.gateway.test_mcp import run_of, send_modern

pytestmark = pytest.mark.django_db(transaction=True)

READER = {
    "inputs": [
        {"name": "document", "kind": "text", "format": "file"},
        {"name": "picture", "kind": "text", "format": "image", "default": PLAIN_FILES["image"]},
    ],
    "outputs": [
        {"name": "size", "kind": "integer"},
        {"name": "digest", "kind": "text"},
    ],
    "batch": {"max_size": 1},
}
REPLICA_ID = new_id()
CONTENT = os.urandom(300_000)
DOT = base64.b64decode(PLAIN_FILES["image"].partition(",")[2])


@pytest.fixture(scope="module")
def _loaded(triton):
    # By another module of tests, perhaps.
    if (triton.config.repository_dir / repository.model_name(REPLICA_ID)).exists():
        return
    source = Path(__file__).with_name("toy_file.py")
    triton.load(Interface.parse(READER), REPLICA_ID, model_source=source)


@pytest.fixture
def reader(shop, _loaded):
    shop.sell("reader", READER, REPLICA_ID)
    return shop


@pytest.fixture
def client(reader, gateway_with_files):  # noqa: F811
    return reader.client(url=gateway_with_files.url)


def ask(client, document, headers=None, **more):
    return client.post(
        "/v1/models/maker/reader/predictions",
        json={"input": {"document": document, **more}},
        headers=headers or {},
    )


def keep(account, content=CONTENT, kind="application/pdf"):
    return store_file(account, "a.bin", kind, io.BytesIO(content))


def check_output(output, content, picture=DOT):
    assert output == {
        "size": len(content),
        "digest": hashlib.sha256(content + picture).hexdigest(),
    }


def test_a_data_url_reaches_the_model_as_octets(reader, client):
    octets = bytes(range(256)) * 3
    answer = ask(client, "data:application/x-any;base64," + base64.b64encode(octets).decode())
    assert answer.status_code == 201, answer.text
    check_output(answer.json()["output"], octets)
    check_books(reader, [answer.json()["id"]])


def test_a_file_of_the_account_by_its_id_and_by_its_address(reader, client):
    file = keep(reader.consumer)
    shown = client.get(f"/v1/files/{file.public_id}").json()
    for value in (file.public_id, shown["urls"]["get"], shown["urls"]["content"]):
        answer = ask(client, value)
        assert answer.status_code == 201, (value, answer.text)
        check_output(answer.json()["output"], CONTENT)


def test_a_picture_is_a_picture(reader, client):
    picture = keep(reader.consumer, b"GIF89a", "image/gif")
    answer = ask(client, PLAIN_FILES["file"], picture=picture.public_id)
    check_output(answer.json()["output"], b"\0", b"GIF89a")
    other = keep(reader.consumer)
    refused = ask(client, PLAIN_FILES["file"], picture=other.public_id)
    assert problem_of(refused) == (422, "validation")
    assert refused.json()["errors"][0]["pointer"] == "/input/picture"
    assert "application/pdf" in refused.json()["detail"]


def test_a_job_takes_a_file(reader, client, gateway_with_files, triton):  # noqa: F811
    file = keep(reader.consumer)
    version = ModelVersion.objects.get(model__name="reader")
    made = ask(client, file.public_id, {"Prefer": "respond-async"})
    assert made.status_code == 202
    # The queue holds its name, not its content.
    assert made.json()["input"]["document"] == file.public_id
    node = PullingNode(gateway_with_files.url, reader.node, triton, {version.pk: REPLICA_ID})
    try:
        done = wait_for(client, made.json())
    finally:
        node.stop()
    check_output(done["output"], CONTENT)


def test_a_job_whose_file_is_gone_fails_and_costs_nothing(
    reader,
    client,
    gateway_with_files,  # noqa: F811
    triton,
):
    file = keep(reader.consumer)
    version = ModelVersion.objects.get(model__name="reader")
    made = ask(client, file.public_id, {"Prefer": "respond-async"}).json()
    assert client.delete(f"/v1/files/{file.public_id}").status_code == 204
    node = PullingNode(gateway_with_files.url, reader.node, triton, {version.pk: REPLICA_ID})
    try:
        done = wait_for(client, made, "failed")
    finally:
        node.stop()
    assert done["metrics"]["cost_nano_usd"] == 0
    assert node.ran == []


def test_a_job_waits_for_a_site_that_is_away(reader, client, start_gateway, triton):
    file = keep(reader.consumer)
    version = ModelVersion.objects.get(model__name="reader")
    made = ask(client, file.public_id, {"Prefer": "respond-async"}).json()
    lonely = start_gateway(STRONGROOM_GATEWAY_SITE_URL="http://127.0.0.1:9")
    node = PullingNode(lonely.url, reader.node, triton, {version.pk: REPLICA_ID})
    try:
        found = wait_for(client, made, "starting")
        assert found["output"] is None
    finally:
        node.stop()
    assert Job.objects.get().state in ("queued", "leased")


def test_an_agent_names_a_file(reader, client, gateway_with_files):  # noqa: F811
    reader.url = gateway_with_files.url
    file = keep(reader.consumer)
    message = run_of({"model": "maker/reader", "input": {"document": file.public_id}})
    result = send_modern(reader, message).json()["result"]
    assert result["structuredContent"]["output"]["size"] == len(CONTENT)


@pytest.mark.parametrize("_case", ["another account's", "deleted", "none", "too large"])
def test_what_is_no_file_of_the_account(reader, client, _case, monkeypatch):
    file = keep(AccountFactory() if _case == "another account's" else reader.consumer)
    value = "file_" + "a" * 26 if _case == "none" else file.public_id
    if _case == "deleted":
        client.delete(f"/v1/files/{value}")
    if _case == "too large":
        File.objects.update(size_bytes=FILE_INPUT_BYTES_MAX + 1)
    refused = ask(client, value)
    assert problem_of(refused) == (422, "validation")
    assert refused.json()["errors"][0]["pointer"] == "/input/document"
    check_nothing_booked(reader)


def test_a_file_at_the_limit(reader, client):
    content = os.urandom(1000) * (FILE_INPUT_BYTES_MAX // 1000) + bytes(FILE_INPUT_BYTES_MAX % 1000)
    answer = ask(client, keep(reader.consumer, content).public_id)
    assert answer.status_code == 201, answer.text
    check_output(answer.json()["output"], content)


def test_nothing_is_fetched_from_elsewhere(reader, client):
    """A server of ours counts who comes; an address of it is given in every way there is."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            came.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    file_id = keep(reader.consumer).public_id
    host = f"http://127.0.0.1:{server.server_port}"
    try:
        for url in (
            f"{host}/a",
            f"{host}/v1/files/{file_id}",
            f"{host}/v1/files/{file_id}/content?signature=x",
            f"https://gateway.example@127.0.0.1:{server.server_port}/v1/files/{file_id}",
        ):
            refused = ask(client, url)
            assert problem_of(refused) == (422, "validation"), url
        assert came == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
    check_nothing_booked(reader)


def test_a_data_url_one_past_the_limit_names_files(reader, client):
    refused = ask(client, "data:a/b;base64," + "A" * 256 * 1024)
    assert problem_of(refused) == (422, "validation")
    assert "/v1/files" in refused.json()["errors"][0]["detail"]


def test_the_version_says_what_it_takes(client):
    [version] = client.get("/v1/models/maker/reader/versions").json()["results"]
    properties = version["openapi_schema"]["components"]["schemas"]["Input"]["properties"]
    assert properties["picture"]["x-format"] == "image"
    assert properties["document"]["format"] == "uri"
