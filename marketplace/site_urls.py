"""Addresses of the marketplace's pages. `/{owner}/{name}` stands last: it takes the rest."""

from __future__ import annotations

from django.contrib.auth import views as auth_views
from django.urls import path
from django.views.decorators.http import require_http_methods

from marketplace.views import (
    account,
    auth,
    catalog,
    confirm,
    console,
    creator,
    key,
    second_factor,
    security,
)

app_name = "marketplace"
urlpatterns = [
    path("", catalog.catalogue, name="catalogue"),
    path("home", account.home, name="home"),
    path("sign-up", auth.sign_up, name="sign-up"),
    path("login", auth.log_in, name="login"),
    path("login/second-factor", second_factor.second_step, name="second-factor"),
    path("login/passkey", second_factor.passkey_login, name="passkey-login"),
    path("login/passkey/options", second_factor.passkey_options, name="passkey-login-options"),
    path("log-out", auth.log_out, name="log-out"),
    path("password-reset", auth.ResetView.as_view(), name="reset"),
    path(
        "password-reset/sent",
        auth_views.PasswordResetDoneView.as_view(template_name="marketplace/reset_sent.html"),
        name="reset-sent",
    ),
    path(
        "password-reset/<uidb64>/<token>",
        # Django's view shows its page whatever the method.
        require_http_methods(["GET", "HEAD", "POST"])(auth.ResetConfirmView.as_view()),
        name="reset-confirm",
    ),
    path("profile", account.profile, name="profile"),
    path("profile/confirm", confirm.confirm, name="confirm"),
    path("profile/confirm/options", confirm.options, name="confirm-options"),
    path("profile/email", security.email_change, name="email-change"),
    path("profile/email/resend", security.email_resend, name="email-resend"),
    path("profile/email/<str:token>", security.email_confirm, name="email-confirm"),
    path("profile/security", security.security, name="security"),
    path(
        "profile/security/authenticator/new", security.authenticator_new, name="authenticator-new"
    ),
    path("profile/security/authenticator", security.authenticator, name="authenticator"),
    path(
        "profile/security/authenticator/remove",
        security.authenticator_remove,
        name="authenticator-remove",
    ),
    path("profile/security/recovery-codes", security.recovery_codes, name="recovery-codes"),
    path("profile/security/passkeys", security.passkey_add, name="passkey-add"),
    path("profile/security/passkeys/options", security.passkey_options, name="passkey-options"),
    path(
        "profile/security/passkeys/<uuid:passkey_id>/rename",
        security.passkey_rename,
        name="passkey-rename",
    ),
    path(
        "profile/security/passkeys/<uuid:passkey_id>/remove",
        security.passkey_remove,
        name="passkey-remove",
    ),
    path("profile/security/sessions/end", security.sessions_end, name="sessions-end"),
    path(
        "profile/security/sessions/<uuid:session_id>/end",
        security.session_end,
        name="session-end",
    ),
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
