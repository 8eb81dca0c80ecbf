"""To compare with: the tiny model behind BentoML's adaptive batching.

No key is checked and nothing is counted. Run by bench.gateway in an environment of its own,
where nothing of this project is installed.
"""

import bentoml
import numpy as np


# A line of log for each request would be a part of the measurement.
@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Negate:
    """y = -x, as the model behind the gateway."""

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1_000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Answer a batch of rows."""
        return -np.asarray(x, np.float32)
