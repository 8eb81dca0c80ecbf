from __future__ import annotations

from django.urls import path

from billing.views import (
    adjustment,
    budget,
    card,
    earnings,
    estimate,
    fraud,
    frozen,
    invoice,
    overview,
    payout,
    price,
    price_page,
    reconcile,
    refund,
    reversal,
    royalty,
    usage,
    wallet,
    webhook,
)

app_name = "billing"
urlpatterns = [
    path("console/wallet", wallet.wallet, name="wallet"),
    path("console/usage", usage.usage, name="usage"),
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
    path("console/cards", card.cards, name="cards"),
    path("console/cards/new", card.card_new, name="card-new"),
    path("console/cards/<uuid:card_id>/remove", card.card_remove, name="card-remove"),
    path("console/cards/<uuid:card_id>/default", card.card_default, name="card-default"),
    path("console/auto-topup", card.auto_topup_set, name="auto-topup"),
    path("console/auto-topup/stop", card.auto_topup_stop, name="auto-topup-stop"),
    path("console/balance-alert", card.balance_alert_set, name="balance-alert"),
    path("console/refund", refund.refund, name="refund"),
    path("review/cases", fraud.review_cases, name="review-cases"),
    path("review/cases/<uuid:case_id>", fraud.review_case, name="review-case"),
    path("review/accounts/<slug:slug>/refund", refund.account_refund, name="account-refund"),
    path("dashboard/earnings", earnings.earnings, name="earnings"),
    path(
        "dashboard/models/<slug:owner>/<str:name>/versions/<int:number>/royalties",
        royalty.royalties,
        name="royalties",
    ),
    path("dashboard/royalties/<uuid:royalty_id>/end", royalty.royalty_end, name="royalty-end"),
    path("dashboard/give-back", reversal.give_back, name="give-back"),
    path("platform/panels/money", overview.platform_panel, name="platform-panel"),
    path("platform/reconciliation", reconcile.reconciliation, name="reconciliation"),
    path("platform/reconciliation/<uuid:difference_id>", reconcile.difference, name="difference"),
    path("platform/adjustments", adjustment.adjustments, name="adjustments"),
    path("platform/adjustments/credit", adjustment.new_credit, name="credit-new"),
    path("platform/adjustments/new", adjustment.new_adjustment, name="adjustment-new"),
    path("platform/adjustments/<uuid:adjustment_id>", adjustment.adjustment, name="adjustment"),
    path("platform/give-back", reversal.platform_give_back, name="platform-give-back"),
    path("platform/frozen", frozen.frozen, name="frozen"),
    path("panels/reversals/<str:public_id>", reversal.reversal_panel, name="reversal-panel"),
    path("dashboard/payouts", payout.payouts, name="payouts"),
    path("dashboard/payouts/return", payout.onboarding_return, name="payouts-return"),
    path("panels/wallet", wallet.wallet_panel, name="wallet-panel"),
    path("panels/usage", usage.usage_panel, name="usage-panel"),
    path("panels/earnings", earnings.earnings_panel, name="earnings-panel"),
    path("panels/keys/<uuid:key_id>", budget.key_panel, name="key-panel"),
    path("panels/price/<slug:owner>/<str:name>", price.price_panel, name="price-panel"),
    path("panels/estimate/<slug:owner>/<str:name>", estimate.estimate_panel, name="estimate-panel"),
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
