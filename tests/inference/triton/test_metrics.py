from __future__ import annotations

import pytest

from inference.triton import tensors
from inference.triton.metrics import ModelCounts, Sample, parse_samples, read_counts
from tests.inference.triton.conftest import INTERFACE, write_toy

TEXT = r"""
# HELP nv_x Something
# TYPE nv_x counter
nv_x{model="a",version="1"} 3
nv_x{model="b \"c\" }",version="1"} 4.5e+06 1700000000
nv_plain 1
nv_broken{model="a"} three
no sample
"""


def test_samples_are_read_and_the_rest_is_skipped():
    assert list(parse_samples(TEXT)) == [
        Sample("nv_x", {"model": "a", "version": "1"}, 3.0),
        Sample("nv_x", {"model": r"b \"c\" }", "version": "1"}, 4.5e6),
        Sample("nv_plain", {}, 1.0),
    ]


def test_a_server_counts_what_its_models_do(server, control):
    name = write_toy(server.config)
    control.load(name, timeout_s=30)
    outputs = [one.name for one in INTERFACE.wire_outputs]

    def infer(*texts):
        rows = [{"x": [1, 2, 3], "text": text} for text in texts]
        control.infer(name, tensors.encode(INTERFACE, rows), outputs, timeout_s=10)

    infer("a", "b", "c")
    infer("d")

    counts = read_counts(server.config.metrics_url)

    assert counts[name] == ModelCounts(succeeded=2, failed=0, pending=0, rows=4, executions=2)


def test_a_server_that_is_not_there_is_an_os_error():
    with pytest.raises(OSError, match="refused"):
        read_counts("http://127.0.0.1:9/metrics")
