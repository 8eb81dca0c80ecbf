"""Inputs that name a file: its content is fetched from the site, for the account that asks alone.

Nothing else is ever fetched: an address elsewhere is refused by the interface, and one that looks
like ours must be ours. So no input leads the gateway to another server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from inference.gateway.files import Files
from marketplace.core.errors import FieldError, InvalidInputError, NotFoundError
from strongroom.interface import FILE_ID, FILE_URL, Input, Interface, escape_pointer


async def fetch_named(
    files: Files, account_id: UUID, interface: Interface, given: Mapping[str, Any]
) -> Mapping[str, Any]:
    """A checked input with the octets of the files that it names; else as it is.

    Args:
        files: The way to the site.
        account_id: Whose files may be named.
        interface: Says which inputs stand for files.
        given: From `Interface.check_input`.

    Raises:
        InvalidInputError: An address is not of ours, or a file is none of the account's, gone,
            too large, or of another type.
        FilesUnavailableError: The site does not answer.
    """
    fetched = {}
    for one in interface.inputs:
        value = given[one.name] if one.format else None
        if isinstance(value, str) and not value.startswith("data:"):
            fetched[one.name] = await _fetch(files, account_id, one, value)
    return {**given, **fetched} if fetched else given


async def _fetch(files: Files, account_id: UUID, one: Input, value: str) -> bytes:
    is_id = FILE_ID.fullmatch(value) is not None
    if not is_id and not files.is_own_url(value):
        raise _refuse(one, "Addresses elsewhere are not fetched. Give the id of a file.")
    found = FILE_URL.fullmatch(value)
    file_id = value if found is None else found[1]
    try:
        return await files.fetch_input(account_id, file_id, one.format)
    except NotFoundError as error:
        raise _refuse(one, error.detail or "There is no such file.") from None
    except InvalidInputError as error:
        raise _refuse(one, error.detail or "It is no such file.") from None


def _refuse(one: Input, detail: str) -> InvalidInputError:
    place = f"/input/{escape_pointer(one.name)}"
    return InvalidInputError(detail, errors=[FieldError(pointer=place, detail=detail)])
