"""The model.py that Triton runs for every replica; copied into its folder as it is.

It holds no logic of its own: the packages lie elsewhere, at the path in the model's
configuration, and the digest that the key broker checks is taken there.
"""

from __future__ import annotations

import json
import sys
from typing import Any


class TritonPythonModel:
    """What Triton's python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; Triton marks it ready when this returns."""
        root = json.loads(args["model_config"])["parameters"]["root"]["string_value"]
        sys.path[:0] = [root, f"{root}/sdk"]
        from inference.serving import environment

        # The loader's own imports are the first that read it.
        environment.prepare()
        from inference.serving.loader import Loader

        self._loader = Loader()
        self._loader.initialize(args)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Answer requests; a model that streams sends its responses itself."""
        return self._loader.execute(requests)

    def finalize(self) -> None:
        """Overwrite the model, before Triton ends the process."""
        self._loader.finalize()
