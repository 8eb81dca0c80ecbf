"""The shop of the gateway's tests, its Triton and its gateway, which end with the tests here."""

from __future__ import annotations

from tests.gateway.conftest import gateway as gateway  # noqa: PLC0414 - a fixture
from tests.gateway.conftest import interface as interface  # noqa: PLC0414 - a fixture
from tests.gateway.conftest import shop as shop  # noqa: PLC0414 - a fixture
from tests.gateway.conftest import start_gateway as start_gateway  # noqa: PLC0414 - a fixture
from tests.gateway.conftest import triton as triton  # noqa: PLC0414 - a fixture
