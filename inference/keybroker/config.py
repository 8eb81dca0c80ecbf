"""What the key broker is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from marketplace.core.env import SettingError, env_secret, env_text
from strongroom.sealing.suite import SUITES, X25519, Suite, find_suite

EVIDENCE_TYPES = frozenset({"none-dev"})


@dataclass(frozen=True, slots=True)
class KeyBrokerConfig:
    """Settings of one key broker.

    Args:
        database_url: Postgres, as the role `strongroom_keybroker`.
        token: What the web shows to have keys made and checked; it cannot unwrap with it.
        kms_dir: Folder of the local key store, readable by this process alone.
        loader_digests: Serving code that may receive keys; empty means none may.
        evidence: Accepted kinds of evidence about a node; empty means none is good enough.
        suite: Kind of the key pairs that are made for uploads.
    """

    database_url: str
    token: str
    kms_dir: Path
    loader_digests: frozenset[str]
    evidence: frozenset[str]
    suite: Suite

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> KeyBrokerConfig:
        """Read the environment.

        Raises:
            SettingError: A variable is missing or has a form that is not accepted.
        """
        development = env_text("STRONGROOM_ENV", "production", env=env) == "development"
        evidence = _words("STRONGROOM_KEYBROKER_EVIDENCE", "none-dev" if development else "", env)
        if unknown := evidence - EVIDENCE_TYPES:
            raise SettingError(f"STRONGROOM_KEYBROKER_EVIDENCE: unknown {sorted(unknown)}")
        suite = find_suite(env_text("STRONGROOM_KEYBROKER_SUITE", X25519.name, env=env))
        if suite is None:
            raise SettingError(f"STRONGROOM_KEYBROKER_SUITE: one of {', '.join(SUITES)}")
        return cls(
            database_url=env_secret("STRONGROOM_KEYBROKER_DATABASE_URL", env=env),
            token=env_secret("STRONGROOM_KEYBROKER_TOKEN", env=env),
            kms_dir=Path(env_text("STRONGROOM_KEYBROKER_KMS_DIR", env=env)),
            loader_digests=_words("STRONGROOM_LOADER_DIGESTS", "", env),
            evidence=evidence,
            suite=suite,
        )


def _words(name: str, default: str, env: Mapping[str, str] | None) -> frozenset[str]:
    text = env_text(name, default, env=env)
    return frozenset(word.strip() for word in text.split(",") if word.strip())
