"""Client libraries of others, against the gateway of its own tests: its shop, its models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import openai
import pytest
import tritonclient.http as triton_http

from marketplace.core.ids import new_id
from strongroom.interface import Interface
from tests.gateway.conftest import (  # noqa: F401 - fixtures, for the tests of this folder.
    PRICE_NANOS,
    Shop,
    gateway,
    interface,
    language,
    shop,
    teller,
    triton,
)

_KINDS = [
    {"name": "wave", "kind": "tensor", "datatype": "FP32", "shape": [-1]},
    {"name": "exact", "kind": "tensor", "datatype": "FP64", "shape": [2]},
    {"name": "flags", "kind": "tensor", "datatype": "BOOL", "shape": [3]},
    {"name": "pixels", "kind": "tensor", "datatype": "UINT8", "shape": [2, 2]},
    {"name": "offsets", "kind": "tensor", "datatype": "INT16", "shape": [2]},
    {"name": "large", "kind": "tensor", "datatype": "UINT64", "shape": [1]},
    {"name": "count", "kind": "integer"},
    {"name": "loud", "kind": "boolean"},
    {"name": "text", "kind": "text"},
]
_DEFAULTS = {
    "wave": [0],
    "exact": [0, 0],
    "flags": [False] * 3,
    "pixels": [[0, 0], [0, 0]],
    "offsets": [0, 0],
    "large": [0],
    "count": 0,
    "loud": False,
    "text": "",
}
_LIMITS = {"wave": {"minimum": -1000, "maximum": 1000}, "text": {"max_length": 20}}
MIRROR = {
    "inputs": [
        one | {"default": _DEFAULTS[one["name"]]} | _LIMITS.get(one["name"], {}) for one in _KINDS
    ],
    "outputs": [one | {"name": f"same_{one['name']}"} for one in _KINDS],
    "batch": {"max_size": 4},
}
_MIRROR_ID = new_id()


@pytest.fixture(scope="package")
def mirror_replica(triton) -> UUID:  # noqa: F811
    """Loaded once; its row is made for each test."""
    source = Path(__file__).with_name("mirror_model.py")
    triton.load(Interface.parse(MIRROR), _MIRROR_ID, model_source=source)
    return _MIRROR_ID


@pytest.fixture
def mirror(shop: Shop, mirror_replica: UUID) -> str:  # noqa: F811
    """The name of a published model; each output is the input of that name."""
    shop.sell("mirror", MIRROR, mirror_replica)
    return "maker/mirror"


@pytest.fixture
def bearer(shop: Shop) -> dict[str, str]:  # noqa: F811
    """The one header that a client has to add."""
    return {"Authorization": f"Bearer {shop.key.text}"}


@pytest.fixture
def triton_client(shop: Shop) -> Iterator[triton_http.InferenceServerClient]:  # noqa: F811
    client = triton_http.InferenceServerClient(urlsplit(shop.url).netloc, concurrency=4)
    yield client
    client.close()


@pytest.fixture
def openai_client(language: Shop) -> Iterator[openai.OpenAI]:  # noqa: F811
    with open_client(language, language.key.text) as client:
        yield client


def open_client(shop: Shop, key: str) -> openai.OpenAI:  # noqa: F811
    """As its readme says; the address and the key are all that is ours."""
    return openai.OpenAI(base_url=f"{shop.url}/openai/v1", api_key=key)
