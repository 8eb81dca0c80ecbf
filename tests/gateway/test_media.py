"""Sounds and pictures as answers: on each protocol, with their limits, through a real Triton."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.triton.media import DATA_URL_BYTES_MAX, FILE_BYTES_MAX
from marketplace.core.ids import new_id
from strongroom.interface import Interface
from tests.gateway.conftest import PRICE_NANOS, check_books, check_nothing_booked, problem_of
from tests.gateway.test_mcp import run_of, send_modern

pytestmark = pytest.mark.django_db(transaction=True)

RATE_HZ = 8_000
SOUND = {"name": "sound", "kind": "tensor", "datatype": "FP32", "shape": [-1]}
PICTURE = {"name": "picture", "kind": "tensor", "datatype": "UINT8", "shape": [-1, -1, 3]}
STUDIO = {
    "inputs": [
        {"name": "length", "kind": "integer", "default": 4, "minimum": 0, "maximum": 10_000_000},
        {"name": "level", "kind": "number", "default": 0.5},
        {"name": "side", "kind": "integer", "default": 2, "minimum": 0, "maximum": 2_000},
    ],
    "outputs": [
        {**SOUND, "media_type": "audio/wav", "sample_rate_hz": RATE_HZ},
        {**PICTURE, "media_type": "image/png"},
    ],
    "batch": {"max_size": 1},
}
REPLICA_ID = new_id()
SAMPLES_MAX = (DATA_URL_BYTES_MAX - len("data:audio/wav;base64,")) // 4 * 3 // 2 - 22


@pytest.fixture(scope="module")
def _loaded(triton):
    source = Path(__file__).with_name("toy_media.py")
    triton.load(Interface.parse(STUDIO), REPLICA_ID, model_source=source)


@pytest.fixture
def studio(shop, _loaded):
    shop.sell("studio", STUDIO, REPLICA_ID, "text-to-speech")
    return shop


def make(client, **given):
    return client.post("/v1/models/maker/studio/predictions", json={"input": given})


def read_wav(octets):
    with wave.open(io.BytesIO(octets)) as file:
        assert file.getframerate() == RATE_HZ
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def read_url(url, media_type):
    head, _, encoded = url.partition(",")
    assert head == f"data:{media_type};base64"
    return base64.b64decode(encoded, validate=True)


def test_a_prediction_answers_files(studio, client):
    response = make(client, length=100)

    assert response.status_code == 201
    output = response.json()["output"]
    assert read_wav(read_url(output["sound"], "audio/wav")).tolist() == [16384] * 100
    picture = Image.open(io.BytesIO(read_url(output["picture"], "image/png")))
    assert (picture.size, picture.getpixel((1, 1))) == ((2, 2), (255, 0, 0))
    check_books(studio, [response.headers["inference-id"]])


def test_the_version_says_what_it_answers(studio, client):
    [version] = client.get("/v1/models/maker/studio/versions").json()["results"]

    properties = version["openapi_schema"]["components"]["schemas"]["Output"]["properties"]
    assert properties["sound"]["x-media-type"] == "audio/wav"
    assert properties["sound"]["format"] == properties["picture"]["format"] == "uri"


def test_the_inference_protocol_answers_the_numbers_themselves(studio, client):
    body = {"inputs": [{"name": "length", "datatype": "INT64", "shape": [1, 1], "data": [3]}]}

    response = client.post("/v2/models/maker/studio/infer", json=body)

    assert response.status_code == 200
    [sound, picture] = response.json()["outputs"]
    assert (sound["datatype"], sound["shape"], sound["data"]) == ("FP32", [1, 3], [0.5] * 3)
    assert picture["shape"] == [1, 2, 2, 3]


def test_an_agent_gets_content_that_it_can_play(studio, client):
    message = run_of({"model": "maker/studio", "input": {}})

    result = send_modern(studio, message).json()["result"]

    text, sound, picture = result["content"]
    assert (sound["type"], sound["mimeType"]) == ("audio", "audio/wav")
    assert (picture["type"], picture["mimeType"]) == ("image", "image/png")
    assert len(read_wav(base64.b64decode(sound["data"]))) == 4
    assert json.loads(text["text"])["output"]["sound"]["size_bytes"] == 52


def test_an_answer_at_the_limit_is_sent_and_charged(studio, client):
    response = make(client, length=SAMPLES_MAX)

    assert response.status_code == 201
    sound = response.json()["output"]["sound"]
    assert DATA_URL_BYTES_MAX - 4 < len(sound) <= DATA_URL_BYTES_MAX
    assert response.headers["x-cost-nano-usd"] == str(PRICE_NANOS)
    check_books(studio, [response.headers["inference-id"]])


@pytest.mark.parametrize(
    ("_case", "given"),
    [
        ("one sample more than is kept", {"length": FILE_BYTES_MAX // 2 - 21}),
        ("forty megabytes", {"length": 10_000_000}),
        ("a large picture", {"side": 2_000}),
    ],
)
def test_a_larger_answer_is_refused_and_free(studio, client, _case, given):
    response = make(client, **given)

    assert problem_of(response) == (422, "media_too_large")
    assert any(limit in response.json()["detail"] for limit in ("16777216", "1048576"))
    assert response.headers["x-should-retry"] == "false"
    check_nothing_booked(studio)
    # It was the input: the model is none the worse for it.
    assert make(client).status_code == 201


def test_where_nothing_is_kept_one_sample_more_is_refused(studio, client):
    studio.consumer.retention_days = 0
    studio.consumer.save()

    assert make(client, length=SAMPLES_MAX).status_code == 201
    response = make(client, length=SAMPLES_MAX + 1)

    assert problem_of(response) == (422, "media_too_large")
    assert "262144" in response.json()["detail"]


@pytest.mark.parametrize("_given", [{"length": 0}, {"side": 0}])
def test_an_answer_that_is_none_is_the_models_fault_and_free(studio, client, _given):
    response = make(client, **_given)

    assert problem_of(response) == (500, "output_invalid")
    assert "is empty" in response.json()["detail"]
    check_nothing_booked(studio)


def test_a_retry_gets_the_same_file(studio, client):
    body = {"input": {"length": 50}}
    headers = {"Idempotency-Key": "studio-1"}

    first, second = (
        client.post("/v1/models/maker/studio/predictions", json=body, headers=headers)
        for _ in range(2)
    )

    assert first.json()["output"] == second.json()["output"]
    assert second.headers["idempotent-replayed"] == "true"
    check_books(studio, [first.headers["inference-id"]])
