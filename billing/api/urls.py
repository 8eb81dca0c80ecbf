from __future__ import annotations

from django.urls import path

from billing.api import budget, payout, price, receipt, royalty, usage, wallet

app_name = "billing-api"
urlpatterns = [
    path("models/<slug:owner>/<str:name>/price", price.PriceView.as_view(), name="price"),
    path("keys/<uuid:key_id>/spend", budget.KeySpendView.as_view(), name="key-spend"),
    path("predictions/<str:public_id>/receipt", receipt.ReceiptView.as_view(), name="receipt"),
    path("receipt-keys", receipt.ReceiptKeysView.as_view(), name="receipt-keys"),
    path("receipt-batches", receipt.ReceiptBatchesView.as_view(), name="receipt-batches"),
    path("earnings", payout.EarningsView.as_view(), name="earnings"),
    path("payouts", payout.PayoutsView.as_view(), name="payouts"),
    path("payouts/<uuid:payout_id>", payout.PayoutView.as_view(), name="payout"),
    path(
        "payouts/<uuid:payout_id>/document",
        payout.PayoutDocumentView.as_view(),
        name="payout-document",
    ),
    path("statements/<str:month>/<str:kind>", payout.StatementView.as_view(), name="statement"),
    path(
        "models/<slug:owner>/<str:name>/versions/<int:number>/royalties",
        royalty.RoyaltiesView.as_view(),
        name="royalties",
    ),
    path("royalties/<uuid:royalty_id>", royalty.RoyaltyView.as_view(), name="royalty"),
    path("wallet", wallet.WalletView.as_view(), name="wallet"),
    path("usage/sums", usage.UsageSumsView.as_view(), name="usage-sums"),
    path("usage/export/<str:kind>", usage.UsageExportView.as_view(), name="usage-export"),
    path("usage", usage.UsageView.as_view(), name="usage"),
    path("topups", wallet.TopupsView.as_view(), name="topups"),
    path("topups/<uuid:topup_id>", wallet.TopupView.as_view(), name="topup"),
]
