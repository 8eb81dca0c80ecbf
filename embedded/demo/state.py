"""How far the seeding has come, so that it goes on after a cut."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded.home import Home, write_private


@dataclass
class SeedState:
    """What is done and may not be done again; written after every step.

    Args:
        path: The file, `seed.json` in the home.
        accounts: What `manage.py seed_demo` answered: logins of creator, consumer, admin.
        models: By name: `example` and `facts` of the builder, `version_id`, `version`.
        consumer_token: The consumer's token of the management API.
        scratch: Where plain weights lie right now; empty when they lie nowhere.
        api_key: The consumer's.
        topup_id: Of the consumer's first credit, once its page was opened.
        has_credit: Whether that credit has arrived.
        has_search_key: Whether the catalogue's own key is known to the gateway.
    """

    path: Path
    accounts: dict[str, dict[str, str]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    consumer_token: str = ""
    scratch: str = ""
    api_key: str = ""
    topup_id: str = ""
    has_credit: bool = False
    has_search_key: bool = False

    @classmethod
    def load(cls, home: Home) -> SeedState:
        """The state of a home; empty at the first start."""
        path = home / "seed.json"
        document = json.loads(path.read_text()) if path.exists() else {}
        return cls(path=path, **document)

    def save(self) -> None:
        """Write it, readable by its owner only."""
        document = {name: value for name, value in vars(self).items() if name != "path"}
        write_private(self.path, document)
