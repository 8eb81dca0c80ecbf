"""What the libraries read from the environment, set before the first of them is imported.

No network, no caches of compiled plaintext, no dumps, no threads that wait for work by
spinning. Some libraries read their variables once, while they are imported.

The sandbox refuses to write files whatever they say. They matter for what runs before it
closes, and they keep a library from failing where it expects that it may write.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # onnxruntime describes each model to its makers, from the moment it is imported.
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # The scanner's (modelaudit) reports, which begin with its import.
    "NO_ANALYTICS": "1",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_COMPILE_DISABLE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    # Compiled kernels and graphs hold constants of the model: of Inductor, of its
    # autotuner, of the Triton compiler, of CUDA, of TensorRT below ONNX Runtime.
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
    "TORCHINDUCTOR_AUTOTUNE_REMOTE_CACHE": "0",
    "TRITON_CACHE_AUTOTUNING": "0",
    "CUDA_CACHE_DISABLE": "1",
    "ORT_TENSORRT_ENGINE_CACHE_ENABLE": "0",
    "ORT_TENSORRT_TIMING_CACHE_ENABLE": "0",
    # A GPU that fails would write the memory of its device into a file.
    "CUDA_ENABLE_COREDUMP_ON_EXCEPTION": "0",
    "CUDA_ENABLE_CPU_COREDUMP_ON_EXCEPTION": "0",
    "CUDA_ENABLE_USER_TRIGGERED_COREDUMP": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "KMP_BLOCKTIME": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def prepare() -> None:
    """Set the variables, and write no bytecode: the sources may be read-only."""
    sys.dont_write_bytecode = True
    os.environ.update(_VARIABLES)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Have these libraries look as if they were not installed while others are imported.

    What a library imports because it happens to lie there costs time, and is more code in
    the process that will see plaintext.
    """
    hidden = [name for name in names if name not in sys.modules]
    # None there is what makes an import fail.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
