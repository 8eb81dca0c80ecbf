"""What anybody may know of a version: speed, seals, and nothing of our machines."""

from __future__ import annotations

import pytest
from django.test import Client
from django.utils import timezone

from inference.models import Artifact, OnboardingStep, SigningKey, Upload, WrappedKey
from marketplace.models import AIModel, ModelVersion, Review
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory

HTMX = {"HX-Request": "true"}
SEALS = ("sealed", "signed", "scanned", "tested", "reviewed")
POINTS = [
    {"batch": 1, "p50_ms": 1.25, "p95_ms": 2.5, "rows_per_s": 800.0},
    {"batch": 2, "p50_ms": 2.0, "p95_ms": 3.5, "rows_per_s": 1000.0},
]
CERTIFICATE = {
    "measured_at": "2026-11-20T10:00:00Z",
    "node": "secret-node-7",
    "load": {"plain_size_bytes": 5_000_000, "sandbox": {"landlock_abi": 4}},
    "benchmark": {
        "points": POINTS,
        "load_ms": 1500.0,
        "memory_bytes": 50_000_000,
        "triton_version": "2.51",
        "cpu_count": 2,
    },
}


@pytest.fixture
def version(account, owner, platform_admin) -> ModelVersion:
    model = AIModelFactory(account=account, name="digits")
    version = ChannelFactory(
        version=ModelVersionFactory(
            model=model, number=2, certificate=CERTIFICATE, manifest_sha256="ab" * 32
        )
    ).version
    now = timezone.now()
    key = SigningKey.objects.create(
        account=account, public_key="AAAA", fingerprint="f1" * 8, trusted_at=now
    )
    upload = Upload.objects.create(
        account=account,
        version=version,
        signing_key=key,
        files=[],
        kem={},
        expires_at=now,
        state="complete",
    )
    Artifact.objects.create(
        version=version,
        upload=upload,
        manifest='{"secret": "vector"}',
        manifest_sha256="ab" * 32,
        signature="c2ln",
        signing_key=key,
        size_bytes=6,
    )
    WrappedKey.objects.create(
        version=version, recipient="platform", kid="k", suite="the-suite", blob="b"
    )
    details = {
        "verify": {},
        "validate": {"validation": {"second_opinion": {"scanner": "s"}}},
        "test": {"test": {"passed": 5}},
    }
    for position, (name, detail) in enumerate(details.items()):
        OnboardingStep.objects.create(
            version=version,
            position=position,
            name=name,
            state="succeeded",
            finished_at=now,
            detail=detail,
            log="node secret-node-7 did it",
        )
    Review.objects.create(
        version=version, reviewer=platform_admin, decision="approved", reason="well known to me"
    )
    return version


def test_the_panel_shows_speed_and_seals_that_lead_to_their_evidence(version, client):
    text = client.get("/panels/evidence/acme/digits", headers=HTMX).content.decode()

    assert "<polyline" in text
    assert "1.25" in text
    assert "Not loaded now" in text
    for seal in SEALS:
        assert f"/evidence/acme/digits/2#seal-{seal}" in text
    assert 'style="' not in text


def test_the_page_shows_what_each_seal_rests_on(version, client):
    text = client.get("/evidence/acme/digits/2").content.decode()

    for told in ("ab" * 32, "c2ln", "the-suite", "right answer to 5 test vectors", "AES-256-GCM"):
        assert told in text
    for seal in SEALS:
        assert f'id="seal-{seal}"' in text
    for kept in ("secret-node-7", "secret", "well known to me", "admin@"):
        assert kept not in text


def test_the_certificate_is_given_as_json_without_our_machines(version, client):
    answer = client.get("/evidence/acme/digits/2/certificate.json")

    assert answer.json() == {
        "model": "acme/digits",
        "version": 2,
        "manifest_sha256": "ab" * 32,
        "measured_at": "2026-11-20T10:00:00Z",
        "points": POINTS,
        "load_ms": 1500.0,
        "memory_bytes": 50_000_000,
        "triton_version": "2.51",
        "cpu_count": 2,
    }
    assert "attachment" in answer["Content-Disposition"]
    assert "digits-2-certificate.json" in answer["Content-Disposition"]


def test_a_seal_that_was_not_shown_is_not_claimed(version, client):
    OnboardingStep.objects.all().delete()
    WrappedKey.objects.all().delete()
    SigningKey.objects.update(revoked_at=timezone.now())

    text = client.get("/panels/evidence/acme/digits", headers=HTMX).content.decode()
    page = client.get("/evidence/acme/digits/2").content.decode()

    # What a person wrote down stays.
    assert [one for one in SEALS if f"#seal-{one}" in text] == ["reviewed"]
    assert page.count("not shown") == 4


def test_a_revoked_signing_key_breaks_the_seal(version, client):
    SigningKey.objects.update(revoked_at=timezone.now())

    text = client.get("/panels/evidence/acme/digits", headers=HTMX).content.decode()

    assert "#seal-signed" not in text
    assert "#seal-sealed" in text


@pytest.mark.parametrize(
    "certificate",
    [None, {}, {"benchmark": 3}, {"benchmark": {"points": [{"batch": "x"}]}}, {"measured_at": 7}],
)
def test_a_broken_certificate_is_none(version, client, certificate):
    ModelVersion.objects.update(certificate=certificate)

    assert client.get("/evidence/acme/digits/2").status_code == 200
    assert client.get("/evidence/acme/digits/2/certificate.json").status_code == 404
    panel = client.get("/panels/evidence/acme/digits", headers=HTMX)
    assert "no benchmark certificate" in panel.content.decode()


def test_a_private_models_evidence_is_for_its_people(
    version, owner_client, teammate_client, outsider_client
):
    AIModel.objects.update(visibility="private")

    for url in (
        "/panels/evidence/acme/digits",
        "/evidence/acme/digits/2",
        "/evidence/acme/digits/2/certificate.json",
    ):
        assert owner_client.get(url).status_code == 200
        assert teammate_client.get(url).status_code == 200
        assert outsider_client.get(url).status_code == 404
        assert Client().get(url).status_code == 404


@pytest.mark.parametrize("state", ["in_review", "refused", "withdrawn"])
def test_what_is_not_approved_is_the_creators_own_business(version, owner_client, state):
    ModelVersion.objects.update(state=state)

    assert owner_client.get("/evidence/acme/digits/2").status_code == 404
    assert owner_client.get("/evidence/acme/digits/2/certificate.json").status_code == 404
    assert "<polyline" not in owner_client.get("/panels/evidence/acme/digits").content.decode()
