from __future__ import annotations

from django.urls import path

from billing.views import webhook

app_name = "billing"
urlpatterns = [
    path("stripe/webhook", webhook.stripe_webhook, name="stripe-webhook"),
]
