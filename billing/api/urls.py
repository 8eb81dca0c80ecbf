from __future__ import annotations

from django.urls import path

from billing.api import budget, invoice, payout, prepaid, price, receipt, royalty, usage, wallet

app_name = "billing-api"
urlpatterns = [
    path("models/<slug:owner>/<str:name>/price", price.PriceView.as_view(), name="price"),
    path("models/<slug:owner>/<str:name>/prices", price.PricesView.as_view(), name="prices"),
    path(
        "models/<slug:owner>/<str:name>/prices/next",
        price.NextPriceView.as_view(),
        name="next-price",
    ),
    path("models/<slug:owner>/<str:name>/offers", price.OffersView.as_view(), name="offers"),
    path(
        "models/<slug:owner>/<str:name>/offers/<slug:account>",
        price.OfferView.as_view(),
        name="offer",
    ),
    path("models/<slug:owner>/<str:name>/coupons", price.CouponsView.as_view(), name="coupons"),
    path(
        "models/<slug:owner>/<str:name>/coupons/<slug:code>",
        price.CouponView.as_view(),
        name="coupon",
    ),
    path("coupons/redeem", price.RedeemView.as_view(), name="redeem"),
    path("keys/<uuid:key_id>/spend", budget.KeySpendView.as_view(), name="key-spend"),
    path("predictions/<str:public_id>/receipt", receipt.ReceiptView.as_view(), name="receipt"),
    path("receipt-keys", receipt.ReceiptKeysView.as_view(), name="receipt-keys"),
    path("receipt-batches", receipt.ReceiptBatchesView.as_view(), name="receipt-batches"),
    path(
        "models/<slug:owner>/<str:name>/versions/<int:number>/royalties",
        royalty.RoyaltiesView.as_view(),
        name="royalties",
    ),
    path("royalties/<uuid:royalty_id>", royalty.RoyaltyView.as_view(), name="royalty"),
    path("cards", prepaid.CardsView.as_view(), name="cards"),
    path("cards/<uuid:card_id>", prepaid.CardView.as_view(), name="card"),
    path("auto-topup", prepaid.AutoTopupView.as_view(), name="auto-topup"),
    path("balance-alert", prepaid.BalanceAlertView.as_view(), name="balance-alert"),
    path("refunds", prepaid.RefundsView.as_view(), name="refunds"),
    path("earnings", payout.EarningsView.as_view(), name="earnings"),
    path("payouts", payout.PayoutsView.as_view(), name="payouts"),
    path("payouts/<uuid:payout_id>", payout.PayoutView.as_view(), name="payout"),
    path(
        "payouts/<uuid:payout_id>/document",
        payout.PayoutDocumentView.as_view(),
        name="payout-document",
    ),
    path("statements/<str:month>/<str:kind>", payout.StatementView.as_view(), name="statement"),
    path("invoices", invoice.InvoicesView.as_view(), name="invoices"),
    path("invoices/<uuid:invoice_id>", invoice.InvoiceView.as_view(), name="invoice"),
    path(
        "invoices/<uuid:invoice_id>/usage", invoice.InvoiceUsageView.as_view(), name="invoice-usage"
    ),
    path(
        "invoices/<uuid:invoice_id>/document",
        invoice.InvoiceDocumentView.as_view(),
        name="invoice-document",
    ),
    path("postpaid", invoice.PostpaidView.as_view(), name="postpaid"),
    *(
        path(
            f"postpaid/{verb}",
            invoice.PostpaidVerbView.as_view(),
            {"verb": verb},
            f"postpaid-{verb}",
        )
        for verb in ("accept", "decline", "close")
    ),
    path("tax-details", invoice.TaxDetailsView.as_view(), name="tax-details"),
    path("wallet", wallet.WalletView.as_view(), name="wallet"),
    path("usage/sums", usage.UsageSumsView.as_view(), name="usage-sums"),
    path("usage/export/<str:kind>", usage.UsageExportView.as_view(), name="usage-export"),
    path("usage", usage.UsageView.as_view(), name="usage"),
    path("topups", wallet.TopupsView.as_view(), name="topups"),
    path("topups/<uuid:topup_id>", wallet.TopupView.as_view(), name="topup"),
]
