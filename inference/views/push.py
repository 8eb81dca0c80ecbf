"""The page that seals a model in the browser and pushes it, and the scripts that it may run.

What seals must be what was reviewed: each script stands with its hash in a list that is part of
the source, the page names them with these hashes, and the browser runs nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.http import require_safe

from marketplace.context import actor_of, requested_account
from marketplace.selectors.access import access_model, has_right

# `cd static && sha256sum -c js/push/SHA256SUMS` compares. What others need stands before them.
PINS = settings.BASE_DIR / "static" / "js" / "push" / "SHA256SUMS"
ENTRY = "js/push/push.js"
# One module in the worker, joined in this order by the page after it has verified all. The page
# itself needs the first only.
WORKER = ("js/push/floe.js", "js/push/sha256.js", "js/push/worker.js")
POLICY_NAME = "strongroom-worker"


@dataclass(frozen=True, slots=True)
class Script:
    """One script, with its hash as people and as browsers write it."""

    path: str
    sha256: str

    @property
    def url(self) -> str:
        """Without a hash in its name: modules name each other so."""
        return settings.STATIC_URL + self.path

    @property
    def integrity(self) -> str:
        """For the attribute `integrity`."""
        return f"sha256-{base64.b64encode(bytes.fromhex(self.sha256)).decode()}"


@login_required
@require_safe
def push(request: HttpRequest) -> HttpResponse:
    """Seal and push from the browser; `?model=` names an own model that gets a new version."""
    account = requested_account(request, "push")
    name = request.GET.get("model", "")
    model = access_model(actor_of(request), account.slug, name, "push") if name else None
    scripts = list_scripts()
    import_map = _write_import_map(scripts)
    context = {
        "account": account,
        "model": model,
        "can_publish": has_right(actor_of(request), account, "publish"),
        "scripts": scripts,
        "modules": [one for one in scripts if one.path not in (*WORKER[1:], ENTRY)],
        "entry": next(one for one in scripts if one.path == ENTRY),
        "worker": [one for path in WORKER for one in scripts if one.path == path],
        "import_map": import_map,
    }
    response = render(request, "inference/push.html", context)
    response["Content-Security-Policy"] = _write_policy(request, scripts, import_map)
    # Browsers that know it refuse a script without a hash, wherever it is named.
    response["Integrity-Policy"] = "blocked-destinations=(script)"
    return response


@cache
def list_scripts() -> tuple[Script, ...]:
    """The pinned scripts, dependencies first."""
    lines = PINS.read_text().splitlines()
    return tuple(Script(path, digest) for digest, path in (line.split() for line in lines))


def _write_import_map(scripts: tuple[Script, ...]) -> SafeString:
    hashes = {one.url: one.integrity for one in scripts}
    # Addresses and base64 of ours; nothing of it needs escaping.
    return mark_safe(json.dumps({"integrity": hashes}, separators=(",", ":")))  # noqa: S308


def _write_policy(request: HttpRequest, scripts: tuple[Script, ...], import_map: SafeString) -> str:
    addresses = [
        request.build_absolute_uri(one.url) for one in scripts if one.path not in WORKER[1:]
    ]
    digest = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    directives = {
        "default-src": "'none'",
        "script-src": " ".join([*addresses, f"'sha256-{digest}'"]),
        # The worker is text that the page has verified: it has no address of its own.
        "worker-src": "blob:",
        "connect-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "font-src": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": POLICY_NAME,
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())
