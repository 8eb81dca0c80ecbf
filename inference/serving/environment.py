"""What the libraries read from the environment, set before the first of them is imported.

No network, no caches of compiled plaintext, no threads that wait for work by spinning.
Some libraries read their variables once, while they are imported.
"""

from __future__ import annotations

import os
import sys

_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # onnxruntime describes each model to its makers, from the moment it is imported.
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_COMPILE_DISABLE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "CUDA_CACHE_DISABLE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "KMP_BLOCKTIME": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def prepare() -> None:
    """Set the variables, and write no bytecode: the sources may be read-only."""
    sys.dont_write_bytecode = True
    os.environ.update(_VARIABLES)
