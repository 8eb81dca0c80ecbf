"""What the stand-in is started with, read from the environment once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fakestripe.rate import PER_S_MAX

DEFAULT_SECRET_KEY = "sk_test_fakestripe"  # noqa: S105 - it opens nothing but the stand-in


class ConfigError(Exception):
    """A variable is missing or has a form that is not accepted."""


@dataclass(frozen=True)
class Config:
    """Where it listens, where its state lies, whom it tells."""

    port: int
    state: Path
    webhook_url: str | None = None
    webhook_secret: str = ""
    secret_key: str = DEFAULT_SECRET_KEY
    public_url: str = ""
    # Requests a second that a key may make; 0 is any number.
    rate_per_s: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:
            raise ConfigError(f"FAKESTRIPE_PORT must be a port, not {self.port}")
        if not self.secret_key.startswith("sk_test_"):
            # Whoever has a live key wants the real Stripe; nothing here moves money.
            raise ConfigError("FAKESTRIPE_SECRET_KEY must start with sk_test_")
        if not 0 <= self.rate_per_s <= PER_S_MAX:
            raise ConfigError(f"FAKESTRIPE_RATE_PER_S must be from 0 to {PER_S_MAX}")
        if self.webhook_url and not self.webhook_secret.strip():
            raise ConfigError("FAKESTRIPE_WEBHOOK_URL needs FAKESTRIPE_WEBHOOK_SECRET")

    @property
    def base_url(self) -> str:
        """The address under which people reach the payment page."""
        return (self.public_url or f"http://127.0.0.1:{self.port}").rstrip("/")

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, port: int | None, state: Path | None) -> Config:
        """Options of the command line win over the environment.

        Raises:
            ConfigError: With the variable's name and the accepted form.
        """
        chosen_state = state or (Path(text) if (text := env.get("FAKESTRIPE_STATE")) else None)
        if chosen_state is None:
            raise ConfigError("FAKESTRIPE_STATE must be the path of a file")
        if port is None:
            text = env.get("FAKESTRIPE_PORT", "")
            if not text.isdecimal():
                raise ConfigError(f"FAKESTRIPE_PORT must be a port, not {text!r}")
            port = int(text)
        rate = env.get("FAKESTRIPE_RATE_PER_S") or "0"
        if not rate.isdecimal():
            raise ConfigError(f"FAKESTRIPE_RATE_PER_S must be a number, not {rate!r}")
        return cls(
            port=port,
            state=chosen_state,
            webhook_url=env.get("FAKESTRIPE_WEBHOOK_URL") or None,
            webhook_secret=env.get("FAKESTRIPE_WEBHOOK_SECRET", ""),
            secret_key=env.get("FAKESTRIPE_SECRET_KEY") or DEFAULT_SECRET_KEY,
            public_url=env.get("FAKESTRIPE_PUBLIC_URL", ""),
            rate_per_s=int(rate),
        )
