"""A consumer with a key, and a stranger on the network, try to reach the inference server itself.

Triton's control APIs load models, read files of its machine, and map its memory.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from embedded import ports
from inference.triton.server import SECRET_HEADER, TritonConfig, TritonServer
from tests.gateway.conftest import (  # noqa: F401 - the fixtures
    Shop,
    check_untouched,
    client,
    gateway,
    interface,
    shop,
    triton,
)
from tests.gateway.processes import ToyTriton, eventually

CONTROLS = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/x/load"),
    ("POST", "/v2/repository/models/x/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/r/register"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
]
LISTEN = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
# Of this machine, but not where the server listens: as the address of its network card is.
OTHER_ADDRESS = "127.0.0.2"


@pytest.mark.django_db(transaction=True)
def test_the_gateway_has_no_way_to_the_controls(
    shop: Shop,  # noqa: F811
    client: httpx.Client,  # noqa: F811
    triton: ToyTriton,  # noqa: F811
) -> None:
    for method, path in CONTROLS:
        for spelling in (path, f"//{path[1:]}", path.replace("/v2/", "/v2/./"), f"{path}/"):
            answer = client.request(method, spelling, json={})
            assert answer.status_code in (400, 404), (spelling, answer.text)
    check_untouched(shop)
    metadata = [("authorization", f"Bearer {shop.key.text}")]
    with grpc_client.InferenceServerClient(shop.grpc_address) as caller:
        for call in (
            caller.get_model_repository_index,
            caller.get_system_shared_memory_status,
            caller.get_trace_settings,
            caller.get_log_settings,
        ):
            with pytest.raises(InferenceServerException) as refused:
                call(headers=dict(metadata))
            assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    # The control: all of it is there, behind the gateway.
    answers = {
        path: call_triton(triton, method, path, triton.config.secret) for method, path in CONTROLS
    }
    assert answers["/v2/repository/index"] == 200
    assert 403 not in answers.values()


def call_triton(triton: ToyTriton, method: str, path: str, secret: str) -> int:  # noqa: F811
    request = urllib.request.Request(
        triton.config.http_url + path,
        b"{}" if method == "POST" else None,
        {SECRET_HEADER: secret},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_who_is_on_the_machine_needs_its_secret_as_well(triton: ToyTriton) -> None:  # noqa: F811
    guessed = {path: call_triton(triton, method, path, "guess") for method, path in CONTROLS}

    assert set(guessed.values()) == {403}


def list_listening(pid: int) -> set[tuple[str, int]]:
    """Addresses, as the kernel spells them, and ports on which a process listens."""
    inodes = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(one.readlink()))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and f"socket:[{fields[9]}]" in inodes:
                address, _, port = fields[1].partition(":")
                found.add((address, int(port, 16)))
    return found


def can_connect(address: str, port: int) -> bool:
    """In a process of its own: the tests themselves may speak to one address only."""
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    command = [sys.executable, "-c", code, address, str(port)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def exposed(tmp_path: Path) -> Iterator[TritonServer]:
    """A server that listens at another address than it should."""
    http_port = ports.choose()
    grpc_port = ports.choose([http_port])
    metrics_port = ports.choose([http_port, grpc_port])
    config = TritonConfig(tmp_path / "triton", http_port, grpc_port, metrics_port)
    server = TritonServer(replace(config, host=OTHER_ADDRESS))
    server.start()
    yield server
    server.stop()


def test_it_listens_where_no_network_leads(
    triton: ToyTriton,  # noqa: F811
    exposed: TritonServer,
) -> None:
    config = triton.config
    expected = {config.http_port, config.grpc_port, config.metrics_port}
    assert triton.server.pid is not None
    listening = list_listening(triton.server.pid)

    assert {port for _, port in listening} == expected
    assert {address for address, _ in listening} <= LOOPBACK
    assert not any(can_connect(OTHER_ADDRESS, port) for port in expected)
    # The control: both ways of looking notice a server that listens elsewhere.
    pid = exposed.pid
    assert pid is not None
    eventually(lambda: check_listens(pid, exposed.config.http_port), timeout_s=60)
    assert not {address for address, _ in list_listening(pid)} <= LOOPBACK
    assert can_connect(OTHER_ADDRESS, exposed.config.http_port)


def check_listens(pid: int, port: int) -> None:
    assert port in {one for _, one in list_listening(pid)}
