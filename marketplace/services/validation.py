"""Check a row before it is written, and say what is wrong as the API says it."""

from __future__ import annotations

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models

from marketplace.core.errors import FieldError, InvalidInputError


def check_row(row: models.Model) -> None:
    """Run the model's own checks, and those that Django leaves to forms.

    Raises:
        InvalidInputError: With a pointer to each field that is wrong.
    """
    faults: list[FieldError] = []
    try:
        row.full_clean()
    except ValidationError as error:
        faults = [
            {"pointer": "/" if name == NON_FIELD_ERRORS else f"/{name}", "detail": text}
            for name, texts in error.message_dict.items()
            for text in texts
        ]
    faults += _find_text_faults(row)
    if faults:
        raise InvalidInputError(errors=faults)


def _find_text_faults(row: models.Model) -> list[FieldError]:
    faults: list[FieldError] = []
    for field in row._meta.concrete_fields:
        value = getattr(row, field.attname)
        if not isinstance(value, str):
            continue
        if "\x00" in value:
            # Postgres cannot store it.
            faults.append({"pointer": f"/{field.name}", "detail": "Contains a null character."})
        if isinstance(field, models.TextField) and len(value) > (field.max_length or len(value)):
            detail = f"At most {field.max_length} characters are allowed."
            faults.append({"pointer": f"/{field.name}", "detail": detail})
    return faults
