"""The try-it form on a model's page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.views.decorators.http import require_http_methods, require_POST

from inference.core.file_link import FILES_PATH
from inference.core.snippets import Call, list_snippets
from inference.errors import GatewayUnavailableError
from inference.forms.playground import (
    PlaygroundForm,
    Preset,
    list_initial_values,
    list_presets,
)
from inference.forms.run import ShareForm
from inference.selectors.remedies import find_try_remedy
from inference.services import playground
from inference.services.playground import Attempt, Piece, Stream
from inference.services.run import make_offer
from inference.views.panel import ask_to_sign_in, render_panel
from marketplace.context import actor_of, current_account
from marketplace.core import ids
from marketplace.core.card import read_examples
from marketplace.core.errors import ForbiddenError, NotFoundError
from marketplace.models import Account, AIModel, ModelVersion, User
from marketplace.selectors.access import access_model, has_right
from strongroom.interface import AUDIO, Interface, Output

# What a person can read; the API gives the whole.
SHOWN_CHARACTERS = 4000
STREAM_TYPE = "text/event-stream"
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@require_http_methods(["GET", "HEAD", "POST"])
def try_panel(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The form for the default version of a model; POST runs one paid prediction."""
    answer = _answer_try(request, owner, name, streams=False)
    assert isinstance(answer, HttpResponse)
    return answer


@require_POST
def try_stream(request: HttpRequest, owner: str, name: str) -> HttpResponseBase:
    """Run one paid prediction and send its text while it is written, as events.

    What is no stream (faults of the input, a model that answers at once) is the panel.
    """
    return _answer_try(request, owner, name, streams=True)


@require_POST
def try_cancel(request: HttpRequest, public_id: str) -> HttpResponse:
    """End a prediction of the person's account that still runs."""
    if not request.user.is_authenticated:
        return ask_to_sign_in(request)
    account = current_account(request)
    try:
        ids.from_public(public_id)
    except ValueError:
        raise NotFoundError("No such prediction.") from None
    if account is None or not has_right(actor_of(request), account, "predict"):
        raise ForbiddenError("You may not run predictions for this account.", right="predict")
    assert isinstance(request.user, User)
    playground.cancel_prediction(account=account, user=request.user, public_id=public_id)
    return HttpResponse(status=204)


@require_POST
def try_code(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The programs for what stands in the form now; nothing runs."""
    model = access_model(actor_of(request), owner, name)
    version = _find_default_version(model)
    if version is None:
        raise NotFoundError("This model is not published.")
    interface = Interface.parse(version.interface)
    form = PlaygroundForm(interface, request.POST)
    is_valid = form.is_valid()
    context = {
        "model": model,
        "snippets": _list_snippets(model, interface, form.values if is_valid else None),
        "is_example": not is_valid,
        "opened": request.POST.get("snippet", ""),
    }
    return render_panel(request, "code", context, title=f"Call {model}")


def _answer_try(
    request: HttpRequest, owner: str, name: str, *, streams: bool
) -> HttpResponse | StreamingHttpResponse:
    actor = actor_of(request)
    model = access_model(actor, owner, name)
    version = _find_default_version(model)
    account = current_account(request)
    context: dict[str, Any] = {
        "model": model,
        "version": version,
        "account": account,
        "can_try": account is not None and has_right(actor, account, "predict"),
    }
    if request.method == "POST" and not request.user.is_authenticated:
        return ask_to_sign_in(request)
    if version is None:
        if request.method == "POST":
            raise NotFoundError("This model is not published.")
        return render_panel(request, "try", context, title=f"Try {model}")
    interface = Interface.parse(version.interface)
    presets = list_presets(interface, read_examples(model.card))
    preset = _choose_preset(request, presets)
    data = request.POST if request.method == "POST" else None
    form = PlaygroundForm(interface, data, preset=preset.values if preset else None)
    context |= _describe_form(model, interface, form, preset) | {"presets": presets}
    status = 200
    if request.method == "POST" and context["can_try"]:
        assert account is not None
        assert isinstance(request.user, User)
        run = _Run(model, version, account, request.user, form, interface)
        if streams and interface.streamed_output is not None and form.is_valid():
            return _stream(request, run)
        attempt = run.attempt()
        if attempt is not None:
            context |= run.describe(attempt)
        status = 422 if form.errors else 200
    return render_panel(request, "try", context, title=f"Try {model}", status=status)


def _choose_preset(request: HttpRequest, presets: list[Preset]) -> Preset | None:
    """The one that `?preset=` names, counted from 1."""
    text = request.GET.get("preset", "")
    is_place = text.isascii() and text.isdigit() and 0 < int(text[:4]) <= len(presets)
    return presets[int(text[:4]) - 1] if is_place else None


def _describe_form(
    model: AIModel, interface: Interface, form: PlaygroundForm, preset: Preset | None
) -> dict[str, Any]:
    values = dict(preset.values) if preset else None
    if form.is_bound:
        values = form.values if form.is_valid() else None
    return {
        "form": form,
        "preset": preset,
        "streams": interface.streamed_output is not None,
        "snippets": _list_snippets(model, interface, values),
    }


def _list_snippets(
    model: AIModel, interface: Interface, values: dict[str, Any] | None
) -> list[dict[str, Any]]:
    call = Call(
        gateway_url=settings.GATEWAY_URL,
        model=str(model),
        task=model.task,
        interface=interface,
        values=values if values is not None else list_initial_values(interface),
    )
    return [{"one": one, "id": f"code-{one.name}"} for one in list_snippets(call)]


def _find_default_version(model: AIModel) -> ModelVersion | None:
    """What `owner/name` runs: the version that `prod` names."""
    return ModelVersion.objects.filter(
        channels__model=model, channels__name="prod", state=ModelVersion.State.APPROVED
    ).first()


class _Run:
    """One press of the button: who runs what with which values."""

    def __init__(
        self,
        model: AIModel,
        version: ModelVersion,
        account: Account,
        user: User,
        form: PlaygroundForm,
        interface: Interface,
    ) -> None:
        self.model = model
        self.version = version
        self.account = account
        self.user = user
        self.form = form
        self.interface = interface

    @property
    def parts(self) -> dict[str, Any]:
        """What the services take."""
        return {
            "model": self.model,
            "account": self.account,
            "user": self.user,
            "values": self.form.values,
        }

    def attempt(self) -> Attempt | None:
        """Run it if the inputs are right; faults that the gateway finds stand at the inputs."""
        if not self.form.is_valid():
            return None
        try:
            attempt = playground.try_model(**self.parts)
        except GatewayUnavailableError as error:
            return Attempt(problem_code=error.code, problem_detail=error.detail)
        if attempt.faults:
            self.form.add_faults(attempt.faults)  # type: ignore[arg-type]
        return attempt

    def open_stream(self) -> Stream:
        """Run it and read along."""
        return playground.stream_model(**self.parts)

    def describe(self, attempt: Attempt) -> dict[str, Any]:
        """What the page shows of an attempt."""
        predict_s = attempt.predict_time_s
        output = self._join(attempt)
        return {
            "attempt": attempt,
            "outputs": list_outputs(self.interface, attempt, output),
            "predict_ms": predict_s * 1000 if predict_s is not None else None,
            "round_trip_ms": attempt.round_trip_s * 1000,
            "remedy": find_try_remedy(attempt.problem_code),
            "share_offer": self._offer(attempt, output),
            "share_form": ShareForm(),
            "account": self.account,
        }

    def _join(self, attempt: Attempt) -> Any:
        """The whole output: what came in pieces, and what came beside them."""
        streamed = self.interface.streamed_output
        if not attempt.streamed or streamed is None or not isinstance(attempt.output, dict):
            return attempt.output
        return {**attempt.output, streamed.name: attempt.streamed}

    def _offer(self, attempt: Attempt, output: Any) -> str:
        if not attempt.is_answered or not attempt.prediction_id:
            return ""
        return make_offer(
            account=self.account,
            user=self.user,
            version=self.version,
            prediction_id=attempt.prediction_id,
            values=self.form.values,
            output=output,
        )


def _stream(request: HttpRequest, run: _Run) -> StreamingHttpResponse:
    events = _Events(request, run, run.open_stream())
    response = StreamingHttpResponse(events, content_type=STREAM_TYPE)
    # For proxies, which else collect an answer before they pass it on.
    response["X-Accel-Buffering"] = "no"
    response["Cache-Control"] = "no-store"
    return response


class _Events:
    """The stream as events for our own script: `begin`, `piece`s, and `end` with the result."""

    def __init__(self, request: HttpRequest, run: _Run, stream: Stream) -> None:
        self._request = request
        self._run = run
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        for part in self._stream:
            match part:
                case Piece(text="", prediction_id=prediction_id):
                    yield _event("begin", prediction_id)
                case Piece(text=text):
                    yield _event("piece", text)
                case Attempt():
                    context = self._run.describe(part)
                    html = render_to_string(
                        "inference/panels/attempt.html", context, request=self._request
                    )
                    yield _event("end", html)

    def close(self) -> None:
        """Called when the answer is over, or nobody reads it."""
        self._stream.close()


def _event(kind: str, data: str) -> str:
    # JSON has no ends of lines, which would end the event.
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def list_outputs(
    interface: Interface, attempt: Attempt, output: Any = None
) -> list[dict[str, Any]]:
    """The visible outputs with their values, fit to be shown."""
    found = output if output is not None else attempt.output
    if not attempt.is_answered:
        return []
    return describe_outputs(interface, found)


def describe_outputs(interface: Interface, output: Any) -> list[dict[str, Any]]:
    """Each visible output that is there."""
    if not isinstance(output, dict):
        return []
    return [
        _describe_output(one, output[one.name])
        for one in interface.visible_outputs
        if one.name in output
    ]


def _describe_output(one: Output, value: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": one.name, "kind": one.kind, "description": one.description}
    if one.kind == "label" and isinstance(value, dict):
        top = value.get("top")
        scores = top if isinstance(top, list) else [value]
        return shown | {"scores": [entry for entry in scores if isinstance(entry, dict)]}
    if one.media_type and isinstance(value, str) and _is_media_url(one, value):
        is_sound = one.media_type == AUDIO
        return shown | {"media": "sound" if is_sound else "picture", "url": value}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown | {"text": text[:SHOWN_CHARACTERS], "is_cut": len(text) > SHOWN_CHARACTERS}


def _is_media_url(one: Output, value: str) -> bool:
    """Whether it is a file of this output's type within the address, or one that is kept here."""
    if value.startswith(f"{settings.WEB_URL}{FILES_PATH}"):
        return True
    head = f"data:{one.media_type};base64,"
    return value.startswith(head) and _BASE64.fullmatch(value, len(head)) is not None
