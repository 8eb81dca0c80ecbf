from __future__ import annotations

from django.urls import path
from django.views.generic import TemplateView

from inference.views import (
    custody,
    onboarding,
    platform,
    playground,
    prediction,
    protection,
    push,
    signing_key,
)

app_name = "inference"
urlpatterns = [
    path("dashboard/push", push.push, name="push"),
    path(
        "panels/versions/<slug:owner>/<str:name>",
        onboarding.versions_panel,
        name="versions-panel",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/versions/<int:number>/custody",
        custody.custody,
        name="custody",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/versions/<int:number>/release-log",
        custody.export,
        name="release-log",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/versions/<int:number>/shred",
        custody.shred,
        name="shred",
    ),
    path("sealing", TemplateView.as_view(template_name="inference/sealing.html"), name="sealing"),
    path("panels/onboarding", onboarding.onboarding_panel, name="onboarding-panel"),
    path("panels/onboarding/<uuid:version_id>", onboarding.version_panel, name="version-panel"),
    path("panels/try/<slug:owner>/<str:name>", playground.try_panel, name="try-panel"),
    path(
        "dashboard/models/<slug:owner>/<str:name>/protection",
        protection.protection,
        name="protection",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/protection/account",
        protection.account_budget,
        name="account-budget",
    ),
    path("panels/predictions", prediction.predictions_panel, name="predictions-panel"),
    path("dashboard/signing-keys", signing_key.signing_keys, name="signing-keys"),
    path(
        "dashboard/signing-keys/<uuid:key_id>/confirm",
        signing_key.confirm,
        name="signing-key-confirm",
    ),
    path(
        "dashboard/signing-keys/<uuid:key_id>/revoke",
        signing_key.revoke,
        name="signing-key-revoke",
    ),
    path("platform/fleet", platform.fleet_map, name="fleet"),
    path("platform/panels/serving", platform.platform_panel, name="platform-panel"),
    path("platform/panels/reviews/<uuid:version_id>", platform.review_panel, name="review-panel"),
    path("predictions/<str:public_id>", prediction.prediction, name="prediction"),
]
