"""What the key broker is started with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from inference.keybroker.kms import KeyProvider, LocalKms
from inference.keybroker.kms.settings import ALIAS_PREFIX, AwsSettings, VaultSettings
from inference.keybroker.tpm import TpmPolicy
from marketplace.core.env import (
    SettingError,
    env_database_url,
    env_environment,
    env_int,
    env_secret,
    env_text,
    env_token,
)
from marketplace.core.listen import env_listen
from marketplace.core.metrics_listener import read_listen, read_token
from strongroom.sealing.policy import EVIDENCE_KINDS
from strongroom.sealing.suite import SUITES, X25519, Suite, find_suite

LISTEN_DEFAULT = "127.0.0.1:8443"
# Asked for more often than this within an hour, a version's key raises an alarm: some ten
# replicas that were all started anew five times.
RELEASE_ALARM_PER_HOUR = 60
KMS_NAMES = ("local", "vault", "aws")
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")
ALIAS_PREFIX_PATTERN = re.compile(r"alias/(?!aws/)[A-Za-z0-9/_-]{1,120}/")


@dataclass(frozen=True, slots=True)
class KeyBrokerConfig:
    """Settings of one key broker.

    Args:
        database_url: Postgres, as the role `strongroom_keybroker`.
        token: What the web shows to have keys made and checked; it cannot unwrap with it.
        kms: Where the keys of models are: `local`, `vault` or `aws`.
        kms_dir: Folder of the local key store, readable by this process alone.
        vault: How to reach Vault, if the keys are there.
        aws: How to reach AWS KMS, if they are there.
        loader_digests: Serving code that may receive keys; empty means none may.
        evidence: Accepted kinds of evidence about a node; empty means none is good enough.
        suite: Kind of the key pairs that are made for uploads.
        tpm: Which TPMs and measurements are good; None where no quote can be verified.
        release_alarm_per_hour: Requests for one version's key that raise no alarm yet.
        host: Where it listens.
        port: Where it listens.
        tls: Files of the server's certificate (with what stands between it and its authority)
            and its key. None in development alone: then nodes' certificates are not checked.
        metrics_listen: Where its numbers are scraped, over plain HTTP; None: nowhere.
        metrics_token: What opens them.
    """

    database_url: str
    token: str
    kms: str
    kms_dir: Path
    vault: VaultSettings | None
    aws: AwsSettings | None
    loader_digests: frozenset[str]
    evidence: frozenset[str]
    suite: Suite
    host: str
    port: int
    tls: tuple[Path, Path] | None
    tpm: TpmPolicy | None = None
    release_alarm_per_hour: int = RELEASE_ALARM_PER_HOUR
    metrics_listen: tuple[str, int] | None = None
    metrics_token: str = field(default="", repr=False)

    def open_kms(self) -> KeyProvider:
        """The key store that the settings name; only its own client is imported."""
        if self.vault is not None:
            from inference.keybroker.kms.vault import VaultTransit

            return VaultTransit(self.vault)
        if self.aws is not None:
            from inference.keybroker.kms.aws import AwsKms

            return AwsKms(self.aws)
        return LocalKms(self.kms_dir)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> KeyBrokerConfig:
        """Read the environment.

        Raises:
            SettingError: A variable is missing or has a form that is not accepted.
        """
        development = env_environment(env=env) == "development"
        evidence = _words("STRONGROOM_KEYBROKER_EVIDENCE", "none-dev" if development else "", env)
        if unknown := evidence - set(EVIDENCE_KINDS):
            raise SettingError(f"STRONGROOM_KEYBROKER_EVIDENCE: unknown {sorted(unknown)}")
        suite = find_suite(env_text("STRONGROOM_KEYBROKER_SUITE", X25519.name, env=env))
        if suite is None:
            raise SettingError(f"STRONGROOM_KEYBROKER_SUITE: one of {', '.join(SUITES)}")
        kms = _read_kms(env, is_development=development)
        host, port = env_listen("STRONGROOM_KEYBROKER_LISTEN", LISTEN_DEFAULT, env=env)
        return cls(
            database_url=env_database_url("STRONGROOM_KEYBROKER_DATABASE_URL", env=env),
            token=env_token("STRONGROOM_KEYBROKER_TOKEN", env=env),
            kms=kms,
            kms_dir=Path(env_text("STRONGROOM_KEYBROKER_KMS_DIR", env=env)),
            vault=_read_vault(env) if kms == "vault" else None,
            aws=_read_aws(env) if kms == "aws" else None,
            loader_digests=_read_digests(env),
            evidence=evidence,
            suite=suite,
            host=host,
            port=port,
            tls=_read_tls(env, is_required=not development),
            tpm=_read_tpm_policy(evidence, env),
            release_alarm_per_hour=env_int(
                "STRONGROOM_KEYBROKER_RELEASE_ALARM_PER_HOUR",
                RELEASE_ALARM_PER_HOUR,
                minimum=1,
                env=env,
            ),
            metrics_listen=read_listen("STRONGROOM_KEYBROKER_METRICS_LISTEN", env),
            metrics_token=read_token(env),
        )


def _read_tpm_policy(evidence: frozenset[str], env: Mapping[str, str] | None) -> TpmPolicy | None:
    path = env_text("STRONGROOM_KEYBROKER_TPM_POLICY", "", env=env)
    if "tpm" in evidence and not path:
        raise SettingError("STRONGROOM_KEYBROKER_EVIDENCE has tpm, so a TPM policy is needed")
    return TpmPolicy.load(Path(path)) if path else None


def _read_kms(env: Mapping[str, str] | None, *, is_development: bool) -> str:
    # Keys in files are nobody's choice by mistake.
    kms = env_text("STRONGROOM_KEYBROKER_KMS", "local" if is_development else None, env=env)
    if kms not in KMS_NAMES:
        raise SettingError(f"STRONGROOM_KEYBROKER_KMS: one of {', '.join(KMS_NAMES)}")
    return kms


def _read_vault(env: Mapping[str, str] | None) -> VaultSettings:
    url = env_text("STRONGROOM_KEYBROKER_VAULT_URL", env=env).rstrip("/")
    if not url.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise SettingError("STRONGROOM_KEYBROKER_VAULT_URL must be https, or this machine")
    role_id = env_text("STRONGROOM_KEYBROKER_VAULT_ROLE_ID", "", env=env)
    name = "STRONGROOM_KEYBROKER_VAULT_SECRET_ID" if role_id else "STRONGROOM_KEYBROKER_VAULT_TOKEN"
    env_secret(name, env=env)  # Now, so that a missing one stops the process at its start.
    read = partial(env_secret, name, env=env)
    return VaultSettings(
        url=url,
        mount=env_text("STRONGROOM_KEYBROKER_VAULT_MOUNT", "transit", env=env).strip("/"),
        namespace=env_text("STRONGROOM_KEYBROKER_VAULT_NAMESPACE", "", env=env),
        ca_bundle=env_text("STRONGROOM_KEYBROKER_VAULT_CA_BUNDLE", "", env=env),
        read_token=None if role_id else read,
        role_id=role_id,
        read_secret_id=read if role_id else None,
    )


def _read_aws(env: Mapping[str, str] | None) -> AwsSettings:
    prefix = env_text("STRONGROOM_KEYBROKER_AWS_ALIAS_PREFIX", ALIAS_PREFIX, env=env)
    if not ALIAS_PREFIX_PATTERN.fullmatch(prefix):
        raise SettingError("STRONGROOM_KEYBROKER_AWS_ALIAS_PREFIX must be like alias/strongroom/")
    return AwsSettings(
        region=env_text("STRONGROOM_KEYBROKER_AWS_REGION", env=env),
        endpoint_url=env_text("STRONGROOM_KEYBROKER_AWS_ENDPOINT_URL", "", env=env),
        alias_prefix=prefix,
    )


def _read_tls(env: Mapping[str, str] | None, *, is_required: bool) -> tuple[Path, Path] | None:
    names = ("STRONGROOM_KEYBROKER_TLS_CERT", "STRONGROOM_KEYBROKER_TLS_KEY")
    certificate, key = (env_text(name, "", env=env) for name in names)
    if not certificate and not key and not is_required:
        return None
    for name, path in zip(names, (certificate, key), strict=True):
        if not path:
            raise SettingError(f"{name} is not set")
        if not Path(path).is_file():
            raise SettingError(f"{name}: there is no file {path}")
    return Path(certificate), Path(key)


def _read_digests(env: Mapping[str, str] | None) -> frozenset[str]:
    digests = _words("STRONGROOM_LOADER_DIGESTS", "", env)
    if not all(DIGEST_PATTERN.fullmatch(digest) for digest in digests):
        raise SettingError("STRONGROOM_LOADER_DIGESTS must be SHA-256 in hex, with commas between")
    return digests


def _words(name: str, default: str, env: Mapping[str, str] | None) -> frozenset[str]:
    text = env_text(name, default, env=env)
    return frozenset(word.strip() for word in text.split(",") if word.strip())
