"""The demo's consumer at its own terminal."""

from __future__ import annotations

import secrets
from fractions import Fraction
from uuid import UUID

import httpx

from tests.chaos import database
from tests.chaos.books import Books
from tests.chaos.children import MODEL
from tests.chaos.clients import Sample
from tests.stack import Stack


class Consumer:
    """The demo's consumer at its own terminal, with keys for this test alone."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        login = stack.demo["consumer"]
        self._api = httpx.Client(base_url=f"{stack.demo['web_url']}/api", timeout=30)
        answer = self._api.post(
            "/login",
            json={
                "email": login["email"],
                "password": login["password"],
                "token_name": f"chaos {secrets.token_hex(4)}",
            },
        ).raise_for_status()
        self.account = answer.json()["account"]
        self._api.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        self.books = Books(database.find_url(stack.home), self.account)

    def make_key(self) -> tuple[UUID, str]:
        """A fresh API key: its id and its text."""
        document = {"account": self.account, "name": "chaos", "mode": "live"}
        answer = self._api.post("/keys", json=document).raise_for_status().json()
        return UUID(answer["id"]), answer["key"]

    def read_price(self) -> Fraction:
        """Of one prediction, in dollars, as everybody is told."""
        answer = self._api.get(f"/models/{MODEL}/price").raise_for_status().json()
        return Fraction(answer["nanos_per_prediction"], 10**9)

    def collect_samples(self) -> list[Sample]:
        """Different inputs and the outputs that belong to them, from before the first death."""
        image = self.stack.demo["models"][0]["example_input"]["image"]
        samples = []
        for shift in range(0, 40, 8):
            content = {"input": {"image": image[shift:] + image[:shift]}}
            answer = httpx.post(
                f"{self.stack.demo['gateway_url']}/v1/models/{MODEL}/predictions",
                headers={"Authorization": f"Bearer {self.stack.demo['consumer']['api_key']}"},
                json=content,
                timeout=60,
            ).raise_for_status()
            body = answer.request.content
            samples.append(Sample(body, answer.json()["output"]["probabilities"]))
        assert len({tuple(one.probabilities) for one in samples}) == len(samples)
        return samples
