from __future__ import annotations

from django.urls import path

from billing.views import budget, earnings, invoice, price, wallet, webhook

app_name = "billing"
urlpatterns = [
    path("console/wallet", wallet.wallet, name="wallet"),
    path("console/usage", wallet.usage, name="usage"),
    path("console/invoices", invoice.invoices, name="invoices"),
    *(
        path(f"console/postpaid/{verb}", invoice.postpaid, {"verb": verb}, f"postpaid-{verb}")
        for verb in ("accept", "decline", "close")
    ),
    path("console/tax-details", invoice.tax_details, name="tax-details"),
    path("console/invoices/<uuid:invoice_id>", invoice.invoice, name="invoice"),
    path(
        "console/invoices/<uuid:invoice_id>/usage.csv", invoice.invoice_usage, name="invoice-usage"
    ),
    path("console/topups/<uuid:topup_id>", wallet.topup_return, name="topup-return"),
    path("dashboard/earnings", earnings.earnings, name="earnings"),
    path("panels/wallet", wallet.wallet_panel, name="wallet-panel"),
    path("panels/usage", wallet.usage_panel, name="usage-panel"),
    path("panels/earnings", earnings.earnings_panel, name="earnings-panel"),
    path("panels/keys/<uuid:key_id>", budget.key_panel, name="key-panel"),
    path("panels/price/<slug:owner>/<str:name>", price.price_panel, name="price-panel"),
    path("stripe/webhook", webhook.stripe_webhook, name="stripe-webhook"),
]
