from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = "Billing"

    def ready(self) -> None:
        """Tell the status page how billing is."""
        from billing.services.status import probe_billing
        from marketplace.models import Part
        from marketplace.services.status import register_probe

        register_probe(Part.BILLING, probe_billing)
