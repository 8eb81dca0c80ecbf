"""The demo models: what builds each, and what says whether its answers are right."""

from __future__ import annotations

from dataclasses import dataclass

from embedded.demo import verify
from embedded.demo.verify import Verify


@dataclass(frozen=True)
class DemoModel:
    """A model of the demo.

    Args:
        name: `owner/name`.
        module: Its builder, in this package.
        verify: Runs predictions and raises if one is wrong; returns a line for people.
    """

    name: str
    module: str
    verify: Verify


# The one that is quickest to answer comes first: it makes the prediction of each start.
MODELS = (
    DemoModel("demo/digits", "digits", verify.verify_digit),
    DemoModel("demo/file-type", "file_type", verify.verify_file_type),
    DemoModel("demo/sentence-embeddings", "sentence_embeddings", verify.verify_embedding),
    DemoModel("demo/speech", "speech", verify.verify_speech),
    DemoModel("demo/smollm2", "smollm2", verify.verify_answer),
)
