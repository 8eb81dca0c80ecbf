from __future__ import annotations

from django.urls import path

from billing.api import budget, invoice, price, receipt, wallet

app_name = "billing-api"
urlpatterns = [
    path("models/<slug:owner>/<str:name>/price", price.PriceView.as_view(), name="price"),
    path("keys/<uuid:key_id>/spend", budget.KeySpendView.as_view(), name="key-spend"),
    path("predictions/<str:public_id>/receipt", receipt.ReceiptView.as_view(), name="receipt"),
    path("receipt-keys", receipt.ReceiptKeysView.as_view(), name="receipt-keys"),
    path("receipt-batches", receipt.ReceiptBatchesView.as_view(), name="receipt-batches"),
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
    path("usage/sums", wallet.UsageSumsView.as_view(), name="usage-sums"),
    path("usage/export/<str:kind>", wallet.UsageExportView.as_view(), name="usage-export"),
    path("usage", wallet.UsageView.as_view(), name="usage"),
    path("topups", wallet.TopupsView.as_view(), name="topups"),
    path("topups/<uuid:topup_id>", wallet.TopupView.as_view(), name="topup"),
]
