"""The try-it form: one field for each input of a version's interface."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from django import forms
from django.utils.html import escape

from strongroom.errors import Fault, InputError
from strongroom.interface import Input, Interface, escape_pointer

# A tensor larger than this is no longer something that one types; the example is left out.
EXAMPLE_VALUES_MAX = 4096
TENSOR_TEXT_MAX = 1024 * 1024
# A tensor that fits on a few lines.
SHORT_TEXT = 240


class PlaygroundForm(forms.Form):
    """Reads the inputs of one prediction.

    The interface decides about values, here as in the gateway; the form only turns texts of
    the browser into the values that the API takes.
    """

    def __init__(self, interface: Interface, data: Any = None) -> None:
        super().__init__(data)
        self.interface = interface
        # By number, since names of inputs may hold what names of fields may not.
        self.names = {f"input-{index}": one.name for index, one in enumerate(interface.inputs)}
        for field_name, one in zip(self.names, interface.inputs, strict=True):
            self.fields[field_name] = _make_field(one)
        self.values: dict[str, Any] = {}

    def clean(self) -> dict[str, Any]:
        """Check the values as the gateway will; leaves them in `values`."""
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        inputs = {one.name: one for one in self.interface.inputs}
        for field_name, name in self.names.items():
            value = cleaned.get(field_name)
            if value is None or (value == "" and not inputs[name].required):
                continue  # Left empty: the default counts.
            self.values[name] = value
        try:
            self.interface.check_input(self.values)
        except InputError as error:
            self.add_faults(error.errors)
        return cleaned

    def add_faults(self, faults: Sequence[Fault]) -> None:
        """Show faults at the inputs that their pointers name."""
        fields = {f"/input/{escape_pointer(name)}": one for one, name in self.names.items()}
        for fault in faults:
            pointer = str(fault.get("pointer", ""))
            # "/input/image/3/5" is a place inside of the input "image".
            name = next(
                (one for one in fields if pointer == one or pointer.startswith(f"{one}/")), None
            )
            place = pointer.removeprefix(name).strip("/") if name else ""
            detail = str(fault.get("detail", "Is not accepted."))
            text = f"At {place.replace('/', ', ')}: {detail}" if place else detail
            self.add_error(fields[name] if name else None, text)


class _JSONText(forms.CharField):
    """JSON in a text area; not Django's own field, which turns it back and forth."""

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise forms.ValidationError("This is not JSON.") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _make_field(one: Input) -> forms.Field:
    common: dict[str, Any] = {
        "label": one.name,
        "required": one.required and one.kind != "boolean",
        "help_text": _describe(one),
        "initial": _find_initial(one),
    }
    match one.kind:
        case "text":
            area = forms.Textarea(attrs={"rows": 4})
            return _Text(max_length=one.max_length, strip=False, widget=area, **common)
        case "choice":
            choices = [(choice, choice) for choice in one.choices]
            return forms.ChoiceField(choices=choices, **common)
        case "boolean":
            return forms.BooleanField(**common)
        case "number":
            return forms.FloatField(widget=forms.NumberInput(attrs={"step": "any"}), **common)
        case "integer":
            return forms.IntegerField(**common)
    rows = 8 if len(common["initial"]) > SHORT_TEXT else 3
    area = forms.Textarea(attrs={"rows": rows, "class": "code", "spellcheck": "false"})
    return _JSONText(max_length=TENSOR_TEXT_MAX, widget=area, **common)


class _Text(forms.CharField):
    """A text area's content with the line ends that people mean."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        return text.replace("\r\n", "\n") if text else text


def _describe(one: Input) -> str:
    # A creator's text: the component that shows it takes HTML.
    parts = [one.description] if one.description else []
    if one.kind == "tensor":
        shape = ", ".join("any" if length == -1 else str(length) for length in one.shape)
        parts.append(f"JSON list of shape [{shape}], {one.datatype}.")
    if one.minimum is not None:
        parts.append(f"At least {one.minimum:g}.")
    if one.maximum is not None:
        parts.append(f"At most {one.maximum:g}.")
    return escape(" ".join(parts))


def _find_initial(one: Input) -> Any:
    value = one.example if one.example is not None else one.default
    if one.kind != "tensor":
        return value
    if value is None:
        value = _zeros(one.shape)
    if value is None:
        return ""
    text = json.dumps(value)
    return text if len(text) <= TENSOR_TEXT_MAX else ""


def _zeros(shape: Sequence[int]) -> Any:
    """Nested lists of zeros; None where they would be too many."""
    lengths = [max(1, length) for length in shape]
    if math.prod(lengths) > EXAMPLE_VALUES_MAX:
        return None
    value: Any = 0
    for length in reversed(lengths):
        value = [value] * length
    return value
