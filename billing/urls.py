from __future__ import annotations

from django.urls import path

from billing.views import budget, earnings, payout, price, royalty, usage, wallet, webhook

app_name = "billing"
urlpatterns = [
    path("console/wallet", wallet.wallet, name="wallet"),
    path("console/usage", usage.usage, name="usage"),
    path("console/topups/<uuid:topup_id>", wallet.topup_return, name="topup-return"),
    path("dashboard/earnings", earnings.earnings, name="earnings"),
    path("dashboard/payouts", payout.payouts, name="payouts"),
    path("dashboard/payouts/return", payout.onboarding_return, name="payouts-return"),
    path(
        "dashboard/models/<slug:owner>/<str:name>/versions/<int:number>/royalties",
        royalty.royalties,
        name="royalties",
    ),
    path("dashboard/royalties/<uuid:royalty_id>/end", royalty.royalty_end, name="royalty-end"),
    path("panels/wallet", wallet.wallet_panel, name="wallet-panel"),
    path("panels/usage", usage.usage_panel, name="usage-panel"),
    path("panels/earnings", earnings.earnings_panel, name="earnings-panel"),
    path("panels/keys/<uuid:key_id>", budget.key_panel, name="key-panel"),
    path("panels/price/<slug:owner>/<str:name>", price.price_panel, name="price-panel"),
    path("stripe/webhook", webhook.stripe_webhook, name="stripe-webhook"),
]
