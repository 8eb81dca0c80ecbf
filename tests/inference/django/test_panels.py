"""The panels about versions and onboarding: what they show, to whom, and when they look again."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from inference.models import OnboardingStep
from inference.node.errors import INFRASTRUCTURE_CODES
from inference.selectors import progress
from inference.selectors.onboarding import with_steps
from inference.selectors.remedies import FALLBACK, REMEDIES, find_remedy
from inference.services import onboarding, scan
from inference.views import onboarding as onboarding_views
from marketplace.models import ModelVersion
from tests.factories import ChannelFactory, ModelVersionFactory

FILES = {"model.onnx": b"weights" * 1000}
HTMX = {"HX-Request": "true"}
ROOT = Path(scan.__file__).resolve().parents[1]


@pytest.fixture
def version(creator, model) -> ModelVersion:
    return ModelVersion.objects.get(pk=creator.push("acme/digits", FILES)["id"])


def fragment(client, path: str):
    return client.get(path, headers=HTMX)


def set_step(version: ModelVersion, name: str, **fields) -> None:
    OnboardingStep.objects.filter(version=version, name=name).update(**fields)


def paths(version: ModelVersion) -> list[str]:
    return [
        "/panels/versions/acme/digits",
        "/panels/onboarding?account=acme",
        f"/panels/onboarding/{version.pk}",
    ]


@pytest.mark.parametrize("number", range(3))
def test_a_panel_is_a_fragment_for_htmx_and_a_page_for_all_else(version, owner_client, number):
    path = paths(version)[number]

    part, page = fragment(owner_client, path), owner_client.get(path)

    assert (part.status_code, page.status_code) == (200, 200)
    assert b"<html" not in part.content
    assert b"<html" in page.content
    assert "Verify" in part.content.decode() or "0 of 7" in part.content.decode()


@pytest.mark.parametrize("number", range(3))
def test_a_panel_belongs_to_its_account(version, teammate_client, outsider_client, number):
    path = paths(version)[number]
    ModelVersion.objects.get().model.__class__.objects.update(visibility="private")

    assert fragment(teammate_client, path).status_code == 200
    refused = fragment(outsider_client, path)
    assert refused.status_code == 404
    assert b"digits" not in refused.content
    signed_out = Client().get(path)
    assert signed_out.status_code == 302
    assert signed_out["Location"].startswith("/login")
    # A poll whose session has ended leads the whole page there, not the panel.
    ended = fragment(Client(), path)
    assert (ended.status_code, ended.content) == (200, b"")
    assert ended["HX-Redirect"].startswith("/login?next=")


def test_the_versions_of_a_public_model_are_not_the_publics_business(version, outsider_client):
    assert fragment(outsider_client, "/panels/versions/acme/digits").status_code == 403


def test_a_platform_admin_follows_any_onboarding(version, admin_client):
    assert fragment(admin_client, f"/panels/onboarding/{version.pk}").status_code == 200
    assert fragment(admin_client, "/panels/versions/acme/digits").status_code == 200


def test_what_does_not_exist_is_not_found(version, owner_client):
    for path in (
        "/panels/versions/acme/nothing",
        f"/panels/onboarding/{uuid4()}",
        "/panels/onboarding?account=nobody",
    ):
        assert fragment(owner_client, path).status_code == 404


# --- Live -------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(3))
def test_a_panel_looks_again_while_something_moves_and_then_stops(version, owner_client, number):
    path = paths(version)[number]
    assert 'hx-trigger="every 1s"' in fragment(owner_client, path).content.decode()

    OnboardingStep.objects.update(state="succeeded")
    ModelVersion.objects.update(state="approved")
    assert "hx-trigger" not in fragment(owner_client, path).content.decode()


@pytest.mark.parametrize(
    ("state", "step_state", "moves"),
    [
        ("onboarding", "pending", True),
        ("onboarding", "running", True),
        ("onboarding", "failed", False),
        ("in_review", "running", False),
        ("approved", "running", True),
        ("failed", "failed", False),
        ("withdrawn", "running", False),
    ],
)
def test_what_waits_for_a_person_or_is_over_does_not_move(
    version, owner_client, state, step_state, moves
):
    ModelVersion.objects.update(state=state)
    set_step(version, "verify", state=step_state)

    text = fragment(owner_client, f"/panels/onboarding/{version.pk}").content.decode()

    assert ("hx-trigger" in text) is moves


def test_a_poll_that_finds_nothing_new_changes_nothing(version, owner_client):
    text = fragment(owner_client, f"/panels/onboarding/{version.pk}").content.decode()
    poll_url = re.search(r'hx-get="([^"]+)"', text)[1]

    unchanged = fragment(owner_client, poll_url)
    set_step(version, "verify", state="running", started_at=timezone.now())
    changed = fragment(owner_client, poll_url)

    assert (unchanged.status_code, unchanged.content) == (204, b"")
    assert changed.status_code == 200
    assert re.search(r'hx-get="([^"]+)"', changed.content.decode())[1] != poll_url
    # A person who opens the same address gets a page, not an empty answer.
    assert owner_client.get(poll_url).status_code == 200


def test_a_step_shows_its_state_duration_log_and_attempt(version, owner_client):
    now = timezone.now()
    set_step(
        version,
        "verify",
        state="succeeded",
        started_at=now - timedelta(seconds=5),
        finished_at=now - timedelta(seconds=1.5),
        log="10:00:00 All is well.",
    )
    set_step(
        version, "validate", state="running", attempt=2, started_at=now, log="10:00:05 <b>busy</b>"
    )

    text = fragment(owner_client, f"/panels/onboarding/{version.pk}").content.decode()

    assert "3.5 s" in text
    assert "10:00:00 All is well." in text
    assert "attempt 2" in text
    assert "10:00:05 &lt;b&gt;busy&lt;/b&gt;" in text
    # What is over stays unfolded over a swap; what runs is shown as it is now.
    assert text.count("hx-preserve") == 1


def test_a_failure_shows_its_code_and_what_to_do(version, owner_client):
    set_step(
        version,
        "validate",
        state="failed",
        reason_code="onnx_custom_op",
        detail={"message": "The operator 'acme.Magic' is not accepted."},
    )

    text = fragment(owner_client, f"/panels/onboarding/{version.pk}").content.decode()

    assert "The operator &#x27;acme.Magic&#x27; is not accepted." in text
    assert "onnx_custom_op" in text
    assert REMEDIES["onnx_custom_op"] in text


def test_a_version_says_what_of_an_answer_leaves(version, owner_client):
    path = f"/panels/onboarding/{version.pk}"

    assert "is answered, unrounded" in fragment(owner_client, path).content.decode()
    ModelVersion.objects.update(output_policy={"y": {"decimals": 2}})
    text = fragment(owner_client, path).content.decode()
    assert "Answers show values, rounded to 2 decimals." in text


def test_a_certificate_is_shown_with_its_curve(version, owner_client):
    certificate = {
        "measured_at": "2026-11-21T03:42:00Z",
        "node": "node-1",
        "load": {"plain_size_bytes": 2**20, "threads": True, "swap": "x"},
        "benchmark": {
            "load_ms": 1500.0,
            "memory_bytes": "much",
            "points": [
                {"batch": 1, "p50_ms": 1.234, "p95_ms": 2, "rows_per_s": 900.4},
                {"batch": "odd"},
            ],
        },
    }
    ModelVersion.objects.update(certificate=certificate)

    text = fragment(owner_client, f"/panels/onboarding/{version.pk}").content.decode()

    assert 'datetime="2026-11-21T03:42:00+00:00"' in text
    assert "on node-1" in text
    assert '<dt>Cold start</dt><dd class="num">1.50 s</dd>' in text
    assert '<dt>Model size</dt><dd class="num">1.0 MiB</dd>' in text
    assert "Memory while serving" not in text
    assert "Threads" not in text
    assert "1.23" in text
    assert "900" in text
    assert "odd" not in text


@pytest.mark.parametrize(
    "certificate",
    [
        {},
        {"benchmark": []},
        {"benchmark": {"points": {}}},
        {"load": 1},
        {"measured_at": "yesterday"},
        {"measured_at": 5},
    ],
)
def test_a_certificate_of_another_form_breaks_no_page(version, owner_client, certificate):
    ModelVersion.objects.update(certificate=certificate)

    assert fragment(owner_client, f"/panels/onboarding/{version.pk}").status_code == 200


def test_versions_are_listed_with_channels_in_few_queries(
    creator, model, owner_client, django_assert_num_queries
):
    for _ in range(3):
        creator.push("acme/digits", FILES)
    ChannelFactory(version=ModelVersion.objects.get(number=2))

    # Session, person, model, right (twice the model), how many, versions, steps, channels.
    with django_assert_num_queries(9):
        page = fragment(owner_client, "/panels/versions/acme/digits")

    text = page.content.decode()
    assert [int(one) for one in re.findall(r"Version (\d)</a>", text)] == [3, 2, 1]
    assert text.count(">prod<") == 1


def test_many_versions_come_page_by_page(creator, model, owner_client, monkeypatch):
    monkeypatch.setattr(onboarding_views, "VERSIONS_SHOWN", 2)
    for _ in range(3):
        creator.push("acme/digits", FILES)
    panel = "/panels/versions/acme/digits"

    def numbers(query: str) -> list[int]:
        text = fragment(owner_client, f"{panel}{query}").content.decode()
        return [int(one) for one in re.findall(r"Version (\d)</a>", text)]

    assert numbers("") == [3, 2]
    assert numbers("?page=2") == [1]
    # The page around it hands the number on, and nothing else that stands there.
    for asked, handed in (("2", "2"), ("1&x", "1"), ("x", "1"), ("9" * 10, "1")):
        page = owner_client.get(f"/dashboard/models/acme/digits?page={asked}").content.decode()
        assert f'hx-get="{panel}?page={handed}"' in page
    # What looks again by itself stays on its page, and leads to others without that mark.
    text = fragment(owner_client, f"{panel}?page=1&seen=x").content.decode()
    assert f'hx-get="{panel}?page=1&amp;seen=' in text
    assert 'href="?page=2"' in text


def test_recent_versions_are_listed_in_few_queries(
    creator, model, owner_client, django_assert_num_queries
):
    for _ in range(6):
        creator.push("acme/digits", FILES)
    ModelVersionFactory(model=model, number=50, state="uploading")

    with django_assert_num_queries(8):
        page = fragment(owner_client, "/panels/onboarding?account=acme")

    found = re.findall(r">acme/digits:(\d+)</a>", page.content.decode())
    assert found == ["6", "5", "4", "3", "2"]


def test_an_empty_panel_says_what_to_do(model, owner_client):
    versions = fragment(owner_client, "/panels/versions/acme/digits").content.decode()
    recent = fragment(owner_client, "/panels/onboarding?account=acme").content.decode()

    assert "strongroom push ./model" in versions
    assert "Nothing on its way" in recent


@pytest.mark.parametrize(
    ("seconds", "is_over", "expected"),
    [
        (0.04, True, "0.0 s"),
        (9.96, True, "10.0 s"),
        (9.96, False, "9 s"),
        (119.9, True, "119 s"),
        (120, True, "2 min"),
        (7199, True, "119 min"),
        (7200, True, "2 h"),
    ],
)
def test_durations_are_for_people(version, seconds, is_over, expected):
    now = timezone.now()
    started = now - timedelta(seconds=seconds)
    set_step(version, "verify", started_at=started, finished_at=now if is_over else None)
    found = with_steps(ModelVersion.objects.all()).get()

    assert progress.describe_progress(found, now).lines[0].duration == expected


# --- Remedies ---------------------------------------------------------------------


def test_each_remedy_is_a_sentence():
    for code, text in REMEDIES.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]+", code)
        assert text.endswith("."), code
        assert len(text) < 220, code


def test_a_code_that_nobody_foresaw_has_an_answer():
    assert find_remedy("brand_new_code") == FALLBACK


# Errors of the loader, the validators, the node and the key broker, and their first argument.
ERRORS = frozenset(
    {"ArtifactError", "LoadError", "ReplicaError", "RequestError", "SandboxError", "SessionError"}
)
PARTS = ("artifact", "keybroker", "node", "serving")


def find_codes() -> set[str]:
    """Every reason code that the parts behind a node write down as such."""
    found = set()
    for path in (file for part in PARTS for file in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                found |= {one.value for one in node.args[:1] if isinstance(one, ast.Constant)}
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Result":
                found |= {one.value for one in node.args[2:] if isinstance(one, ast.Constant)}
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    if isinstance(line, ast.Assign) and line.targets[0].id == "code":
                        found.add(line.value.value)
    return found


def test_every_code_of_the_parts_behind_a_node_has_a_remedy():
    codes = find_codes()

    assert "onnx_custom_op" in codes
    assert "test_vector_mismatch" in codes
    assert codes - REMEDIES.keys() == set()


def test_what_a_node_takes_for_its_own_failure_is_tried_again():
    assert INFRASTRUCTURE_CODES <= scan.INFRASTRUCTURE_CODES


def test_our_own_codes_have_remedies():
    own = {
        *scan.INFRASTRUCTURE_CODES,
        "withdrawn",
        "stopped",
        "refused",
        "step_timeout",
        "upload_expired",
        "upload_aborted",
        "part_missing",
        "part_checksum_mismatch",
        "manifest_mismatch",
        "signature_invalid",
        "key_wrap_invalid",
        "header_tag_invalid",
        "reason_unknown",
    }

    assert own <= REMEDIES.keys()
    assert all(onboarding.TIME_LIMITS[name] for name in onboarding.STEPS[:5])
