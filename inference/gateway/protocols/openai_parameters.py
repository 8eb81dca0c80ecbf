"""Reading a body below /openai/v1: what is not understood is refused by its name.

A parameter that was dropped in silence would change what its caller believes to have bought.
Only those that ask for nothing are let in: `null`, what a model does anyway, and labels that
the caller puts on a request for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference.gateway.catalog import Offer
from inference.gateway.errors import ParameterError, UnsupportedParameterError
from strongroom.errors import InputError
from strongroom.interface import Input, Interface, Output

# Labels of the caller's own; they ask nothing of the model.
_LABELS = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
# Values that ask for what happens anyway.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "stream": (False,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_p": (1, 1.0),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("none",),
}
_NAME_LENGTH_MAX = 64


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer says of itself."""

    public_id: str
    created_s: int
    model: str


Render = Callable[[Sequence[Mapping[str, Any]], Head], dict[str, Any]]


class Chunks(Protocol):
    """What makes chunks of a stream; each returns one or several that belong together."""

    def render_piece(self, piece: str, head: Head) -> list[dict[str, Any]]:
        """Of a further piece of the text."""

    def render_end(
        self, answer: Mapping[str, Any], head: Head, *, cost_nanos: int
    ) -> list[dict[str, Any]]:
        """Of the end, once the whole answer is known and booked."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows to run, checked; and what makes an answer of the model's rows."""

    rows: Sequence[Mapping[str, Any]]
    render: Render
    # Set where the answer is wanted piece by piece.
    chunks: Chunks | None = None


Planner = Callable[[Mapping[str, Any], Offer], Plan]


def drop_idle(document: Any, known: Collection[str]) -> dict[str, Any]:
    """The parameters that ask for something, all of them known.

    Raises:
        ParameterError: This is no object.
        UnsupportedParameterError: Naming the first that is not known here.
    """
    if not isinstance(document, dict):
        raise ParameterError("", "The body must be an object.")
    wanted: dict[str, Any] = {}
    for name, value in document.items():
        if value is None or name in _LABELS:
            continue
        if name in known:
            wanted[name] = value
        elif not is_neutral(name, value):
            raise unsupported(name)
    return wanted


def is_neutral(name: str, value: Any) -> bool:
    """Whether a value asks for what happens anyway. True is no 1 here, as in JSON."""
    return any(type(value) is type(one) and value == one for one in _NEUTRAL.get(name, ()))


def unsupported(name: str) -> UnsupportedParameterError:
    """The refusal of a parameter that is not known, or not with this value or model."""
    shown = name[:_NAME_LENGTH_MAX]
    return UnsupportedParameterError(shown, f"{shown!r} cannot be honoured here with this value.")


def require_task(offer: Offer, task: str) -> None:
    """Refuse a model that does something else.

    Raises:
        ParameterError: Naming the model.
    """
    if offer.task != task:
        detail = f"This address runs models of the task {task}; {offer.model} is another one."
        raise ParameterError("model", detail)


def find_only(found: Sequence[Input] | Sequence[Output], offer: Offer) -> str:
    """The name of the one input or output that can play a part.

    Raises:
        ParameterError: There are none or several, so that the choice would be a guess.
    """
    if len(found) != 1:
        detail = f"The interface of {offer.model} does not fit this address: call it under /v1."
        raise ParameterError("model", detail)
    return found[0].name


def check_row(
    interface: Interface, values: Mapping[str, Any], params: Mapping[str, str], place: str = ""
) -> dict[str, Any]:
    """A row as the native protocol checks it.

    Args:
        interface: Of the version.
        values: By input.
        params: The parameter that each input was given by.
        place: Where in that parameter, for people.

    Raises:
        ParameterError: Naming the parameter at fault.
    """
    try:
        return interface.check_input(dict(values), pointer="")
    except InputError as error:
        fault = error.errors[0]
        name = fault["pointer"][1:].replace("~1", "/").replace("~0", "~")
    # An input that is required and has no parameter here is the model's doing.
    param = params.get(name, "model")
    shown = f"{param}{place}" if name in params else f"{param}: input {name}"
    raise ParameterError(param, f"{shown}: {fault['detail']}")


def count_tokens(rows: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """The sum of a counter over the rows; None where the model does not count."""
    counts = [row.get(name) for row in rows]
    if not all(type(count) is int for count in counts):
        return None
    return sum(count for count in counts if count is not None)
