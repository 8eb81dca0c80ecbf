"""Account names that nobody gets, because an address or a reader would mistake them.

The first part of `/{owner}/{name}` is an account's slug, so no slug may be the first part
of a page's address; a test compares this list with all addresses. The others are names
that a stranger could use to pass for the platform.
"""

from __future__ import annotations

RESERVED_SLUGS = frozenset(
    {
        # Addresses of the site and of the gateway, today's and likely ones.
        *("account", "accounts", "admin", "api", "billing", "catalogue", "checkout", "console"),
        *("dashboard", "docs", "earnings", "explore", "favicon", "gateway", "health", "healthz"),
        *("help", "home", "hooks", "inference", "invoices", "keys", "log-out", "login", "logout"),
        *("media", "metrics", "models", "node", "nodes", "openai", "panels", "password-reset"),
        *(
            "payouts",
            "playground",
            "predictions",
            "pricing",
            "profile",
            "ready",
            "receipts",
            "review",
        ),
        *("evidence", "notifications", "runs"),
        *("palette", "styleguide", "theme"),
        *("collection", "collections", "compare", "industries", "industry", "sitemap"),
        *("reset", "robots", "search", "settings", "sign-in", "sign-up", "signin", "signup"),
        *("sealing", "static", "status", "stripe", "terms", "privacy", "topup", "topups", "usage"),
        *("users", "v1", "v2", "v3", "versions", "wallet", "webhooks", "well-known"),
        # Names that speak for the platform.
        *("abuse", "administrator", "official", "platform", "root", "security", "staff"),
        *("strongroom", "support", "system"),
    }
)

# What accounts are called that were deleted.
DELETED_PREFIX = "deleted-"


def is_reserved(slug: str) -> bool:
    """Whether no account may have this slug."""
    return slug in RESERVED_SLUGS or slug.startswith(DELETED_PREFIX)
