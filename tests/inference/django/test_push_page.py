"""The page that seals in the browser: who may open it, and that it runs what is listed, no more."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape

import pytest
from django.conf import settings

from inference.views import push
from marketplace.models import Membership
from tests.browser import pins
from tests.factories import AIModelFactory, MembershipFactory, UserFactory

PAGE = "/dashboard/push?account=acme"


def policy_of(answer) -> dict[str, str]:
    directives = answer["Content-Security-Policy"].split("; ")
    return dict(directive.split(" ", 1) for directive in directives)


# --- The list ---------------------------------------------------------------------


def test_the_list_names_every_script_with_its_hash():
    assert pins.PINS.read_text() == pins.write_sums()
    listed = {one.path for one in push.list_scripts()}
    static = settings.BASE_DIR / "static"
    ours = {str(path.relative_to(static)) for path in (static / "js/push").glob("*.js")}
    assert ours <= listed
    assert {path for path in listed if "vendor" in path} == listed - ours
    for one in push.list_scripts():
        assert hashlib.sha256((static / one.path).read_bytes()).hexdigest() == one.sha256


def test_a_changed_script_does_not_fit_the_list(monkeypatch, tmp_path):
    for source in (pins.STATIC / "js" / "push").iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    changed = tmp_path / "worker.js"
    monkeypatch.setattr(pins, "WORKER", (changed,))
    monkeypatch.setattr(pins, "STATIC", tmp_path)
    monkeypatch.setattr(pins, "ENTRY", tmp_path / "floe.js")

    before = pins.write_sums()
    assert before.splitlines()[-2] in {
        line.replace("js/push/", "") for line in pins.PINS.read_text().splitlines()
    }
    changed.write_bytes(changed.read_bytes() + b"\n")

    assert pins.write_sums().splitlines()[-2] not in pins.PINS.read_text().replace("js/push/", "")


def test_dependencies_stand_before_what_needs_them():
    paths = [one.path for one in push.list_scripts()]

    imports = re.compile(r'^import .*? from "\./([a-z]+\.js)";', re.MULTILINE | re.DOTALL)
    for one in push.list_scripts():
        source = (settings.BASE_DIR / "static" / one.path).read_text()
        for target in imports.findall(source):
            assert paths.index(f"js/push/{target}") < paths.index(one.path), one.path


def test_no_script_makes_code_from_text():
    forbidden = re.compile(r"\beval\(|new Function|innerHTML|outerHTML|document\.write|import\(")
    for one in push.list_scripts():
        source = (settings.BASE_DIR / "static" / one.path).read_text()
        # Types in comments are imported as well.
        code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
        assert not forbidden.search(code), one.path


# --- The page ---------------------------------------------------------------------


def test_the_policy_allows_the_listed_scripts_alone(owner_client):
    answer = owner_client.get(PAGE)

    assert answer.status_code == 200
    policy = policy_of(answer)
    [import_map] = re.findall(r'<script type="importmap">(.*?)</script>', answer.content.decode())
    digest = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    addresses = [f"http://testserver{one.url}" for one in push.list_scripts()]
    for name in ("sha256.js", "worker.js"):
        addresses.remove(f"http://testserver/static/js/push/{name}")
    assert policy.pop("script-src").split() == [*addresses, f"'sha256-{digest}'"]
    assert policy == {
        "default-src": "'none'",
        "worker-src": "blob:",
        "connect-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "font-src": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "strongroom-worker",
    }
    assert answer["Integrity-Policy"] == "blocked-destinations=(script)"
    # Other pages keep theirs.
    other = policy_of(owner_client.get("/dashboard?account=acme"))
    assert other["script-src"] == "'self'"


def test_every_script_on_the_page_has_its_hash(owner_client):
    page = unescape(owner_client.get(PAGE).content.decode())
    hashes = {one.url: one.integrity for one in push.list_scripts()}

    tags = re.findall(r"<script(?! type=\"importmap\")([^>]*)>", page)
    named = [re.search(r'src="([^"]+)" integrity="([^"]+)"', tag) for tag in tags]
    assert {one[1]: one[2] for one in named if one} == {
        url: value
        for url, value in hashes.items()
        if not url.endswith(("/worker.js", "/sha256.js"))
    }
    assert len(named) == len(tags) == len(hashes) - 2
    worker = re.findall(r'data-worker-source="([^"]+)" data-integrity="([^"]+)"', page)
    assert worker == [
        (f"/static/js/push/{name}.js", hashes[f"/static/js/push/{name}.js"])
        for name in ("floe", "sha256", "worker")
    ]
    # A creator compares the sums on the page with the list.
    for one in push.list_scripts():
        assert one.sha256 in page


def test_who_may_not_push_does_not_see_it(account, client, outsider_client, teammate_client):
    assert client.get(PAGE).status_code == 302
    assert outsider_client.get(PAGE).status_code == 404
    assert teammate_client.get(PAGE).status_code == 200
    viewer = UserFactory(email="viewer@example.com")
    MembershipFactory(account=account, user=viewer, role=Membership.Role.VIEWER)
    client.force_login(viewer)
    assert client.get(PAGE).status_code == 403
    assert b"/dashboard/push" not in client.get("/dashboard?account=acme").content


def test_only_who_may_publish_is_offered_it(owner_client, teammate_client):
    assert b'<option value="prod">' in owner_client.get(PAGE).content
    assert b'<option value="prod">' not in teammate_client.get(PAGE).content


def test_a_model_of_ones_own_gets_a_new_version(owner_client, account):
    AIModelFactory(account=account, name="digits")

    assert b'data-model="digits"' in owner_client.get(f"{PAGE}&model=digits").content
    assert owner_client.get(f"{PAGE}&model=nothing").status_code == 404


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("/dashboard?account=acme", "/dashboard/push?account=acme"),
        ("/dashboard/models?account=acme", "/dashboard/push?account=acme"),
        ("/dashboard/models/acme/digits", "/dashboard/push?account=acme&model=digits"),
    ],
)
def test_the_dashboard_leads_to_it(owner_client, account, page, link):
    if "digits" in page:
        AIModelFactory(account=account, name="digits")

    assert f'href="{link}"' in unescape(owner_client.get(page).content.decode())
