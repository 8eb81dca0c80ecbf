from __future__ import annotations

from django.urls import path

from inference.views import onboarding, playground, prediction

app_name = "inference"
urlpatterns = [
    path(
        "panels/versions/<slug:owner>/<str:name>",
        onboarding.versions_panel,
        name="versions-panel",
    ),
    path("panels/onboarding", onboarding.onboarding_panel, name="onboarding-panel"),
    path("panels/onboarding/<uuid:version_id>", onboarding.version_panel, name="version-panel"),
    path("panels/try/<slug:owner>/<str:name>", playground.try_panel, name="try-panel"),
    path("panels/predictions", prediction.predictions_panel, name="predictions-panel"),
    path("predictions/<str:public_id>", prediction.prediction, name="prediction"),
]
