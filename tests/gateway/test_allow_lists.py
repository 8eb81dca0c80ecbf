"""Keys that run some models only, or work from some networks only."""

from __future__ import annotations

import random
import tempfile
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from inference.gateway.config import PROXIES_PASSED_MAX, TRUSTED_PROXIES_MAX, GatewayConfig
from inference.gateway.origin import Networks, Origins
from marketplace.core.address import parse_network
from marketplace.core.env import SettingError
from marketplace.models import APIKey
from tests.factories import AIModelFactory, APIKeyFactory, ChannelFactory, ModelVersionFactory
from tests.gateway.conftest import X, check_books, check_untouched, predict, problem_of
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)

TENSOR = {"name": "x", "shape": [1, len(X)], "datatype": "FP32", "data": X}
# Every way to a model's name, and to its own description.
CALLS = [
    ("POST", "/v1/models/maker/echo/predictions", {"input": {"x": X}}),
    ("POST", "/v1/predictions", {"version": "maker/echo:1", "input": {"x": X}}),
    ("POST", "/v1/predictions", {"version": "ab" * 32, "input": {"x": X}}),
    ("POST", "/v2/models/maker/echo/infer", {"inputs": [TENSOR]}),
    ("POST", "/v2/models/maker/echo/versions/1/infer", {"inputs": [TENSOR]}),
    ("GET", "/v1/models/maker/echo", None),
    ("GET", "/v1/models/maker/echo/versions", None),
    ("GET", "/v1/models/maker/echo/versions/1", None),
    ("GET", "/v2/models/maker/echo", None),
    ("GET", "/v2/models/maker/echo/ready", None),
    ("GET", "/openai/v1/models/maker/echo", None),
]
ELSEWHERE = "203.0.113.7"


def code_of(response: httpx.Response) -> tuple[int, str]:
    """Status, and the code in the envelope of the protocol that was called; /v2 has none."""
    match response.url.path.split("/")[1]:
        case "v1":
            return problem_of(response)
        case "openai":
            return response.status_code, response.json()["error"]["code"]
    assert list(response.json()) == ["error"]
    return response.status_code, ""


def client_of(shop, *, url="", **lists):
    return shop.client(APIKeyFactory(account=shop.consumer, **lists).text, url=url)


# --- Models ---


@pytest.mark.parametrize(("_method", "_path", "_body"), CALLS)
def test_key_runs_the_models_of_its_list_only(shop, _method, _path, _body):
    other = client_of(shop, allowed_models=["maker/other", "maker/echo2"])
    its_own = client_of(shop, allowed_models=["maker/other", "maker/echo"])

    refused = other.request(_method, _path, json=_body)

    assert code_of(refused) in [(403, "model_not_allowed"), (403, "")]
    check_untouched(shop)
    assert its_own.request(_method, _path, json=_body).status_code in (200, 201)


def test_openai_call_names_the_refusal(language):
    client = client_of(language, allowed_models=["maker/writer"])
    body = {"model": "maker/vectors", "input": "text"}

    refused = client.post("/openai/v1/embeddings", json=body)

    assert code_of(refused) == (403, "model_not_allowed")
    assert refused.json()["error"]["type"] == "permission_error"
    check_untouched(language)
    its_own = client_of(language, allowed_models=["maker/vectors"])
    assert its_own.post("/openai/v1/embeddings", json=body).status_code == 200


def test_list_of_models_shows_those_of_the_key(language, client):
    def list_models(one):
        return [model["id"] for model in one.get("/openai/v1/models").json()["data"]]

    assert list_models(client) == ["maker/echo", "maker/vectors", "maker/writer"]
    two = client_of(language, allowed_models=["maker/writer", "maker/echo", "maker/gone"])
    assert list_models(two) == ["maker/echo", "maker/writer"]
    assert list_models(client_of(language, allowed_models=["maker/gone"])) == []


def test_name_of_the_list_opens_no_private_model(shop):
    model = AIModelFactory(account=shop.creator, name="secret", visibility="private")
    ChannelFactory(version=ModelVersionFactory(model=model))
    client = client_of(shop, allowed_models=["maker/secret"])

    assert problem_of(client.get("/v1/models/maker/secret")) == (404, "not_found")
    assert client.get("/openai/v1/models").json()["data"] == []


def test_key_reads_predictions_of_its_models_only(shop, client):
    headers = {"Idempotency-Key": "once"}
    made = predict(client, headers=headers).json()["id"]
    other = client_of(shop, allowed_models=["maker/other"])

    assert problem_of(other.get(f"/v1/predictions/{made}")) == (403, "model_not_allowed")
    assert other.get("/v1/predictions").json()["results"] == []
    # Not even by saying again what another key of the account has said.
    assert problem_of(predict(other, headers=headers)) == (403, "model_not_allowed")
    its_own = client_of(shop, allowed_models=["maker/echo"])
    assert [one["id"] for one in its_own.get("/v1/predictions").json()["results"]] == [made]
    assert its_own.get(f"/v1/predictions/{made}").json()["id"] == made
    check_books(shop, [made])


def test_changed_list_of_models_counts_within_a_second(shop):
    key = APIKeyFactory(account=shop.consumer)
    client = shop.client(key.text)
    assert client.get("/v1/models/maker/echo").status_code == 200

    APIKey.objects.filter(pk=key.pk).update(allowed_models=["maker/other"])
    eventually(lambda: check_status(client, 403), timeout_s=1)
    APIKey.objects.filter(pk=key.pk).update(allowed_models=[])
    eventually(lambda: check_status(client, 200), timeout_s=1)


def check_status(client, status, **how):
    assert client.get("/v1/models/maker/echo", **how).status_code == status


# --- Networks ---


@pytest.mark.parametrize(
    ("_networks", "_is_allowed"),
    [
        (["127.0.0.0/8"], True),
        (["127.0.0.1/32"], True),
        (["198.51.100.0/24", "127.0.0.1/32"], True),
        (["0.0.0.0/0"], True),
        (["127.0.0.2/32"], False),
        (["198.51.100.0/24"], False),
        (["::/0"], False),
        (["::1/128"], False),
    ],
)
def test_key_works_from_its_networks_only(shop, _networks, _is_allowed):
    client = client_of(shop, allowed_networks=_networks)

    response = predict(client)

    if _is_allowed:
        check_books(shop, [response.json()["id"]])
    else:
        assert problem_of(response) == (403, "network_not_allowed")
        assert "127.0.0.1" in response.json()["detail"]
        check_untouched(shop)


@pytest.mark.parametrize(
    ("_method", "_path", "_body"),
    [
        *CALLS,
        ("GET", "/v1/account", None),
        ("GET", "/v1/predictions", None),
        ("GET", "/v1/hardware", None),
        ("GET", "/openai/v1/models", None),
        ("POST", "/openai/v1/embeddings", {"model": "maker/echo", "input": "x"}),
    ],
)
def test_network_is_checked_at_every_address(shop, _method, _path, _body):
    client = client_of(shop, allowed_networks=["198.51.100.0/24"])

    refused = client.request(_method, _path, json=_body)

    assert code_of(refused) in [(403, "network_not_allowed"), (403, "")]
    check_untouched(shop)


def test_changed_list_of_networks_counts_within_a_second(shop):
    key = APIKeyFactory(account=shop.consumer)
    client = shop.client(key.text)
    check_status(client, 200)

    APIKey.objects.filter(pk=key.pk).update(allowed_networks=["198.51.100.0/24"])
    eventually(lambda: check_status(client, 403), timeout_s=1)
    APIKey.objects.filter(pk=key.pk).update(allowed_networks=["198.51.100.0/24", "127.0.0.0/8"])
    eventually(lambda: check_status(client, 200), timeout_s=1)


# --- Proxies ---


@pytest.mark.parametrize(
    "_forwarded", ["198.51.100.1", "198.51.100.1, 127.0.0.1", "127.0.0.1, 198.51.100.1"]
)
def test_header_of_an_untrusted_peer_does_not_help(shop, gateway, _forwarded):
    check_spoof_is_refused(shop, gateway.url, _forwarded)


def check_spoof_is_refused(shop, url, forwarded="198.51.100.1"):
    """Whoever speaks to the gateway itself is where the connection comes from."""
    client = client_of(shop, allowed_networks=["198.51.100.0/24"], url=url)

    response = predict(client, headers={"X-Forwarded-For": forwarded})

    assert problem_of(response) == (403, "network_not_allowed")
    assert "127.0.0.1" in response.json()["detail"]
    check_untouched(shop)


def test_behind_a_trusted_proxy_its_header_counts(shop, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_TRUSTED_PROXIES="127.0.0.0/8, 10.0.0.0/8")
    listed = client_of(shop, allowed_networks=["198.51.100.0/24"], url=gateway.url)
    proxys = client_of(shop, allowed_networks=["127.0.0.0/8"], url=gateway.url)

    def ask(client, *forwarded):
        headers = [("X-Forwarded-For", one) for one in forwarded]
        return client.get("/v1/models/maker/echo", headers=headers).status_code

    assert ask(listed, "198.51.100.1") == 200
    assert ask(listed, "198.51.100.1, 10.1.2.3") == 200
    assert ask(listed, f"{ELSEWHERE}, 198.51.100.1") == 200
    # What stands before the entry of the last proxy is the caller's own invention.
    assert ask(listed, f"198.51.100.1, {ELSEWHERE}") == 403
    assert ask(listed, "198.51.100.1", ELSEWHERE) == 403
    assert ask(listed, "198.51.100.1", "nonsense") == 403
    assert ask(listed) == 403
    # The proxy itself, or one that hides for whom it asks.
    assert ask(proxys) == 200
    assert ask(proxys, "unknown") == 403
    assert ask(proxys, b"\xff, 127.0.0.1") == 403


def test_behind_a_unix_socket_a_key_with_networks_does_not_work(shop, start_gateway):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.sock"
        start_gateway(socket_path=path, STRONGROOM_GATEWAY_TRUSTED_PROXIES="0.0.0.0/0, ::/0")
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://gateway.example") as client:
            listed = APIKeyFactory(account=shop.consumer, allowed_networks=["0.0.0.0/0", "::/0"])
            headers = {"X-Forwarded-For": "198.51.100.1"}

            client.headers["Authorization"] = f"Bearer {listed.text}"
            assert problem_of(predict(client, headers=headers)) == (403, "network_not_allowed")
            client.headers["Authorization"] = f"Bearer {shop.key.text}"
            assert predict(client, headers=headers).status_code == 201


# --- Without a server ---


def read_proxies(monkeypatch, text: str) -> list[str]:
    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", "postgresql:///x")
    monkeypatch.setenv("STRONGROOM_PLAYGROUND_SECRET", "x")
    for name in ("GATEWAY_URL", "WEB_URL"):
        monkeypatch.setenv(f"STRONGROOM_{name}", "https://x.example")
    monkeypatch.setenv("STRONGROOM_GATEWAY_TRUSTED_PROXIES", text)
    return [str(network) for network in GatewayConfig.from_env().trusted_proxies]


def test_trusted_proxies_come_from_the_environment(monkeypatch):
    assert read_proxies(monkeypatch, "") == []
    assert read_proxies(monkeypatch, " 10.1.2.3/8, fd00::/8 ,") == ["10.0.0.0/8", "fd00::/8"]
    most = [f"10.0.{number}.0/24" for number in range(TRUSTED_PROXIES_MAX)]
    assert read_proxies(monkeypatch, ",".join(most)) == most
    for wrong in (",".join([*most, "10.1.0.0/24"]), "10.0.0.0/8;fd00::/8", "proxy", "10.0.0.0/33"):
        with pytest.raises(SettingError, match="STRONGROOM_GATEWAY_TRUSTED_PROXIES"):
            read_proxies(monkeypatch, wrong)


def find_origin(client, *forwarded, trusted=("10.0.0.0/8", "fd00::/8")):
    request = SimpleNamespace(scope=SimpleNamespace(client=client), headers=_Granian(forwarded))
    found = Origins(map(parse_network, trusted)).find(request)
    return found and str(found)


class _Granian:
    """Headers as granian shows them: a line that it cannot read is there and has no value."""

    def __init__(self, lines):
        self.lines = lines

    def get_all(self, name):
        assert name == "x-forwarded-for"
        return [line for line in self.lines if isinstance(line, str)]

    def __contains__(self, name):
        return bool(self.lines)


@pytest.mark.parametrize(
    ("_client", "_forwarded", "_expected"),
    [
        ("192.0.2.1:5000", [], "192.0.2.1"),
        ("192.0.2.1:5000", ["198.51.100.1"], "192.0.2.1"),
        ("[2001:db8::1]:5000", [], "2001:db8::1"),
        ("[::ffff:192.0.2.1]:5000", [], "192.0.2.1"),
        ("[::ffff:10.0.0.1]:5000", ["198.51.100.1"], "198.51.100.1"),
        ("[fd00::1]:5000", ["2001:db8::2"], "2001:db8::2"),
        ("10.0.0.1:5000", ["[2001:db8::2]:443"], "2001:db8::2"),
        ("10.0.0.1:5000", ["198.51.100.1:443"], "198.51.100.1"),
        ("10.0.0.1:5000", [" 198.51.100.1 ,10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1:5000", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1:5000", ["198.51.100.1, "], None),
        ("10.0.0.1:5000", [""], None),
        ("10.0.0.1:5000", [b"\xff"], None),
        ("10.0.0.1:5000", ["198.51.100.1, _hidden"], None),
        ("", [], None),
        ("", ["198.51.100.1"], None),
        ("/run/gateway.sock", [], None),
    ],
)
def test_origin(_client, _forwarded, _expected):
    assert find_origin(_client, *_forwarded) == _expected


@pytest.mark.parametrize(("_passed", "_expected"), [(0, "198.51.100.1"), (1, None)])
def test_proxies_passed_are_limited(_passed, _expected):
    proxies = ["10.0.0.2"] * (PROXIES_PASSED_MAX - 1 + _passed)

    assert find_origin("10.0.0.1:1", ", ".join(["198.51.100.1", *proxies])) == _expected


def test_networks_find_what_ipaddress_finds():
    source = random.Random(7)
    networks = [
        ip_network((source.randbytes(size), source.randint(0, size * 8)), strict=False)
        for size in (4, 16)
        for _ in range(40)
    ]
    kept = Networks(networks)
    addresses = [ip_address(source.randbytes(size)) for size in (4, 16) for _ in range(500)]
    addresses += [edge for one in networks for edge in (one[0], one[-1])]

    found = [address for address in addresses if address in kept]

    assert found == [one for one in addresses if any(one in network for network in networks)]
    assert len(found) >= len(networks)
    assert ip_address("0.0.0.1") not in Networks([ip_network("::/0")])
