"""Unsafe settings are refused, files of others are unchanged, pages stay light."""

from __future__ import annotations

import hashlib
import re
import runpy

import pytest
from django.conf import settings
from django.core.checks import Tags, run_checks
from django.core.management import call_command

from marketplace import checks
from marketplace.core.env import SettingError

SAFE = {
    "DEVELOPMENT": False,
    "SECRET_KEY": "s" * 50,
    "WEB_URL": "https://strongroom.example",
    "STRIPE_SECRET_KEY": "rk_live_x",
    "STRIPE_WEBHOOK_SECRET": "whsec_x",
    "KEYBROKER_TOKEN": "t" * 32,
    "KEYBROKER_URL": "https://keybroker:8443",
    "PLAYGROUND_SECRET": "p" * 32,
    "STAFF_SECOND_FACTOR": True,
    "REQUIRE_VERIFIED_EMAIL": True,
    "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
}


def faults(settings_fixture, **changes: object) -> list[str]:
    for name, value in (SAFE | changes).items():
        setattr(settings_fixture, name, value)
    return [error.id for error in checks.check_production(None)]


def test_safe_settings_pass(settings):
    assert faults(settings) == []


@pytest.mark.parametrize(
    ("fault", "changes"),
    [
        ("E001", {"DEVELOPMENT": True}),
        ("E002", {"SECRET_KEY": "s" * 31}),
        ("E003", {"WEB_URL": "http://strongroom.example"}),
        ("E004", {"STRIPE_SECRET_KEY": "unset"}),
        ("E005", {"STRIPE_WEBHOOK_SECRET": "unset"}),
        ("E006", {"KEYBROKER_TOKEN": "unset"}),
        ("E007", {"PLAYGROUND_SECRET": "unset"}),
        ("E008", {"KEYBROKER_URL": "http://keybroker:8443"}),
        ("E009", {"STAFF_SECOND_FACTOR": False}),
        ("E010", {"REQUIRE_VERIFIED_EMAIL": False}),
        ("E011", {"EMAIL_BACKEND": "django.core.mail.backends.console.EmailBackend"}),
    ],
)
def test_each_unsafe_setting_is_refused(settings, fault, changes):
    assert faults(settings, **changes) == [f"strongroom.{fault}"]


def test_the_deploy_check_refuses_development():
    found = {error.id for error in run_checks(tags=[Tags.security], include_deployment_checks=True)}

    assert "strongroom.E001" in found


def test_the_everyday_check_passes(db):
    call_command("check")


def test_migrations_are_complete(db):
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


VENDOR = settings.BASE_DIR / "static" / "vendor"


def listed_sums() -> dict[str, str]:
    text = (VENDOR / "README.md").read_text()
    return dict(re.findall(r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", text, re.MULTILINE))


def test_files_of_others_are_unchanged_and_all_listed():
    found = {
        str(path.relative_to(VENDOR)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path != VENDOR / "README.md"
    }

    assert found == listed_sums()
    assert len(found) >= 2


def test_the_style_sheet_stays_small():
    size_bytes = (settings.BASE_DIR / "static" / "css" / "app.css").stat().st_size

    assert size_bytes < 48 * 1024


def test_templates_have_no_inline_style_or_script():
    bad = []
    # A list of hashes is no script; its own hash stands in the page's policy.
    pattern = r'\sstyle=|<style|<script(?![^>]*\ssrc=)(?! type="importmap">)|\son[a-z]+='
    for path in (settings.BASE_DIR / "templates").rglob("*.html"):
        text = path.read_text()
        if re.search(pattern, text):
            bad.append(path.name)

    assert bad == []


def test_every_icon_that_is_used_is_drawn():
    drawn = re.findall(
        r'<symbol id="(\w+)"', (settings.BASE_DIR / "static/img/icons.svg").read_text()
    )
    used = {
        name
        for path in (settings.BASE_DIR / "templates").rglob("*.html")
        for name in re.findall(r'(?:{% icon |{% emptystate [^%]*icon=)"(\w+)"', path.read_text())
    }

    assert len(used) > 8
    assert used - set(drawn) == set()


def read_hosts(monkeypatch, inner: str) -> list[str]:
    """The names that the product's settings answer to."""
    from marketplace import settings as product_settings

    monkeypatch.setenv("STRONGROOM_ENV", "production")
    monkeypatch.setenv("STRONGROOM_WEB_URL", "https://strongroom.example")
    monkeypatch.setenv("STRONGROOM_WEB_INNER_HOSTS", inner)
    return list(runpy.run_path(product_settings.__file__)["ALLOWED_HOSTS"])


def test_the_site_answers_to_its_inner_names_as_well(monkeypatch):
    assert read_hosts(monkeypatch, "") == ["strongroom.example"]
    assert read_hosts(monkeypatch, "strongroom-web, web.market.svc") == [
        "strongroom.example",
        "strongroom-web",
        "web.market.svc",
    ]


@pytest.mark.parametrize("inner", ["*", ".example", "http://web", "web:8000"])
def test_an_inner_name_is_no_pattern_and_no_address(monkeypatch, inner):
    with pytest.raises(SettingError, match="STRONGROOM_WEB_INNER_HOSTS"):
        read_hosts(monkeypatch, inner)
