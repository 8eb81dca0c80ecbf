"""Read files: lists, single ones, and the addresses under which they are fetched."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Count, QuerySet, Sum

from inference.core.file_link import LinkExpiredError, LinkWrongError, check_link, make_link
from inference.errors import FileLinkError, FileLinkExpiredError
from inference.models import File
from inference.models.file import read_file_id
from marketplace.core.clock import to_wire, utc_now
from marketplace.core.errors import ForbiddenError, NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import Actor, has_right, list_accounts
from marketplace.selectors.found import get_one

# Who may use models may use files with them; who may look at predictions may look at these.
READ_RIGHTS, WRITE_RIGHTS = ("predict", "read"), ("predict",)
PAGE_SIZE = 100
NOT_THERE = "There is no such file, or it has expired."
# Of an address that is given with a file, to fetch it at once.
LINK_LIFETIME = timedelta(hours=1)


def access_files_account(actor: Actor, slug: str, rights: tuple[str, ...]) -> Account:
    """The account whose files are meant; a key's own where nobody names one.

    Raises:
        NotFoundError: It is none of the actor's.
        ForbiddenError: The actor has none of the rights.
    """
    if not slug and actor.api_key is not None:
        slug = actor.api_key.account.slug
    if not slug:
        raise NotFoundError("Say whose files: ?account=")
    account = get_one(list_accounts(actor).filter(slug=slug), "No such account.")
    _require_one(actor, account, rights)
    return account


def access_file(actor: Actor, public_id: str, rights: tuple[str, ...]) -> File:
    """One file that is there now.

    Raises:
        NotFoundError: None of the actor's accounts has it, or it has expired.
        ForbiddenError: The actor has none of the rights.
    """
    file_id = read_file_id(public_id)
    if file_id is None:
        raise NotFoundError(NOT_THERE)
    found = list_there().filter(pk=file_id, account__in=list_accounts(actor))
    file = get_one(found.select_related("account"), NOT_THERE)
    _require_one(actor, file.account, rights)
    return file


def open_link(public_id: str, expires: str, signature: str) -> File:
    """The file of an address that carries its own right.

    Raises:
        FileLinkError: It was not made by us, or was changed.
        FileLinkExpiredError: Its time is over.
        NotFoundError: The file is gone.
    """
    file_id = read_file_id(public_id)
    if file_id is None:
        raise FileLinkError
    try:
        check_link(settings.PLAYGROUND_SECRET, file_id, expires, signature, now_s=time.time())
    except LinkWrongError:
        raise FileLinkError from None
    except LinkExpiredError:
        raise FileLinkExpiredError from None
    return get_one(list_there().filter(pk=file_id, account__suspended_at=None), NOT_THERE)


def list_there() -> QuerySet[File]:
    """All files that can be opened now."""
    return File.objects.filter(state=File.State.READY, expires_at__gt=utc_now())


def list_files(account: Account, *, before: str = "") -> tuple[list[File], str]:
    """A page of an account's files, newest first, and the `before` of the next one."""
    files = list_there().filter(account=account).order_by("-pk")
    if before:
        file_id = read_file_id(before)
        if file_id is None:
            raise NotFoundError("There is no such file to begin before.")
        files = files.filter(pk__lt=file_id)
    rows = list(files[: PAGE_SIZE + 1])
    return rows[:PAGE_SIZE], rows[PAGE_SIZE - 1].public_id if len(rows) > PAGE_SIZE else ""


def measure_files(account: Account) -> tuple[int, int]:
    """How many files an account has, and how many bytes together."""
    found = list_there().filter(account=account).aggregate(count=Count("id"), sum=Sum("size_bytes"))
    return found["count"], found["sum"] or 0


def link_to(file: File, lifetime: timedelta = LINK_LIFETIME) -> str:
    """An address that opens the file without a key, for a while and no longer than it lives."""
    until = min(utc_now() + lifetime, file.expires_at)
    return make_link(
        settings.WEB_URL, settings.PLAYGROUND_SECRET, UUID(str(file.pk)), int(until.timestamp())
    )


def describe_file(file: File) -> dict[str, Any]:
    """A file on the wire, in the shape that Replicate's clients know."""
    return {
        "id": file.public_id,
        "object": "file",
        "name": file.name,
        "purpose": file.purpose,
        "content_type": file.content_type,
        "size": file.size_bytes,
        "etag": file.sha256,
        "checksums": {"sha256": file.sha256},
        "metadata": {},
        "created_at": to_wire(file.created_at),
        "expires_at": to_wire(file.expires_at),
        "urls": {
            "get": f"{settings.GATEWAY_URL}/v1/files/{file.public_id}",
            "content": link_to(file),
        },
    }


def _require_one(actor: Actor, account: Account, rights: tuple[str, ...]) -> None:
    if not any(has_right(actor, account, right) for right in rights):
        raise ForbiddenError(f"This needs the right {' or '.join(rights)}.")
