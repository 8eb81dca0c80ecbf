"""Settings of the test run: the product's own, with what makes tests fast and safe."""

from __future__ import annotations

from tests import servers

servers.provide()  # Before the settings read the environment.

from marketplace.settings import *  # noqa: E402, F403

# Hashing passwords slowly protects nobody here.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
# Each page asks for switches and announcements anew, so that tests count the same each time.
PLATFORM_CACHE_S = 0
