"""The try-it form: one field for each input of a version's interface."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django import forms
from django.utils.html import escape

from marketplace.core.card import Example
from strongroom.errors import Fault, InputError
from strongroom.interface import (
    MAX_DATA_URL_LENGTH,
    PLAIN_FILES,
    Input,
    Interface,
    escape_pointer,
)

# A tensor larger than this is no longer something that one types; the example is left out.
EXAMPLE_VALUES_MAX = 4096
TENSOR_TEXT_MAX = 1024 * 1024
# A tensor that fits on a few lines.
SHORT_TEXT = 240
# So many settings that have defaults are put out of sight.
OPTIONAL_FOLDED_MIN = 3


@dataclass(frozen=True, slots=True)
class Preset:
    """An example of the creator's: input name to value."""

    title: str
    values: Mapping[str, Any]


def list_presets(interface: Interface, examples: Sequence[Example]) -> list[Preset]:
    """The examples of a card that fit the version; others were written for another one."""
    found = []
    for example in examples:
        try:
            inputs = interface.inputs_by_name
            values = {
                name: _read_example(inputs[name], value) for name, value in example.values.items()
            }
            interface.check_input(values)
        except (KeyError, ValueError, TypeError, InputError):
            continue
        found.append(Preset(example.title, values))
    return found


def list_initial_values(interface: Interface) -> dict[str, Any]:
    """What the form shows at first, as the API takes it; without what has a default."""
    values = {}
    for one in interface.inputs:
        if one.example is None and not one.required:
            continue
        values[one.name] = one.example if one.example is not None else _make_up(one)
    return values


def _make_up(one: Input) -> Any:
    match one.kind:
        case "text":
            return PLAIN_FILES.get(one.format) or "Some text"[: one.max_length]
        case "choice":
            return one.choices[0]
        case "boolean":
            return True
        case "number" | "integer":
            return one.minimum if one.minimum is not None else min(1, one.maximum or 1)
    zeros = _zeros(one.shape)
    return zeros if zeros is not None else []


def _read_example(one: Input, value: Any) -> Any:
    """A value of a card's front matter, where everything is text, as the API takes it."""
    match one.kind:
        case "text" | "choice":
            return value
        case "boolean":
            return {"true": True, "false": False}[value]
        case "number":
            return float(value)
        case "integer":
            return int(value)
    return _read_numbers(value)


def _read_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_read_numbers(one) for one in value]
    return json.loads(value, parse_constant=_refuse_constant)


def _with_example(one: Input, preset: Mapping[str, Any] | None) -> Input:
    if preset is None or one.name not in preset:
        return one
    return replace(one, example=preset[one.name])


class PlaygroundForm(forms.Form):
    """Reads the inputs of one prediction.

    The interface decides about values, here as in the gateway; the form only turns texts of
    the browser into the values that the API takes.
    """

    def __init__(
        self, interface: Interface, data: Any = None, *, preset: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(data)
        self.interface = interface
        # By number, since names of inputs may hold what names of fields may not.
        self.names = {f"input-{index}": one.name for index, one in enumerate(interface.inputs)}
        for field_name, one in zip(self.names, interface.inputs, strict=True):
            self.fields[field_name] = _make_field(_with_example(one, preset))
        self.values: dict[str, Any] = {}

    @property
    def required_fields(self) -> list[forms.BoundField]:
        """What the form shows first."""
        return [self[name] for name in self._list_names(optional=False)]

    @property
    def optional_fields(self) -> list[forms.BoundField]:
        """What may be left as it is; together, where it is much."""
        return [self[name] for name in self._list_names(optional=True)]

    @property
    def shows_optional(self) -> bool:
        """Whether one of them needs to be looked at."""
        return any(self[name].errors for name in self._list_names(optional=True))

    def _list_names(self, *, optional: bool) -> list[str]:
        inputs = self.interface.inputs_by_name
        names = [field for field, name in self.names.items() if not inputs[name].required]
        is_few = len(names) < OPTIONAL_FOLDED_MIN
        if optional:
            return [] if is_few else names
        return [field for field in self.names if is_few or field not in names]

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
            length = MAX_DATA_URL_LENGTH if one.format else one.max_length
            return _Text(max_length=length, strip=False, widget=area, **common)
        case "choice":
            choices = [(choice, choice) for choice in one.choices]
            return forms.ChoiceField(choices=choices, **common)
        case "boolean":
            return forms.BooleanField(**common)
        case "number":
            bounds = {"step": "any", **_bounds(one)}
            return forms.FloatField(widget=forms.NumberInput(attrs=bounds), **common)
        case "integer":
            return forms.IntegerField(widget=forms.NumberInput(attrs=_bounds(one)), **common)
    rows = 8 if len(common["initial"]) > SHORT_TEXT else 3
    attrs: dict[str, Any] = {"rows": rows, "class": "code", "spellcheck": "false"}
    area = forms.Textarea(attrs=attrs | _tensor_attributes(one))
    return _JSONText(max_length=TENSOR_TEXT_MAX, widget=area, **common)


def _bounds(one: Input) -> dict[str, str]:
    bounds = {"min": one.minimum, "max": one.maximum}
    return {name: f"{bound:.17g}" for name, bound in bounds.items() if bound is not None}


def _tensor_attributes(one: Input) -> dict[str, str]:
    """What the page's script needs to offer a grid, and to read images, sound and files."""
    bounds = {f"data-{name}": bound for name, bound in _bounds(one).items()}
    shape = ",".join(str(length) for length in one.shape)
    return {"data-tensor": shape, "data-datatype": one.datatype, **bounds}


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
