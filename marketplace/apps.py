from django.apps import AppConfig


class MarketplaceConfig(AppConfig):
    name = "marketplace"
    verbose_name = "Marketplace"

    def ready(self) -> None:
        # Registers the system checks.
        import marketplace.checks
        import marketplace.tasks  # noqa: F401
