"""What holds for every address of the site: headers, methods, forgery, strangers' hosts.

The addresses are those of the urlconf, so that a new one is walked without a line here. Each
class of attack has a control, which takes the protection away and sees the attack succeed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings as product
from django.contrib import admin
from django.core.cache import cache
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from tests.factories import PASSWORD
from tests.marketplace.test_pages import OWNED
from tests.test_tenants import LINES, NAMELESS

ROOT = Path(__file__).resolve().parent.parent.parent
ARGUMENTS = {
    "owner": "acme",
    "slug": "acme",
    "name": "digits",
    "number": 1,
    "token": "x",
    "uidb64": "x",
    "channel": "prod",
    "account": "acme",
    "code": "x",
    "month": "2026-10",
    "format": "csv",
    "seq": 1,
    "file_index": 0,
    "part": 0,
}
# Look at no session: they believe a password, or a certificate.
SESSIONLESS = {"/api/login", "/api/node/enrol"}
SOME_ID = "01890000-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def _no_tries_counted() -> None:
    cache.clear()


def patterns() -> Iterator[tuple[str, URLPattern]]:
    """Every address with its name."""
    for resolver in get_resolver().url_patterns:
        assert isinstance(resolver, URLResolver)
        if resolver.app_name == "admin":
            continue
        for pattern in resolver.url_patterns:
            assert isinstance(pattern, URLPattern)
            yield f"{resolver.app_name}:{pattern.name}", pattern


def paths() -> list[str]:
    """Every address, with values that fit its form; most name rows that are not there."""
    found = []
    for name, pattern in patterns():
        wanted = pattern.pattern.converters
        values = {
            key: ARGUMENTS.get(key, SOME_ID if "uuid" in type(one).__name__.lower() else None)
            for key, one in wanted.items()
        }
        for key, one in wanted.items():
            if values[key] is None:
                values[key] = 1 if re.match(one.regex, "1") else SOME_ID
        found.append(reverse(name, kwargs=values))
    found += ["/admin/", "/admin/login/", "/nowhere/at/all", "/api/nowhere"]
    found += [
        reverse(f"admin:{one._meta.label_lower.replace('.', '_')}_changelist")
        for one in admin.site._registry
    ]
    return sorted(set(found))


def test_the_walk_sees_every_address(db):
    names = {name for name, _ in patterns()}

    assert {line.name for line in LINES} | set(NAMELESS) <= names
    assert len(paths()) > 150


# --- headers ---


def find_header_faults(response) -> list[str]:
    """What is wrong with the headers of any answer of the site."""
    policy = response.headers.get("Content-Security-Policy", "")
    is_own = "default-src 'self'" in policy and "object-src 'none'" in policy
    wanted = {
        # The page that seals models allows still less.
        "csp": is_own or "default-src 'none'" in policy,
        "inline": "unsafe" not in policy and "*" not in policy,
        "framed by csp": "frame-ancestors 'none'" in policy,
        "base": "base-uri 'none'" in policy,
        "framed": response.headers.get("X-Frame-Options") == "DENY",
        "sniffed": response.headers.get("X-Content-Type-Options") == "nosniff",
        "referrer": response.headers.get("Referrer-Policy") == "same-origin",
        "opener": response.headers.get("Cross-Origin-Opener-Policy") == "same-origin",
        "permissions": "camera=()" in response.headers.get("Permissions-Policy", ""),
        "request id": bool(response.headers.get("X-Request-Id")),
        "read by others": "Access-Control-Allow-Origin" not in response.headers,
    }
    return [name for name, is_right in wanted.items() if not is_right]


@pytest.mark.parametrize("who", ["client", "owner_client", "admin_client"])
def test_every_answer_has_the_headers(request, account, who):
    client = request.getfixturevalue(who)
    client.raise_request_exception = False
    faults = {}
    for path in paths():
        for method in ("get", "post"):
            response = getattr(client, method)(path)
            if found := find_header_faults(response):
                faults[f"{method} {path}"] = found

    assert faults == {}


@pytest.mark.parametrize(
    ("middleware", "fault"),
    [
        ("csp.middleware.CSPMiddleware", "csp"),
        ("django.middleware.clickjacking.XFrameOptionsMiddleware", "framed"),
        ("django.middleware.security.SecurityMiddleware", "sniffed"),
        ("marketplace.guard.HeadersMiddleware", "permissions"),
        ("marketplace.middleware.RequestIdMiddleware", "request id"),
    ],
)
def test_without_its_middleware_a_header_is_missed(db, settings, middleware, fault):
    settings.MIDDLEWARE = [one for one in settings.MIDDLEWARE if one != middleware]
    client = Client(raise_request_exception=False)

    assert fault in find_header_faults(client.get("/login"))


# --- methods ---


def test_no_address_answers_to_odd_methods(owner_client, account):
    owner_client.raise_request_exception = False
    answered = {}
    for path in paths():
        for method in ("TRACE", "CONNECT", "PROPFIND", "X" * 20):
            status = owner_client.generic(method, path).status_code
            if status not in (302, 401, 403, 404, 405):
                answered[f"{method} {path}"] = status

    assert answered == {}


# --- forgery ---


def forms() -> list[tuple[str, str]]:
    """Every address with a form that a person's session sends, and a path to it."""
    found = [
        (line.name, line.url) for line in LINES if line.method == "POST" and line.by == "person"
    ]
    found += [(url, url) for url, method, _ in OWNED if method == "POST"]
    return [(name, re.sub(r"\{\w+\}", SOME_ID, url)) for name, url in found]


def open_paths() -> list[str]:
    """Every other address of the marketplace that takes a POST."""
    return [path for path in paths() if not path.startswith(("/api/", "/admin/"))]


def test_no_form_is_taken_without_its_token(owner, account):
    """All addresses that a browser with a session may POST to, whatever they say without."""
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(owner)
    taken = {}
    for path in [*open_paths(), *(url for _, url in forms())]:
        response = client.post(path, {"name": "x"})
        is_refused = response.status_code in (403, 404, 405)
        if not is_refused and path != reverse("billing:stripe-webhook"):
            taken[path] = response.status_code

    assert taken == {}


def test_the_console_takes_no_form_without_its_token(platform_admin, account):
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(platform_admin)
    paths_of_console = [path for path in paths() if path.startswith("/admin/")]

    statuses = {client.post(path, {"action": "x"}).status_code for path in paths_of_console}

    # 302 is the address that signs people in elsewhere.
    assert statuses <= {302, 403}
    assert client.post("/admin/marketplace/account/", {"action": "x"}).status_code == 403


def test_the_api_takes_nothing_of_a_session_without_its_token(owner, account):
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(owner)
    taken = {}
    for path in [one for one in paths() if one.startswith("/api/")]:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            status = client.generic(
                method, path, b"{}", content_type="application/json"
            ).status_code
            if status not in (401, 403, 404, 405) and path not in SESSIONLESS:
                taken[f"{method} {path}"] = status

    assert taken == {}


def test_with_its_token_each_form_gets_further(owner, account):
    """The control: the same calls, from where the session's own pages send them."""
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(owner)
    client.get("/profile")
    token = client.cookies["csrftoken"].value
    statuses = [
        client.post(url, {"name": "x"}, headers={"X-CSRFToken": token}).status_code
        for _, url in forms()
    ]

    assert len(statuses) > 30
    # Some name rows that are not there, and some rights that one lacks.
    assert sum(status != 403 for status in statuses) > len(statuses) * 0.9


def test_a_token_of_another_site_is_refused(owner, account):
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner)
    client.get("/profile")
    token = client.cookies["csrftoken"].value
    for origin in ("https://evil.example", "null", "http://testserver.evil.example"):
        headers = {"X-CSRFToken": token, "Origin": origin}
        body = {"form": "person", "name": "Mallory"}
        assert client.post("/profile", body, headers=headers).status_code == 403
    owner.refresh_from_db()
    assert owner.name == "Olive Owner"


# --- where one is sent ---

ELSEWHERE = [
    "https://evil.example/",
    "//evil.example/",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "http:evil.example",
    "https:///evil.example",
    "javascript:alert(1)",
    "http://testserver@evil.example/",
    "\thttps://evil.example",
    "/\t/evil.example",
]


def follow(path: str, client: Client, target: str) -> str:
    body = {"next": target, "account": "acme", "confirm_password": PASSWORD}
    body |= {"email": "owner@example.com", "password": PASSWORD}
    return client.post(path, body).url


@pytest.mark.parametrize("target", ELSEWHERE)
def test_nobody_is_sent_elsewhere(owner_client, owner, account, client, target):
    assert follow("/account/switch", owner_client, target) == "/home"
    assert follow("/profile/confirm", owner_client, target) == "/home"
    assert follow("/login", client, target) == "/home"
    # Who is in already is sent on by a GET.
    assert client.get("/login", {"next": target}).url == "/home"
    assert client.get("/sign-up", {"next": target}).url == "/home"


def test_without_the_check_one_would_be(owner_client, account, monkeypatch):
    from marketplace.views import redirects

    monkeypatch.setattr(redirects, "url_has_allowed_host_and_scheme", lambda *_, **__: True)

    assert follow("/account/switch", owner_client, ELSEWHERE[0]) == ELSEWHERE[0]


# --- hosts, sizes ---


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "a b", "127.0.0.1@x"])
def test_a_strangers_host_is_refused(client, db, host):
    for path in ("/login", "/password-reset", "/api/me"):
        response = client.get(path, headers={"Host": host})
        assert response.status_code == 400
        assert host not in response.content.decode()


def test_a_mail_names_our_host_whatever_the_request_says(client, owner, settings):
    settings.ALLOWED_HOSTS = ["testserver", "strongroom.example"]
    from django.core import mail

    client.post(
        "/password-reset", {"email": owner.email}, headers={"X-Forwarded-Host": "evil.example"}
    )

    assert "evil" not in mail.outbox[0].body


def test_a_form_has_a_size_and_a_number_of_fields(owner_client, owner):
    most = product.DATA_UPLOAD_MAX_MEMORY_SIZE
    form = {"form": "person"}
    large = f"form=person&name={'a' * most}"
    kind = "application/x-www-form-urlencoded"
    assert owner_client.post("/profile", large, content_type=kind).status_code == 413
    many = {f"f{number}": "" for number in range(1_001)}
    assert owner_client.post("/profile", form | many).status_code == 400
    # The control: as many as allowed are a form like another.
    few = dict(list(many.items())[:-3])
    assert owner_client.post("/profile", form | {"name": "Ada"} | few).status_code == 302
    owner.refresh_from_db()
    assert owner.name == "Ada"


# --- cookies ---


def test_cookies_are_out_of_reach_of_scripts_and_sites(client, owner):
    client.get("/login")
    client.post("/login", {"email": owner.email, "password": PASSWORD})

    assert set(client.cookies) == {"sessionid", "csrftoken", "device"}
    for cookie in client.cookies.values():
        assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax"), cookie.key
        assert (cookie["domain"], cookie["path"]) == ("", "/"), cookie.key


SHOW = """
import json
from marketplace import settings as s
names = ("SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "DEVICE_COOKIE_NAME", "SESSION_COOKIE_SECURE",
    "CSRF_COOKIE_SECURE", "STAFF_SECOND_FACTOR", "REQUIRE_VERIFIED_EMAIL", "SECURE_HSTS_SECONDS")
print(json.dumps({name: getattr(s, name) for name in names}))
"""


def read_settings(**env: str) -> dict[str, object]:
    """The settings of another place."""
    needed = {
        "STRONGROOM_SECRET_KEY": "s" * 50,
        "STRONGROOM_GATEWAY_URL": "https://gateway.example",
        "STRONGROOM_DATABASE_URL": "postgresql://x@localhost/x",
        "STRONGROOM_REDIS_URL": "redis://localhost:1/0",
        "PATH": os.environ["PATH"],
    }
    answer = subprocess.run(
        [sys.executable, "-c", SHOW], env=needed | env, cwd=ROOT, capture_output=True, check=True
    )
    return json.loads(answer.stdout)


def test_in_production_cookies_are_bound_to_host_and_https():
    found = read_settings(STRONGROOM_WEB_URL="https://strongroom.example")

    assert found == {
        "SESSION_COOKIE_NAME": "__Host-sessionid",
        "CSRF_COOKIE_NAME": "__Host-csrftoken",
        "DEVICE_COOKIE_NAME": "__Host-device",
        "SESSION_COOKIE_SECURE": True,
        "CSRF_COOKIE_SECURE": True,
        "STAFF_SECOND_FACTOR": True,
        "REQUIRE_VERIFIED_EMAIL": True,
        "SECURE_HSTS_SECONDS": 31_536_000,
    }


def test_in_development_they_work_without():
    """The control: a browser drops a `__Host-` cookie that comes over plain HTTP."""
    found = read_settings(STRONGROOM_WEB_URL="http://127.0.0.1:8000", STRONGROOM_ENV="development")

    assert (found["SESSION_COOKIE_NAME"], found["SESSION_COOKIE_SECURE"]) == ("sessionid", False)
    assert found["STAFF_SECOND_FACTOR"] is found["REQUIRE_VERIFIED_EMAIL"] is False


# --- who has an account ---


def test_guesses_at_one_person_from_everywhere_are_counted(owner, monkeypatch):
    from marketplace.core import limits

    monkeypatch.setattr(limits, "LOGIN_FAILURES_PER_PERSON_MAX", 8)
    body = {"email": owner.email, "password": "wrong"}
    answers = [
        Client(REMOTE_ADDR=f"203.0.113.{number}").post("/login", body) for number in range(9)
    ]

    assert [answer.status_code for answer in answers] == [422] * 8 + [429]
    assert answers[-1]["Retry-After"] == "900"
    # Of others nothing is known, so nobody learns who is there.
    unknown = {"email": "nobody@example.com", "password": "wrong"}
    for number in range(8):
        Client(REMOTE_ADDR=f"203.0.113.{number}").post("/login", unknown)
    assert Client(REMOTE_ADDR="203.0.113.9").post("/login", unknown).status_code == 429


def test_unknown_people_cost_as_much_time(owner, monkeypatch):
    """The password is hashed for them, too."""
    from django.contrib.auth import hashers

    hashed = []
    encode = hashers.MD5PasswordHasher.encode
    monkeypatch.setattr(
        hashers.MD5PasswordHasher,
        "encode",
        lambda self, password, salt: hashed.append(1) or encode(self, password, salt),
    )
    counts = []
    for email in (owner.email, "nobody@example.com"):
        hashed.clear()
        Client().post("/login", {"email": email, "password": "wrong"})
        counts.append(len(hashed))

    assert counts == [1, 1]
