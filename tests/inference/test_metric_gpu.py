"""GPUs of a node: from Triton's metrics into its report."""

from __future__ import annotations

import pytest

from inference.node import gpu
from inference.node.gpu import GPUWatch
from inference.triton.metrics import GPU, list_gpus, parse_samples

# As tritonserver writes them.
TEXT = """
nv_gpu_utilization{gpu_uuid="GPU-b"} 0.37
nv_gpu_memory_total_bytes{gpu_uuid="GPU-b"} 149000000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-b"} 20000000000
nv_gpu_utilization{gpu_uuid="GPU-a"} 1
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 8
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 4
nv_gpu_utilization{gpu_uuid="GPU-broken"} 1
nv_gpu_power_usage{gpu_uuid="GPU-a"} 70
nv_cpu_utilization 0.5
"""


def test_gpus_are_read() -> None:
    assert list_gpus(parse_samples(TEXT)) == [
        GPU(10_000, 4, 8),
        GPU(3_700, 20_000_000_000, 149_000_000_000),
    ]
    assert list_gpus(parse_samples("nv_cpu_utilization 0.5")) == []


def test_a_report_without_a_gpu_says_nothing_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "read_gpus", lambda *_, **__: [])

    assert GPUWatch("http://x/metrics").describe(is_ready=True) == {}


def test_the_server_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def read(url: str, *, timeout_s: float) -> list[GPU]:
        asked.append(url)
        return [GPU(1, 2, 3)]

    monkeypatch.setattr(gpu, "read_gpus", read)
    watch = GPUWatch("http://x/metrics")
    for _ in range(5):
        found = watch.describe(is_ready=True)

    assert found == {"gpus": [{"busy_bps": 1, "memory_used_bytes": 2, "memory_total_bytes": 3}]}
    assert asked == ["http://x/metrics"]
    # What it said before it went down is not what is now.
    assert watch.describe(is_ready=False) == {}


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_server_that_does_not_answer_costs_no_report(monkeypatch, error) -> None:
    def read(*_: object, **__: object) -> list[GPU]:
        raise error

    monkeypatch.setattr(gpu, "read_gpus", read)

    assert GPUWatch("http://x/metrics").describe(is_ready=True) == {}
