"""Background work of the marketplace; each task calls one service and may run twice."""

from marketplace.tasks.embedding import embed_listings

__all__ = ["embed_listings"]
