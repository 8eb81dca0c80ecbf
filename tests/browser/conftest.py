"""The push page's modules in a real browser, on a page that has nothing else.

The browser is closed after each file: as long as it runs, no other test could use asyncio.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.bench import Bench, open_bench


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with open_bench() as bench:
        yield bench
