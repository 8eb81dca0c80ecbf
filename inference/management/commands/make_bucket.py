"""Make the bucket of the object store, if it is missing; safe to run again."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.files.storage import storages
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Make the bucket that STRONGROOM_OBJECT_BUCKET names, private and without versions."

    def handle(self, *args: Any, **options: Any) -> None:
        name = settings.OBJECT_BUCKET
        if name == "none":
            raise CommandError("STRONGROOM_OBJECT_BUCKET is not set: ciphertext is kept on disk")
        # Only here: without a bucket nothing of the SDK is imported.
        from inference.services.bucket import BucketError, ensure_bucket

        try:
            storage: Any = storages["artifacts"]
            is_new = ensure_bucket(storage.connection.meta.client, name)
        except BucketError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"bucket {name}: {'made' if is_new else 'there already'}")
