"""What a prediction is charged for, where its price meters something: bounded, then measured.

Before it starts, the most of each kind that it can come to is known, or it is refused. That
much is reserved, and never more is charged. Afterwards it is measured, by what we run and see
ourselves: tokens by our own runtime (the outputs of other runtimes are the creator's word),
time by this process' clock, pixels and rows by the shapes of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from inference.gateway.catalog import Offer
from inference.gateway.coalesce import Outputs
from inference.gateway.errors import PriceUnboundedError
from inference.gateway.prediction import Prediction
from inference.triton.errors import OutputError
from inference.triton.tensors import Tensor
from marketplace.core.money import AMOUNT_NANOS_MAX
from strongroom.interface import Output
from strongroom.rating import UNITS_MAX, rate

INPUT_TOKEN, OUTPUT_TOKEN, COMPUTE_MS, ROW, PIXEL = (
    "input_token",
    "output_token",
    "compute_ms",
    "row",
    "pixel",
)
# Ours: it runs weights, and no code of their creator's.
_COUNTING_RUNTIME = "transformers"
_COUNTERS: Mapping[str, str] = {INPUT_TOKEN: "tokens_in", OUTPUT_TOKEN: "tokens_out"}
_LENGTH = "max_new_tokens"
# Grey, RGB, and RGB with transparency.
_CHANNELS = (1, 3, 4)
_IMAGE_RANK = 3
_MS_PER_S = 1_000

Batches = Sequence[Sequence[Tensor]]


def bound(prediction: Prediction, batches: Batches) -> None:
    """Set the most that a prediction can cost, where its price needs to know more than rows.

    Raises:
        PriceUnboundedError: There is no such number.
    """
    if not prediction.is_rated:
        return
    most = find_most(prediction, batches)
    nanos = rate(prediction.price.terms, prediction.rows, most)
    if nanos > AMOUNT_NANOS_MAX:
        raise PriceUnboundedError("The prediction could cost more than any prediction may.")
    prediction.metered = most if prediction.price.terms.rates else None
    prediction.gross_nanos = nanos


def find_most(prediction: Prediction, batches: Batches) -> dict[str, int]:
    """The most units of each kind that the price has a rate for; raises as `bound`."""
    return {kind: find_most_of(kind, prediction, batches) for kind in prediction.price.terms.rates}


def find_most_of(kind: str, prediction: Prediction, batches: Batches) -> int:
    """The most units of one kind; raises as `bound`."""
    offer, rows = prediction.offer, prediction.rows
    bounds = [UNITS_MAX + 1]
    if kind in prediction.price.max_units:
        bounds.append(prediction.price.max_units[kind] * rows)
    if kind == ROW:
        bounds.append(rows)
    elif kind == COMPUTE_MS:
        # It ends at its deadline.
        bounds.append(math.ceil(prediction.allowed_s * _MS_PER_S))
    elif kind == PIXEL:
        known = _bound_pixels(offer, batches)
        if known is not None:
            bounds.append(known)
    else:
        _require_counter(kind, offer)
        asked = _read_length(batches) if kind == OUTPUT_TOKEN else None
        if asked is not None:
            bounds.append(asked)
    most = min(bounds)
    if most > UNITS_MAX:
        raise PriceUnboundedError(
            f"The price of {offer.model} is for each {kind}, and nothing says how many there can"
            " be. Its creator has to set the most that one row is charged for."
        )
    return most


def measure(prediction: Prediction, batches: Batches, outputs: Sequence[Outputs]) -> None:
    """Note what was used, never more than was reserved.

    Raises:
        OutputError: The model has not counted what it counts.
    """
    if prediction.metered is None:
        return
    for kind, most in prediction.metered.items():
        if kind == COMPUTE_MS:
            count = _count_ms(prediction)
        elif kind == PIXEL:
            count = _count_input_pixels(batches) + sum(
                _count_pixels(array.shape) for one in outputs for array in one.values()
            )
        elif kind == ROW:
            count = prediction.rows
        else:
            count = sum(_read_counter(one, _COUNTERS[kind]) for one in outputs)
        prediction.metered[kind] = min(count, most)


def measure_stream(
    prediction: Prediction, batches: Batches, told: Outputs, piece_count: int
) -> None:
    """Note what was used and delivered, however the stream ended.

    Our runtime tells with each piece how many tokens there are so far; a piece has one at least.

    Args:
        prediction: Whose.
        batches: Its inputs.
        told: What came besides the pieces, the newest of each.
        piece_count: How many pieces were delivered.
    """
    if prediction.metered is None:
        return
    for kind, most in prediction.metered.items():
        if kind == COMPUTE_MS:
            count = _count_ms(prediction)
        elif kind == PIXEL:
            count = _count_input_pixels(batches)
        elif kind == ROW:
            count = prediction.rows
        else:
            try:
                count = _read_counter(told, _COUNTERS[kind])
            except OutputError:
                count = piece_count if kind == OUTPUT_TOKEN else 0
        prediction.metered[kind] = min(count, most)


def guess(prediction: Prediction, batches: Batches, most: Mapping[str, int]) -> dict[str, int]:
    """What the units will probably be: for who asks what it would cost."""
    guessed = dict(most)
    calls = prediction.series.call_seconds
    if COMPUTE_MS in most and calls.count:
        expected = math.ceil(calls.total / calls.count * _MS_PER_S * len(batches))
        guessed[COMPUTE_MS] = min(most[COMPUTE_MS], expected)
    if INPUT_TOKEN in most:
        texts = (one for batch in batches for one in batch if one.datatype == "BYTES")
        octets = sum(len(text) for one in texts for text in one.data.ravel())
        # Four octets to a token is what English comes to.
        guessed[INPUT_TOKEN] = min(most[INPUT_TOKEN], -(-octets // 4))
    return guessed


def _require_counter(kind: str, offer: Offer) -> None:
    outputs = (one.name for one in offer.interface.wire_outputs)
    if offer.runtime != _COUNTING_RUNTIME or _COUNTERS[kind] not in outputs:
        raise PriceUnboundedError(
            f"The price of {offer.model} is for each {kind}, which this version does not count."
        )


def _read_length(batches: Batches) -> int | None:
    """How many tokens may be written to all rows; None where the model takes no such number."""
    found = [one for batch in batches for one in batch if one.name == _LENGTH]
    if not found:
        return None
    return int(sum(np.maximum(one.data, 0).sum(dtype=np.float64) for one in found))


def _read_counter(outputs: Outputs, name: str) -> int:
    array = outputs.get(name)
    if array is None or array.dtype.kind not in "iu" or (array < 0).any():
        raise OutputError(f"the model has not counted {name}")
    return int(array.sum())


def _count_ms(prediction: Prediction) -> int:
    return math.ceil(prediction.predict_time_s * _MS_PER_S)


def _bound_pixels(offer: Offer, batches: Batches) -> int | None:
    """Of inputs and outputs together; None where an image's size is the model's to choose."""
    rows = sum(batch[0].shape[0] for batch in batches)
    each = 0
    for output in offer.interface.wire_outputs:
        pixels = _find_pixels(output)
        if pixels is None:
            return None
        each += pixels
    return _count_input_pixels(batches) + rows * each


def _find_pixels(output: Output) -> int | None:
    if output.kind != "tensor" or len(output.shape) != _IMAGE_RANK:
        return 0
    return None if -1 in output.shape else _count_pixels((1, *output.shape))


def _count_input_pixels(batches: Batches) -> int:
    return sum(_count_pixels(one.shape) for batch in batches for one in batch)


def _count_pixels(shape: Sequence[int]) -> int:
    """Of a tensor whose rows are images: channels first or last, and two axes beside."""
    if len(shape) != _IMAGE_RANK + 1:
        return 0
    rows, first, second, third = shape
    if first in _CHANNELS:
        return rows * second * third
    return rows * first * second if third in _CHANNELS else 0
