"""One real tritonserver for all tests of the loader, and ways to load into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.inference.serving.peer import Peer
from tests.inference.serving.sealed import SealedModel
from tests.inference.serving.triton import LoadFailedError, Triton


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    server = Triton(tmp_path_factory.mktemp("triton"))
    yield server
    server.stop()


@pytest.fixture
def load(triton: Triton) -> Iterator[Callable[..., tuple[str, Peer]]]:
    """Load a sealed model; it is unloaded when the test ends."""
    names: list[str] = []

    def run(
        sealed: SealedModel,
        *,
        bend: Callable[[Peer], None] | None = None,
        purpose: str = "serve",
    ) -> tuple[str, Peer]:
        name, peer = triton.prepare(sealed, purpose=purpose)
        if bend is not None:
            bend(peer)
        with peer:
            triton.load(name)
        names.append(name)
        assert peer.error is None
        return name, peer

    yield run
    for name in names:
        triton.unload(name)


@pytest.fixture
def refuse(triton: Triton) -> Callable[..., tuple[str, Peer]]:
    """Load a model that must not load; returns the reason code and the conversation."""

    def run(
        sealed: SealedModel,
        *,
        bend: Callable[[Peer], None] | None = None,
        purpose: str = "serve",
    ) -> tuple[str, Peer]:
        name, peer = triton.prepare(sealed, purpose=purpose)
        if bend is not None:
            bend(peer)
        with peer, pytest.raises(LoadFailedError) as caught:
            triton.load(name)
        # Nothing is served, and no process of it is left.
        assert not triton.client.is_model_ready(name)
        assert triton.stub_of(name) == 0
        failed = peer.find("failed")
        reason_code = failed["reason_code"] if failed else ""
        # Triton's own log learns the code and nothing else.
        assert f"RuntimeError: {reason_code}" in str(caught.value)
        if failed:
            assert failed["detail"] not in triton.log()
        return reason_code, peer

    return run


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Where a test keeps the sealed parts of its models."""
    return tmp_path / "parts"
