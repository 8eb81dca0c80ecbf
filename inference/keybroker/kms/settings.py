"""How remote key stores are reached; read without importing their clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

ALIAS_PREFIX = "alias/strongroom/"


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """Where Vault is and how to sign in; either a token or an AppRole.

    Args:
        url: Its address.
        mount: Where the Transit engine is mounted.
        namespace: Of Vault Enterprise; empty for none.
        ca_bundle: File of the certificates that sign Vault's; empty for the system's.
        read_token: Reads the token anew each time: an agent may renew its file.
        role_id: Of the AppRole.
        read_secret_id: Reads the AppRole's secret.
    """

    url: str
    mount: str = "transit"
    namespace: str = ""
    ca_bundle: str = ""
    read_token: Callable[[], str] | None = None
    role_id: str = ""
    read_secret_id: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class AwsSettings:
    """Where AWS KMS is; who we are is found as every AWS client finds it.

    Args:
        region: Such as eu-central-1.
        endpoint_url: A private endpoint; empty for the region's.
        alias_prefix: What all names begin with; one for each platform in an account.
    """

    region: str
    endpoint_url: str = ""
    alias_prefix: str = ALIAS_PREFIX
