"""Addresses of the marketplace's pages. `/{owner}/{name}` stands last: it takes the rest."""

from __future__ import annotations

from django.contrib.auth import views as auth_views
from django.urls import path

from marketplace.views import account, auth, catalog, console, creator, explore, key, meta

app_name = "marketplace"
urlpatterns = [
    path("", catalog.catalogue, name="catalogue"),
    path("compare", explore.compare, name="compare"),
    path("industries", explore.industries, name="industries"),
    path("industries/<slug:slug>", explore.industry, name="industry"),
    path("collections", explore.collections, name="collections"),
    path("collections/<slug:slug>", explore.collection, name="collection"),
    path("sitemap.xml", meta.sitemap, name="sitemap"),
    path("robots.txt", meta.robots, name="robots"),
    path("home", account.home, name="home"),
    path("sign-up", auth.sign_up, name="sign-up"),
    path("login", auth.log_in, name="login"),
    path("log-out", auth.log_out, name="log-out"),
    path("password-reset", auth.ResetView.as_view(), name="reset"),
    path(
        "password-reset/sent",
        auth_views.PasswordResetDoneView.as_view(template_name="marketplace/reset_sent.html"),
        name="reset-sent",
    ),
    path("password-reset/<uidb64>/<token>", auth.ResetConfirmView.as_view(), name="reset-confirm"),
    path("profile", account.profile, name="profile"),
    path("account/switch", account.switch, name="switch-account"),
    path("accounts/new", account.new, name="account-new"),
    path("accounts/<slug:slug>/settings", account.settings, name="account"),
    path("accounts/<slug:slug>/members", account.members, name="members"),
    path(
        "accounts/<slug:slug>/members/<int:member_id>/role",
        account.member_role,
        name="member-role",
    ),
    path(
        "accounts/<slug:slug>/members/<int:member_id>/remove",
        account.member_remove,
        name="member-remove",
    ),
    path("accounts/<slug:slug>/activity", account.activity, name="activity"),
    path("console", console.console, name="console"),
    path("console/keys", key.keys, name="keys"),
    path("console/keys/new", key.new, name="key-new"),
    path("console/keys/<uuid:key_id>", key.show, name="key"),
    path("console/keys/<uuid:key_id>/edit", key.edit, name="key-edit"),
    path("console/keys/<uuid:key_id>/revoke", key.revoke, name="key-revoke"),
    path("dashboard", creator.dashboard, name="dashboard"),
    path("dashboard/models", creator.models, name="models"),
    path("dashboard/models/new", creator.model_new, name="model-new"),
    path("dashboard/models/<slug:owner>/<str:name>", creator.versions, name="model-versions"),
    path("dashboard/models/<slug:owner>/<str:name>/edit", creator.model_edit, name="model-edit"),
    path("dashboard/models/<slug:owner>/<str:name>/publish", creator.publish, name="publish"),
    path(
        "dashboard/models/<slug:owner>/<str:name>/withdraw",
        creator.withdraw_choice,
        name="withdraw-choice",
    ),
    path(
        "dashboard/models/<slug:owner>/<str:name>/versions/<int:number>/withdraw",
        creator.withdraw,
        name="withdraw",
    ),
    path("<slug:owner>", catalog.owner, name="owner"),
    path("<slug:owner>/<str:name>", catalog.model, name="model"),
]
