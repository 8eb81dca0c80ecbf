"""The page of metrics as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

PREFIX = "strongroom_gateway_"


class Scrape:
    """Samples of one look at a gateway."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        response = httpx.get(f"{url}/metrics", headers=headers, timeout=30)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.text = response.text
        self.families = {one.name: one for one in text_string_to_metric_families(self.text)}

    def find(self, name: str, **labels: str) -> list[Any]:
        """The samples of a name that have these labels."""
        name = name if name.startswith(("process_", "strongroom_")) else f"{PREFIX}{name}"
        return [
            sample
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def sum(self, name: str, **labels: str) -> float:
        return sum(one.value for one in self.find(name, **labels))
