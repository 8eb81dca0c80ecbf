from __future__ import annotations

from django.urls import path

from marketplace.api import key, model, session

app_name = "marketplace-api"
urlpatterns = [
    path("login", session.LoginView.as_view(), name="login"),
    path("me", session.MeView.as_view(), name="me"),
    path("models", model.ModelsView.as_view(), name="models"),
    path("models/<slug:owner>/<str:name>", model.ModelView.as_view(), name="model"),
    path(
        "models/<slug:owner>/<str:name>/channels/<slug:channel>",
        model.ChannelView.as_view(),
        name="channel",
    ),
    path(
        "models/<slug:owner>/<str:name>/versions/<int:number>/withdraw",
        model.WithdrawView.as_view(),
        name="withdraw",
    ),
    path("keys", key.KeysView.as_view(), name="keys"),
    path("keys/<uuid:key_id>", key.KeyView.as_view(), name="key"),
]
