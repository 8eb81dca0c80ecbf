"""Sounds that are too large for an answer: kept as files, and answered as signed addresses."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from inference.core.file_link import FILES_PATH
from inference.models import File, Prediction
from inference.triton.media import FILE_BYTES_MAX
from marketplace.core.ids import from_public, new_id
from strongroom.interface import Interface
from tests.gateway.conftest import check_books, problem_of
from tests.gateway.pulling import PullingNode
from tests.gateway.test_files import gateway_with_files, store  # noqa: F401 - fixtures
from tests.gateway.test_jobs import wait_for
from tests.gateway.test_mcp import run_of, send_modern
from tests.gateway.test_media import SAMPLES_MAX, STUDIO, make, read_wav

pytestmark = pytest.mark.django_db(transaction=True)


REPLICA_ID = new_id()


@pytest.fixture(scope="module")
def _loaded(triton):
    source = Path(__file__).with_name("toy_media.py")
    triton.load(Interface.parse(STUDIO), REPLICA_ID, model_source=source)


@pytest.fixture
def studio(shop, _loaded):
    shop.sell("studio", STUDIO, REPLICA_ID, "text-to-speech")
    return shop


@pytest.fixture
def client(studio, gateway_with_files):  # noqa: F811
    return studio.client(url=gateway_with_files.url)


def fetch(url):
    assert FILES_PATH in url
    response = httpx.get(url)
    assert response.status_code == 200
    return response


def test_what_is_larger_than_an_answer_is_a_file(studio, client):
    response = make(client, length=SAMPLES_MAX + 1)

    assert response.status_code == 201, response.text
    fetched = fetch(response.json()["output"]["sound"])
    assert len(read_wav(fetched.content)) == SAMPLES_MAX + 1
    assert fetched.headers["content-type"] == "audio/wav"
    assert fetched.headers["content-disposition"] == 'inline; filename="sound.wav"'
    assert fetched.headers["x-content-type-options"] == "nosniff"
    file = File.objects.get()
    assert file.account == studio.consumer
    assert file.prediction_id == from_public(response.json()["id"])
    check_books(studio, [response.headers["inference-id"]])


def test_what_is_no_larger_stays_in_the_answer(client):
    response = make(client, length=SAMPLES_MAX)

    assert response.json()["output"]["sound"].startswith("data:audio/wav;base64,")
    assert not File.objects.exists()


def test_the_largest_file(client):
    response = make(client, length=FILE_BYTES_MAX // 2 - 22)

    assert response.status_code == 201, response.text
    assert len(fetch(response.json()["output"]["sound"]).content) == FILE_BYTES_MAX
    assert File.objects.get().size_bytes == FILE_BYTES_MAX


def test_a_changed_address_opens_nothing(client):
    url = make(client, length=SAMPLES_MAX + 1).json()["output"]["sound"]

    refused = httpx.get(url[:-1] + ("A" if url[-1] != "A" else "B"))

    assert (refused.status_code, refused.json()["code"]) == (403, "file_link_invalid")
    assert httpx.get(url).status_code == 200


def test_a_retry_gets_the_same_file(client):
    sent = {
        "json": {"input": {"length": SAMPLES_MAX + 1}},
        "headers": {"Idempotency-Key": "studio"},
    }
    path = "/v1/models/maker/studio/predictions"

    first, second = (client.post(path, **sent).json() for _ in range(2))

    assert first["output"] == second["output"]
    assert File.objects.count() == 1


def test_a_job_gives_a_file_too(studio, client, gateway_with_files, triton):  # noqa: F811
    version = studio.version.__class__.objects.get(model__name="studio")
    node = PullingNode(gateway_with_files.url, studio.node, triton, {version.pk: REPLICA_ID})
    try:
        made = client.post(
            "/v1/models/maker/studio/predictions",
            json={"input": {"length": SAMPLES_MAX + 1}},
            headers={"Prefer": "respond-async"},
        )
        done = wait_for(client, made.json())
    finally:
        node.stop()

    assert len(read_wav(fetch(done["output"]["sound"]).content)) == SAMPLES_MAX + 1
    # It stands in the row as it is told to webhooks, and as it is shown in the console.
    assert Prediction.objects.get(pk=from_public(done["id"])).output == done["output"]


def test_an_agent_gets_the_address(studio, client, gateway_with_files):  # noqa: F811
    studio.url = gateway_with_files.url
    message = run_of({"model": "maker/studio", "input": {"length": SAMPLES_MAX + 1}})

    result = send_modern(studio, message).json()["result"]

    assert result["isError"] is False
    assert FILES_PATH in result["content"][0]["text"]
    assert File.objects.count() == 1


def test_an_account_that_keeps_nothing_gets_no_file(studio, client):
    studio.consumer.retention_days = 0
    studio.consumer.save()

    assert problem_of(make(client, length=SAMPLES_MAX + 1)) == (422, "media_too_large")
    assert not File.objects.exists()


def test_without_the_site_it_is_not_charged(studio, start_gateway):
    lonely = start_gateway(STRONGROOM_GATEWAY_SITE_URL="http://127.0.0.1:9")
    client = studio.client(url=lonely.url)

    assert problem_of(make(client, length=SAMPLES_MAX + 1)) == (503, "files_unavailable")
    assert make(client).status_code == 201
    studio.consumer.refresh_from_db()
    assert Prediction.objects.filter(state="succeeded").count() == 1


def test_its_address_leads_to_the_site_alone(client, live_server):
    url = make(client, length=SAMPLES_MAX + 1).json()["output"]["sound"]

    assert urlsplit(url).netloc == urlsplit(live_server.url).netloc
