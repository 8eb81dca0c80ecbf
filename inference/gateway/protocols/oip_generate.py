"""`generate` and `generate_stream` of `/v2`: a text in and a text out, in plain JSON.

For models with one text that must be given and one text that they answer. What else an
interface has may be given by name, beside `text_input` or within `parameters`.

Source: Triton, generate extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inference.gateway.catalog import Offer
from inference.gateway.delivery import Delivery, drop_claim
from inference.gateway.events import EventStream, render_data, streamed
from inference.gateway.http import Answer, Request, json_answer
from inference.gateway.prediction import Prediction
from inference.gateway.predictor import Predictor
from inference.triton import tensors
from inference.triton.errors import OutputError
from marketplace.core.errors import InvalidInputError, MarketplaceError
from strongroom.errors import InputError
from strongroom.interface import Output

_TEXT_IN, _TEXT_OUT = "text_input", "text_output"
_FINISH_REASON = "finish_reason"
_ID_LENGTH_MAX = 256


class Generation:
    """One request, read and checked.

    Args:
        offer: Of the model.
        document: The body.

    Raises:
        InvalidInputError: The model does not fit, or the request does not fit the model.
    """

    def __init__(self, offer: Offer, document: Any) -> None:
        self.interface = offer.interface
        self.output = _find_output(offer)
        if not isinstance(document, dict):
            raise InvalidInputError("The body must be an object.")
        values = dict(document)
        self._head = {"model_name": offer.model, "model_version": str(offer.number)}
        request_id = values.pop("id", "")
        if not isinstance(request_id, str) or len(request_id) > _ID_LENGTH_MAX:
            raise InvalidInputError(f"id: Must be a text of at most {_ID_LENGTH_MAX} characters.")
        if request_id:
            self._head["id"] = request_id
        self.row = _read_row(offer, values)

    async def answer(
        self, request: Request, predictor: Predictor, prediction: Prediction
    ) -> Answer:
        """The whole text.

        Raises:
            MarketplaceError: What `Predictor.run` raises.
        """

        def decode(outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
            rows = tensors.decode(self.interface, outputs)
            if len(rows) != 1:
                raise OutputError(f"the model answered {len(rows)} rows to one")
            return self._render(rows[0])

        given = tensors.encode(self.interface, [self.row])
        document = await predictor.run(prediction, given, decode, request=request)
        return json_answer(document, cost_nanos=prediction.gross_nanos)

    async def stream(
        self, request: Request, predictor: Predictor, prediction: Prediction
    ) -> Answer:
        """The text in pieces, and then what else there is.

        Raises:
            InvalidInputError: The model cannot stream.
            StreamKeyedError: The request has an idempotency key.
            MarketplaceError: What `Predictor.run_stream` raises.
        """
        if not self.output.stream:
            raise InvalidInputError(f"{prediction.offer.model} gives its answer at once.")
        drop_claim(prediction)

        def render_piece(piece: str) -> str:
            return render_data({**self._head, _TEXT_OUT: piece})

        def render_error(error: MarketplaceError) -> str:
            return render_data({"error": error.detail})

        given = tensors.encode(self.interface, [self.row])
        async with EventStream(request, render_error) as events:
            delivery = Delivery(self.interface, events, render_piece)
            row = await predictor.run_stream(prediction, given, delivery)
            end = self._render({**row, self.output.name: ""})
            await events.finish(render_data({**end, "cost_nano_usd": prediction.gross_nanos}))
        return streamed(cost_nanos=prediction.gross_nanos)

    def _render(self, row: Mapping[str, Any]) -> dict[str, Any]:
        beside = {name: value for name, value in row.items() if name != self.output.name}
        return {**beside, **self._head, _TEXT_OUT: row[self.output.name]}


def _find_output(offer: Offer) -> Output:
    texts = [
        one
        for one in offer.interface.visible_outputs
        if one.kind == "text" and one.name != _FINISH_REASON
    ]
    if len(texts) != 1:
        raise InvalidInputError(f"{offer.model} does not answer with one text.")
    return texts[0]


def _read_row(offer: Offer, values: dict[str, Any]) -> dict[str, Any]:
    spoken = [one for one in offer.interface.inputs if one.kind == "text" and not one.format]
    texts = [one for one in spoken if one.required]
    if len(texts) != 1:
        raise InvalidInputError(f"{offer.model} is not asked with one text.")
    if _TEXT_IN not in values:
        raise InvalidInputError(f"{_TEXT_IN}: Is required.")
    parameters = values.pop("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidInputError("parameters: Must be an object.")
    text = values.pop(_TEXT_IN)
    row = {**parameters, **values, texts[0].name: text}
    try:
        return offer.interface.check_input(row, pointer="")
    except InputError as error:
        fault = error.errors[0]
        raise InvalidInputError(f"{fault['pointer'][1:]}: {fault['detail']}") from error
