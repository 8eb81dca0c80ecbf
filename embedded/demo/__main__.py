"""What the supervisor runs last: `python -m embedded.demo HOME [--check]`.

Seeds what is missing, writes demo.json and makes a prediction through the public API. With
--check every model must answer, and right.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedded.demo import seed
from embedded.demo.catalogue import MODELS, DemoModel
from embedded.demo.platform import DemoError, Platform
from embedded.demo.state import SeedState
from embedded.home import Home
from strongroom.errors import StrongroomError


def main() -> int:
    """Returns 1 if something failed; the reason is the last line."""
    parser = argparse.ArgumentParser(prog="embedded.demo")
    parser.add_argument("home", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    # As an exception, so that plain weights are removed and the builder is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    platform = Platform.find(Home(options.home))
    state = SeedState.load(platform.home)
    try:
        seed.seed(platform, state)
        seed.wait_served(platform, state)
        seed.write_demo(platform, state)
        if options.check:
            return check(platform, state)
        if state.has_credit:
            announce(f"{MODELS[0].name}: {verify(platform, state, MODELS[0])}")
    except (DemoError, StrongroomError) as error:
        announce(f"demo: {error}")
        return 1
    return 0


def check(platform: Platform, state: SeedState) -> int:
    """One line for each model; 0 only if all answered right."""
    wrong = 0
    for model in MODELS:
        try:
            announce(f"right  {model.name}: {verify(platform, state, model)}")
        except (DemoError, StrongroomError, LookupError, TypeError) as error:
            announce(f"WRONG  {model.name}: {error}")
            wrong += 1
    return 1 if wrong else 0


def verify(platform: Platform, state: SeedState, model: DemoModel) -> str:
    """Run the model's predictions and judge them."""
    entry = state.models[model.name]
    with platform.client(state.api_key) as client:

        def predict(values: Mapping[str, Any]) -> dict[str, Any]:
            return dict(client.predict(model.name, values).output)

        return model.verify(predict, entry["example"], entry["facts"])


def announce(text: str) -> None:
    """A line that the supervisor shows to people."""
    print(f"> {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
