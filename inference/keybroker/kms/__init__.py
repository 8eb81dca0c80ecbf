"""Where the keys of models live: providers that wrap and unwrap, and never let keys out.

`local` keeps them in files; `vault` and `aws` are for production.
"""

from inference.keybroker.kms.base import KeyDestroyedError, KeyProvider, Kms, UnwrapError
from inference.keybroker.kms.local import LocalKms

__all__ = ["KeyDestroyedError", "KeyProvider", "Kms", "LocalKms", "UnwrapError"]
