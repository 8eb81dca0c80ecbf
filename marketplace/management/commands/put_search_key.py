"""Let the catalogue run the model that says what listings and searches mean.

The key of `STRONGROOM_SEARCH_KEY` becomes a test key of the account that owns the model: an
account's own models cost it nothing with such a key.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from marketplace.core import keys
from marketplace.models import Account, APIKey
from marketplace.services import audit

NAME = "catalogue search"


class Command(BaseCommand):
    help = "Make the key of STRONGROOM_SEARCH_KEY a test key of the search model's owner."

    def handle(self, *args: Any, **options: Any) -> None:
        text = settings.SEARCH_KEY
        if not (keys.is_well_formed(text) and text.startswith(keys.TEST)):
            raise CommandError("STRONGROOM_SEARCH_KEY is no test key")
        owner = settings.SEARCH_MODEL.partition("/")[0]
        account = Account.objects.filter(slug=owner).first()
        if account is None:
            raise CommandError(f"there is no account {owner}")
        with transaction.atomic():
            put_key(account, text)
        self.stdout.write(f"the catalogue asks {settings.SEARCH_MODEL}")


def put_key(account: Account, text: str) -> None:
    """Make it known; the same again changes nothing."""
    if APIKey.objects.filter(digest=keys.digest(text)).exists():
        return
    api_key = APIKey(
        account=account,
        name=NAME,
        mode=APIKey.Mode.TEST,
        scopes=[APIKey.Scope.PREDICT],
        digest=keys.digest(text),
        hint=keys.hint(text),
        allowed_models=[settings.SEARCH_MODEL],
    )
    api_key.save(force_insert=True)
    audit.record(
        "system:setup", "key.issue", api_key, account_id=account.pk, payload={"name": NAME}
    )
