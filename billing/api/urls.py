from __future__ import annotations

from django.urls import path

from billing.api import budget, price, wallet

app_name = "billing-api"
urlpatterns = [
    path("models/<slug:owner>/<str:name>/price", price.PriceView.as_view(), name="price"),
    path("keys/<uuid:key_id>/spend", budget.KeySpendView.as_view(), name="key-spend"),
    path("wallet", wallet.WalletView.as_view(), name="wallet"),
    path("usage", wallet.UsageView.as_view(), name="usage"),
    path("topups", wallet.TopupsView.as_view(), name="topups"),
    path("topups/<uuid:topup_id>", wallet.TopupView.as_view(), name="topup"),
]
