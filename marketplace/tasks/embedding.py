from __future__ import annotations

from celery import shared_task


@shared_task(name="marketplace.embed_listings")
def embed_listings() -> None:
    """Embed the listings that are new or have changed."""
    from marketplace.services import embedding

    embedding.embed_listings()
