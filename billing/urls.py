from __future__ import annotations

from django.urls import path

from billing.views import budget, earnings, price, price_page, royalty, usage, wallet, webhook

app_name = "billing"
urlpatterns = [
    path("console/wallet", wallet.wallet, name="wallet"),
    path("console/usage", usage.usage, name="usage"),
    path("console/topups/<uuid:topup_id>", wallet.topup_return, name="topup-return"),
    path("dashboard/earnings", earnings.earnings, name="earnings"),
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
    path("dashboard/models/<slug:owner>/<str:name>/price", price_page.price, name="price"),
    path(
        "dashboard/models/<slug:owner>/<str:name>/price/withdraw",
        price_page.withdraw,
        name="price-withdraw",
    ),
    path("dashboard/models/<slug:owner>/<str:name>/offers", price_page.offer, name="offer"),
    path("dashboard/models/<slug:owner>/<str:name>/coupons", price_page.coupon, name="coupon"),
    path("console/coupons", price_page.redeem, name="redeem"),
    path("stripe/webhook", webhook.stripe_webhook, name="stripe-webhook"),
]
