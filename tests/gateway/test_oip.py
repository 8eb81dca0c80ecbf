"""/v2: the Open Inference Protocol, with JSON tensors; octets are in test_oip_binary."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.http.auth import BasicAuth

from billing.models import Hold, LedgerAccount, UsageEvent
from inference.models import Prediction
from marketplace.core.ids import from_public
from tests.factories import AIModelFactory, APIKeyFactory, ChannelFactory, ModelVersionFactory
from tests.gateway.conftest import (
    PRICE_NANOS,
    check_ledger,
    check_nothing_booked,
    check_untouched,
)

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/v2/models/maker/echo/infer"
MIB = 1024 * 1024


def tensor(name="x", shape=(1, 4), datatype="FP32", data=(1, 2, 3, 4), **members):
    given = {"name": name, "shape": list(shape), "datatype": datatype, "data": list(data)}
    return given | members


def infer(client, *tensors, **members):
    return client.post(PATH, json={"inputs": list(tensors), **members})


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert list(document) == ["error"]
    assert response.headers["x-cost-nano-usd"] == "0"
    return document["error"]


def test_rows_are_charged_by_number(shop, client):
    response = infer(client, tensor(shape=(3, 4), data=range(12)), id="mine")

    assert response.status_code == 200
    assert response.json() == {
        "model_name": "maker/echo",
        "model_version": "1",
        "id": "mine",
        "outputs": [
            {
                "name": "y",
                "datatype": "FP32",
                "shape": [3, 4],
                "data": list(range(0, 24, 2)),
            },
            {
                "name": "scores",
                "datatype": "FP32",
                "shape": [3, 3],
                "data": [0.0, 0.75, 0.0] * 3,
            },
            {"name": "echo", "datatype": "BYTES", "shape": [3, 1], "data": ["", "", ""]},
        ],
    }
    assert response.headers["x-cost-nano-usd"] == str(3 * PRICE_NANOS)
    usage = UsageEvent.objects.get()
    assert (usage.units, usage.gross_nanos) == (3, 3 * PRICE_NANOS)
    row = Prediction.objects.get()
    assert (row.protocol, row.rows, row.cost_nanos) == ("oip", 3, 3 * PRICE_NANOS)
    assert row.pk == usage.pk == from_public(response.headers["inference-id"])
    assert LedgerAccount.objects.get(pk=shop.wallet_id).posted_nanos == 7 * PRICE_NANOS
    check_ledger()


def test_data_may_be_nested_and_outputs_chosen(shop, client):
    given = tensor(shape=(2, 4), data=[[1, 2, 3, 4], [5, 6, 7, 8]])
    notes = tensor("note", (2, 1), "BYTES", ["a", "b"])

    response = infer(client, given, notes, outputs=[{"name": "echo"}, {"name": "y"}])

    assert [(one["name"], one["data"]) for one in response.json()["outputs"]] == [
        ("echo", ["a", "b"]),
        ("y", [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0]),
    ]


@pytest.mark.parametrize(
    "_path",
    [
        "/v2/models/maker/echo/versions/1/infer",
        "/v2/models/maker%2Fecho/infer",
        "/v2/models/maker/echo:1/infer",
    ],
)
def test_every_address_leads_to_the_model(shop, client, _path):
    assert client.post(_path, json={"inputs": [tensor()]}).status_code == 200


@pytest.mark.parametrize(
    ("_tensors", "_word"),
    [
        ([], "'x'"),
        ([tensor("z")], "'z'"),
        ([tensor(), tensor()], "'x'"),
        ([tensor(datatype="FP64")], "FP32"),
        ([tensor(shape=[4])], "[-1, 4]"),
        ([tensor(shape=[1, 5], data=[1] * 5)], "[-1, 4]"),
        ([tensor(shape=[2, 4])], "'x'"),
        ([tensor(shape=["1", 4])], "'x'"),
        ([tensor(shape=[True, 4])], "'x'"),
        ([tensor(shape=[-1, 4])], "'x'"),
        ([tensor(shape=[0, 4], data=[])], "'x'"),
        ([tensor(shape=[5, 4], data=[1] * 20)], "1 to 4"),
        ([tensor(shape=[1 << 62, 4])], "1 to 4"),
        ([tensor(data=[1, 2, 3])], "'x'"),
        ([tensor(data=[[1, 2], [3, 4]])], "'x'"),
        ([tensor(data=[1, 2, 3, "4"])], "'x', row 0, at 3"),
        ([tensor(data=[1, 2, 3, None])], "'x', row 0, at 3"),
        ([tensor(shape=[2, 4], data=[1] * 7 + [101])], "'x', row 1, at 3"),
        ([tensor() | {"data": "abc"}], "'x'"),
        ([tensor(), tensor("note", (2, 1), "BYTES", ["a", "b"])], "'note'"),
        ([tensor(), tensor("note", (1, 1), "BYTES", ["n" * 21])], "'note'"),
        ([tensor(), tensor("mode", (1, 1), "BYTES", ["other"])], "'mode'"),
        ([tensor(parameters={"shared_memory_region": "r"})], "shared_memory_region"),
        ([tensor(parameters={"binary_data_size": 16})], "binary_data_size"),
        ([tensor(extra=1)], "'x'"),
        (["x"], "object"),
        ([tensor()] * 33, "32"),
    ],
)
def test_bad_tensor_is_named(shop, client, _tensors, _word):
    response = client.post(PATH, json={"inputs": _tensors})

    assert response.status_code == 422
    assert _word in error_of(response)
    check_nothing_booked(shop)
    assert Prediction.objects.count() == 0


def test_rows_at_the_limit_are_taken(shop, client):
    assert infer(client, tensor(shape=(4, 4), data=range(16))).status_code == 200


@pytest.mark.parametrize("_literal", ["NaN", "Infinity", "1e39"])
def test_number_that_is_none_is_named(shop, client, _literal):
    body = json.dumps({"inputs": [tensor(data=[1, 2, 77, 4])]}).replace("77", _literal)

    response = client.post(PATH, content=body)

    assert response.status_code == 422
    assert "'x', row 0, at 2" in error_of(response)
    check_nothing_booked(shop)


@pytest.mark.parametrize(
    "_members",
    [
        {"outputs": [{"name": "secret"}]},
        {"outputs": [{"name": "kind"}]},
        {"outputs": [{"name": "y", "parameters": {"classification": 2}}]},
        {"outputs": ["y"]},
        {"outputs": "y"},
        {"outputs": [{"name": "y"}, {"name": "y"}]},
        {"id": 5},
        {"id": "a\x00"},
        {"id": "i" * 257},
        {"parameters": []},
        {"more": 1},
    ],
)
def test_wrong_envelope_is_refused(shop, client, _members):
    response = infer(client, tensor(), **_members)

    assert response.status_code == 422
    assert error_of(response)
    check_nothing_booked(shop)


@pytest.mark.parametrize(
    ("_headers", "_status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer sk_live_nope"}, 401),
        ({"Inference-Header-Content-Length": "0"}, 422),
        ({"Content-Encoding": "gzip"}, 422),
    ],
)
def test_other_refusals_have_the_same_form(shop, client, _headers, _status):
    response = client.post(PATH, json={"inputs": [tensor()]}, headers=_headers)

    assert response.status_code == _status
    assert error_of(response)
    check_nothing_booked(shop)


def test_empty_wallet_has_the_same_form(shop):
    response = infer(shop.client(APIKeyFactory().text), tensor())

    assert response.status_code == 402
    assert error_of(response)
    check_untouched(shop)


@pytest.mark.parametrize("_is_chunked", [False, True])
def test_100_mb_body_is_refused_and_holds_nothing(shop, client, _is_chunked):
    body = json.dumps({"inputs": [tensor()]}).encode()
    large = body + b" " * (100_000_000 - len(body))
    # Without a length it is only noticed on the way.
    chunks = (large[start : start + MIB] for start in range(0, len(large), MIB))

    response = client.post(PATH, content=chunks if _is_chunked else large)

    assert response.status_code == 413
    assert error_of(response)
    check_untouched(shop)
    # The size alone stood in its way: the same caller gets the same body answered.
    assert client.post(PATH, content=body + b" " * 1000).status_code == 200
    assert Hold.objects.count() == 1


@pytest.mark.parametrize(
    "_path",
    [
        "/v2/repository/index",
        "/v2/repository/models/x/load",
        "/v2/repository",
        "/v2/systemsharedmemory",
        "/v2/systemsharedmemory/status",
        "/v2/systemsharedmemory/region/r/register",
        "/v2/cudasharedmemory",
        "/v2/cudasharedmemory/status",
        "/v2/cudasharedmemory/region/r/register",
        "/v2/trace",
        "/v2/trace/setting",
        "/v2/logging",
        "/v2/models/stats",
        "/v2/models/x/trace/setting",
        "/v2/models/maker/echo/config",
        "/v2/models/maker/echo/stats",
        "/v2/models/maker/echo/trace/setting",
    ],
)
def test_control_does_not_exist(shop, client, _path):
    for response in (client.get(_path), client.post(_path, json={})):
        assert response.status_code == 404
        assert error_of(response)


def test_server_and_model_describe_themselves(shop, client):
    anyone = shop.client("")

    assert anyone.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert anyone.get("/v2/health/live").status_code == 200
    assert anyone.get("/v2/health/ready").status_code == 200
    assert anyone.get("/v2/models/maker/echo").status_code == 401
    assert client.get("/v2/models/maker/echo/ready").json() == {"name": "maker/echo", "ready": True}
    document = client.get("/v2/models/maker/echo").json()
    assert (document["name"], document["versions"]) == ("maker/echo", ["1"])
    assert document["inputs"][:2] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "note", "datatype": "BYTES", "shape": [-1, 1]},
    ]
    assert [one["name"] for one in document["outputs"]] == ["y", "scores", "echo"]


def test_model_of_labels_only_is_for_v1(shop, client):
    model = AIModelFactory(account=shop.creator, name="labels")
    interface = {
        "inputs": [{"name": "x", "kind": "number"}],
        "outputs": [
            {"name": "s", "kind": "tensor", "datatype": "FP32", "shape": [2], "hidden": True},
            {"name": "kind", "kind": "label", "source": "s", "labels": ["a", "b"]},
        ],
    }
    ChannelFactory(version=ModelVersionFactory(model=model, interface=interface))

    response = client.post("/v2/models/maker/labels/infer", json={"inputs": [tensor()]})

    assert response.status_code == 422
    assert "/v1" in error_of(response)


def test_tritonclient_works_with_json_tensors(shop):
    address = urlsplit(shop.url).netloc
    client = triton_http.InferenceServerClient(address)
    client.register_plugin(BasicAuth("key", shop.key.text))
    given = triton_http.InferInput("x", [2, 4], "FP32")
    given.set_data_from_numpy(np.arange(8, dtype=np.float32).reshape(2, 4), binary_data=False)
    wanted = triton_http.InferRequestedOutput("y", binary_data=False)

    assert client.is_server_ready()
    assert client.is_model_ready("maker/echo")
    answer = client.infer("maker/echo", [given], outputs=[wanted], model_version="1")

    assert (answer.as_numpy("y") == np.arange(8).reshape(2, 4) * 2).all()
    client.close()
