"""The try-it form: fields of the interface, one paid call to the gateway, its answer."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from django.test import Client

from inference.forms.playground import PlaygroundForm
from inference.services import playground
from inference.triton.media import DATA_URL_BYTES_MAX
from marketplace.models import AIModel, Membership, ModelVersion
from strongroom.interface import Interface
from tests.factories import (
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    MembershipFactory,
    ModelVersionFactory,
    UserFactory,
)
from tests.inference.django import gateway as gateway_server
from tests.inference.django.gateway import PREDICTION_ID, Gateway

PATH = "/panels/try/acme/digits"
HTMX = {"HX-Request": "true"}
IMAGE = {"name": "image", "kind": "tensor", "datatype": "FP32", "shape": [2, 2]}
INTERFACE = {
    "inputs": [
        {"name": "prompt", "kind": "text", "example": "Hello", "max_length": 20},
        {**IMAGE, "example": [[1, 2], [3, 4]]},
        {"name": "style", "kind": "choice", "choices": ["plain", "bold"]},
        {"name": "strength", "kind": "number", "default": 0.5, "minimum": 0, "maximum": 1},
        {"name": "count", "kind": "integer", "default": 1},
        {"name": "upper", "kind": "boolean", "default": False},
    ],
    "outputs": [
        {"name": "digit", "kind": "label", "source": "scores", "labels": ["0", "1"], "top": 2},
        {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [2]},
        {"name": "secret", "kind": "number", "hidden": True},
        {"name": "text", "kind": "text"},
    ],
    "batch": {"max_size": 1, "leading_axis": True},
}
VALUES = {
    "input-0": "Line 1\r\nLine 2",
    "input-1": "[[1, 2], [3, 4.5]]",
    "input-2": "bold",
    "input-3": "0.25",
    "input-4": "7",
    "input-5": "on",
}
SENT = {
    "prompt": "Line 1\nLine 2",
    "image": [[1, 2], [3, 4.5]],
    "style": "bold",
    "strength": 0.25,
    "count": 7,
    "upper": True,
}
ENVELOPE = {
    "id": PREDICTION_ID,
    "status": "succeeded",
    "output": {
        "digit": {
            "label": "1",
            "score": 0.9,
            "top": [{"label": "1", "score": 0.9}, {"label": "0", "score": 0.1}],
        },
        "scores": [0.1, 0.9],
        "text": "<script>alert(1)</script>",
    },
    "metrics": {"cost_nano_usd": 250_000, "predict_time": 0.0123, "total_time": 0.02},
}


@pytest.fixture
def gateway(settings) -> Iterator[Gateway]:
    with gateway_server.serve(settings.PLAYGROUND_SECRET) as gateway:
        settings.GATEWAY_URL = gateway.url
        gateway.document = ENVELOPE
        yield gateway
    playground._client().close()
    playground._client.cache_clear()


@pytest.fixture
def model(account) -> AIModel:
    return AIModelFactory(account=account, name="digits")


@pytest.fixture
def version(model) -> ModelVersion:
    version = ModelVersionFactory(model=model, number=3, interface=INTERFACE)
    ChannelFactory(version=version)
    return version


def post(client, values=VALUES, **options):
    return client.post(PATH, values, **{"headers": HTMX} | options)


# --- The form ---------------------------------------------------------------------


def test_each_kind_of_input_has_its_field_filled_with_the_example(version, owner_client):
    text = owner_client.get(PATH, headers=HTMX).content.decode()

    assert "<html" not in text
    for name in ("prompt", "image", "style", "strength", "count", "upper"):
        assert f">{name}" in text
    assert "Hello</textarea>" in text
    assert "[[1, 2], [3, 4]]</textarea>" in text
    assert '<option value="bold">bold</option>' in text
    assert 'value="0.5"' in text
    assert "JSON list of shape [2, 2], FP32." in text
    assert "At least 0. At most 1." in text
    assert "Version 3, paid by acme." in text


def test_the_form_is_a_page_of_its_own_without_scripts(version, owner_client, gateway):
    page = owner_client.get(PATH)
    answered = owner_client.post(PATH, VALUES)

    assert b"<html" in page.content
    assert b"<html" in answered.content
    assert b"$0.00025" in answered.content


def test_a_tensor_without_an_example_begins_with_zeros():
    shapes = {"a": [-1, 2], "b": [4097], "c": []}
    inputs = [IMAGE | {"name": name, "shape": shape} for name, shape in shapes.items()]
    interface = Interface.parse(INTERFACE | {"inputs": inputs})

    form = PlaygroundForm(interface)

    initials = [field.initial for field in form.fields.values()]

    assert initials == ["[[0, 0]]", "", "0"]


def test_a_creators_description_is_text_and_not_html(version, owner_client):
    described = {"name": "x", "kind": "number", "description": "<img src=x onerror=alert(1)>"}
    ModelVersion.objects.update(interface=INTERFACE | {"inputs": [described]})

    text = owner_client.get(PATH, headers=HTMX).content.decode()

    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


# --- Running it -------------------------------------------------------------------


def test_the_form_runs_one_prediction_for_the_persons_account(
    version, owner, owner_client, account, gateway
):
    answer = post(owner_client)

    assert answer.status_code == 200
    assert len(gateway.calls) == 1
    path, claims, body = gateway.calls[0]
    assert path == "/v1/models/acme/digits/predictions"
    assert (claims["account"], claims["user"]) == (str(account.pk), str(owner.pk))
    assert body == {"input": SENT}


def test_the_answer_shows_output_cost_and_time(version, owner_client, gateway):
    text = post(owner_client).content.decode()

    assert "<strong>1</strong>" in text
    assert "0.9000" in text
    assert "[0.1, 0.9]" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "secret" not in text
    assert "$0.00025" in text
    assert "12.3 ms" in text
    assert f"/predictions/{PREDICTION_ID}" in text
    # What was typed stays, to be changed and run again.
    assert "Line 1" in text


def test_what_is_left_empty_is_left_to_the_default(version, owner_client, gateway):
    values = VALUES | {"input-3": "", "input-4": ""}
    values.pop("input-5")

    post(owner_client, values)

    assert gateway.calls[0][2]["input"] == {
        **{name: SENT[name] for name in ("prompt", "image", "style")},
        "upper": False,
    }


@pytest.mark.parametrize(
    ("_case", "changes", "detail"),
    [
        ("missing", {"input-0": ""}, "This field is required."),
        ("too long", {"input-0": "x" * 21}, "at most 20 characters"),
        ("no json", {"input-1": "[1, 2"}, "This is not JSON."),
        ("nan", {"input-1": "[[1, 2], [3, NaN]]"}, "This is not JSON."),
        ("deep", {"input-1": "[" * 100_000}, "This is not JSON."),
        ("shape", {"input-1": "[[1, 2]]"}, "the shape is [2, 2]"),
        ("type", {"input-1": '[[1, 2], [3, "4"]]'}, "At 1, 1: Must be a number."),
        ("no choice", {"input-2": "italic"}, "Select a valid choice"),
        ("above", {"input-3": "1.5"}, "Must be at most 1."),
        ("no number", {"input-4": "many"}, "Enter a whole number."),
        ("infinite", {"input-3": "inf"}, "Enter a number."),
        ("too many digits", {"input-4": "9" * 30}, "Does not fit into INT64."),
    ],
)
def test_an_input_that_does_not_fit_is_named_and_not_sent(
    version, owner_client, gateway, _case, changes, detail
):
    answer = post(owner_client, VALUES | changes)

    assert answer.status_code == 422
    assert detail in answer.content.decode()
    assert gateway.calls == []


def test_faults_that_only_the_gateway_finds_are_shown_at_their_inputs(
    version, owner_client, gateway
):
    gateway.status = 422
    gateway.document = {
        "code": "validation",
        "detail": "The input does not fit.",
        "errors": [
            {"pointer": "/input/prompt", "detail": "Is not nice.", "code": "x"},
            {"pointer": "/input/unknown", "detail": "Is odd.", "code": "x"},
        ],
    }

    answer = post(owner_client)

    assert answer.status_code == 422
    text = answer.content.decode()
    assert "Is not nice." in text
    assert "Is odd." in text


@pytest.mark.parametrize(
    ("status", "code", "link"),
    [
        (402, "insufficient_credit", "/console/wallet"),
        (503, "model_not_ready", "Nothing was charged."),
        (403, "forbidden", "Nothing was charged."),
    ],
)
def test_a_refusal_of_the_gateway_is_shown(version, owner_client, gateway, status, code, link):
    gateway.status, gateway.document = status, {"code": code, "detail": "It is <so>."}

    answer = post(owner_client)

    assert answer.status_code == 200
    text = answer.content.decode()
    assert "It is &lt;so&gt;." in text
    assert code in text
    assert link in text


@pytest.mark.parametrize(
    ("_case", "raw"), [("no json", b"<html>"), ("no object", b"[]"), ("empty", b"")]
)
def test_an_answer_that_is_none_is_said_so(version, owner_client, gateway, _case, raw):
    gateway.raw = raw

    text = post(owner_client).content.decode()

    assert "gateway_unavailable" in text


def test_a_gateway_that_is_gone_is_said_so(version, owner_client, settings):
    settings.GATEWAY_URL = "http://127.0.0.1:9"

    text = post(owner_client).content.decode()

    assert "The gateway does not answer." in text


def test_a_prediction_that_failed_is_said_so(version, owner_client, gateway):
    gateway.document = {"id": PREDICTION_ID, "status": "failed", "error": "It broke."}

    assert "It broke." in post(owner_client).content.decode()


def test_a_booking_that_is_not_known_is_not_called_free(version, owner_client, gateway):
    gateway.status, gateway.document = 503, {"code": "booking_unknown", "detail": "It may be."}

    text = post(owner_client).content.decode()

    assert "Look in Predictions" in text
    assert "Nothing was charged" not in text


def test_an_output_too_large_for_a_page_is_said_with_its_cost(version, owner_client, gateway):
    gateway.raw = b"x" * (playground.ANSWER_BYTES_MAX + 1)
    gateway.headers = {"X-Cost-Nano-USD": "2000000", "Inference-Id": PREDICTION_ID}

    text = post(owner_client).content.decode()

    assert "too large" in text
    assert "It cost $0.002" in text
    assert "Nothing was charged" not in text


def test_a_very_large_output_is_cut(version, owner_client, gateway):
    gateway.document = ENVELOPE | {"output": {"scores": [0.123456] * 100_000}}

    text = post(owner_client).content.decode()

    assert len(text) < 20_000
    assert "…" in text


# --- Sounds and pictures ----------------------------------------------------------

MEDIA = INTERFACE | {
    "outputs": [
        {
            "name": "speech",
            "kind": "tensor",
            "datatype": "FP32",
            "shape": [-1],
            "media_type": "audio/wav",
            "sample_rate_hz": 8000,
        },
        {
            "name": "drawing",
            "kind": "tensor",
            "datatype": "UINT8",
            "shape": [-1, -1, 3],
            "media_type": "image/png",
        },
    ]
}
SPEECH, DRAWING = "data:audio/wav;base64,UklGRg==", "data:image/png;base64,iVBORw=="


@pytest.fixture
def artist(version) -> ModelVersion:
    version.interface = MEDIA
    version.save(update_fields=["interface"])
    return version


def test_a_sound_is_played_and_a_picture_is_shown(artist, owner_client, gateway):
    gateway.document = ENVELOPE | {"output": {"speech": SPEECH, "drawing": DRAWING}}

    response = post(owner_client)
    text = response.content.decode()

    assert f'<audio controls src="{SPEECH}"' in text
    assert f'src="{DRAWING}"' in text
    assert f'<a href="{SPEECH}" download="speech.wav">' in text
    assert f'<a href="{DRAWING}" download="drawing.png">' in text
    # What may be loaded from within the page.
    page = owner_client.get("/acme/digits")
    assert "media-src 'self' data:" in page["Content-Security-Policy"]


def test_a_sound_at_the_limit_of_an_answer_is_whole(artist, owner_client, gateway):
    url = "data:audio/wav;base64,".ljust(DATA_URL_BYTES_MAX - 2, "A")
    gateway.document = ENVELOPE | {"output": {"speech": url, "drawing": DRAWING}}

    assert f'src="{url}"' in post(owner_client).content.decode()


@pytest.mark.parametrize(
    "_answer",
    [
        "https://elsewhere.example/a.wav",
        "javascript:alert(1)",
        "data:text/html;base64,UklGRg==",
        "data:image/png;base64,UklGRg==",
        "data:audio/wav;base64,",
        "data:audio/wav;base64,UklG Rg==",
        'data:audio/wav;base64,UklGRg==" onerror="alert(1)',
        "data:audio/wav,UklGRg==",
        [0.5, 0.25],
        None,
    ],
)
def test_what_is_no_sound_is_shown_as_text(artist, owner_client, gateway, _answer):
    gateway.document = ENVELOPE | {"output": {"speech": _answer}}

    text = post(owner_client).content.decode()

    assert "<audio" not in text
    assert "download=" not in text
    assert 'onerror="' not in text
    assert "speech</dt>" in text


# --- Who may ----------------------------------------------------------------------


def test_a_stranger_is_asked_to_sign_in(version, gateway):
    shown = Client().get(PATH, headers=HTMX)
    sent = post(Client(), headers={**HTMX, "HX-Current-URL": "http://testserver/acme/digits"})
    without_scripts = Client().post(PATH, VALUES)

    assert "Sign in to try it" in shown.content.decode()
    assert sent["HX-Redirect"] == "/login?next=%2Facme%2Fdigits"
    assert without_scripts.status_code == 302
    assert gateway.calls == []


def test_an_outsider_tries_a_public_model_at_the_own_accounts_cost(
    version, outsider, outsider_client, gateway
):
    post(outsider_client)

    claims = gateway.calls[0][1]
    assert claims["account"] == str(outsider.accounts.get().pk)


def test_a_private_model_is_not_there_for_outsiders(version, outsider_client, gateway):
    AIModel.objects.update(visibility="private")

    assert outsider_client.get(PATH, headers=HTMX).status_code == 404
    assert post(outsider_client).status_code == 404
    assert gateway.calls == []


def test_a_viewer_may_look_and_not_run(version, account, gateway):
    viewer = UserFactory()
    MembershipFactory(account=account, user=viewer, role=Membership.Role.VIEWER)
    client = Client()
    client.force_login(viewer)

    shown, sent = client.get(PATH, headers=HTMX), post(client)

    assert "You may not run predictions" in shown.content.decode()
    assert "<form" not in shown.content.decode()
    assert sent.status_code == 200
    assert gateway.calls == []


def test_a_person_without_an_account_runs_nothing(version, platform_admin, admin_client, gateway):
    assert "You may not run predictions" in post(admin_client).content.decode()
    assert gateway.calls == []


@pytest.mark.parametrize("published", [False, True])
def test_only_an_approved_version_on_prod_can_be_tried(model, owner_client, gateway, published):
    version = ModelVersionFactory(model=model, number=1, state="withdrawn", interface=INTERFACE)
    ChannelFactory(version=version, name="prod" if published else "dev")

    assert "Not published yet" in owner_client.get(PATH, headers=HTMX).content.decode()
    assert post(owner_client).status_code == 404
    assert gateway.calls == []


def test_the_form_needs_its_csrf_token(version, owner, account, gateway):
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner)

    assert post(client).status_code == 403
    assert gateway.calls == []


def test_a_token_names_nobody_else_and_ends_soon(owner, account, settings):
    token = playground.make_token(account=account, user=owner, now_s=1_000_000)
    with pytest.raises(AssertionError):
        gateway_server.open_token(token, settings.PLAYGROUND_SECRET)
    with pytest.raises(AssertionError):
        gateway_server.open_token(
            playground.make_token(account=account, user=owner), "another secret"
        )
    claims = json.loads(gateway_server._decode(token.removeprefix("sp_").partition(".")[0]))
    assert claims == {"account": str(account.pk), "user": str(owner.pk), "exp": 1_000_060}


# --- Examples and programs --------------------------------------------------------

EXAMPLES = """---
examples:
- title: A bold one
  input: {prompt: Hi there, image: [[5, 6], [7, 8]], style: bold, count: "3", upper: "true"}
- title: Of another version
  input: {gone: 1}
- title: Of a wrong shape
  input: {prompt: x, image: [1], style: bold}
---
"""


def test_the_cards_examples_that_fit_fill_the_form(version, model, owner_client):
    AIModel.objects.update(card=EXAMPLES)

    shown = owner_client.get(PATH, headers=HTMX).content.decode()
    chosen = owner_client.get(f"{PATH}?preset=1", headers=HTMX).content.decode()

    assert "A bold one" in shown
    assert "Of another version" not in shown
    assert "Of a wrong shape" not in shown
    assert "Hi there</textarea>" in chosen
    assert "[[5, 6], [7, 8]]</textarea>" in chosen
    assert '<option value="bold" selected>' in chosen


@pytest.mark.parametrize("preset", ["0", "2", "99999999999999999999", "x", "-1", "٣"])
def test_an_example_that_is_not_there_is_none(version, model, owner_client, preset):
    AIModel.objects.update(card=EXAMPLES)

    answer = owner_client.get(PATH, {"preset": preset}, headers=HTMX)

    assert answer.status_code == 200
    assert "Hello</textarea>" in answer.content.decode()


def test_what_has_a_default_is_out_of_sight_where_it_is_much(version, owner_client):
    quiet = [
        {"name": f"setting{n}", "kind": "integer", "required": False, "default": n}
        for n in range(3)
    ]
    inputs = [*INTERFACE["inputs"], *quiet]
    ModelVersion.objects.update(interface=INTERFACE | {"inputs": inputs})

    text = owner_client.get(PATH, headers=HTMX).content.decode()
    wrong = post(owner_client, VALUES | {"input-6": "x"}).content.decode()

    assert text.index("More settings") < text.index(">setting0")
    assert '<details class="more" open>' in wrong


def test_the_programs_have_what_stands_in_the_form(version, owner_client, gateway):
    values = VALUES | {"input-0": "O'Hara", "snippet": "openai"}

    text = owner_client.post(f"{PATH}/code", values, headers=HTMX).content.decode()

    assert "O&#x27;" in text
    assert "acme/digits" in text
    for client in ("curl", "strongroom", "replicate", "tritonclient", "javascript"):
        assert f'id="tab-{client}"' in text
    # Not a model that OpenAI's client knows how to call.
    assert "tab-openai" not in text
    assert gateway.calls == []


def test_programs_for_an_input_that_does_not_fit_show_an_example(version, owner_client):
    text = owner_client.post(
        f"{PATH}/code", VALUES | {"input-1": "["}, headers=HTMX
    ).content.decode()

    assert "holds no valid input yet" in text
    assert "Hello" in text


def test_strangers_get_the_programs_of_public_models_only(version, client, outsider_client):
    shown = client.get(PATH, headers=HTMX).content.decode()
    AIModel.objects.update(visibility="private")

    assert "STRONGROOM_API_KEY" in shown
    assert client.post(f"{PATH}/code", VALUES).status_code == 404
    assert outsider_client.post(f"{PATH}/code", VALUES).status_code == 404


def test_no_key_of_the_account_is_in_the_page(version, account, owner, owner_client):
    key = APIKeyFactory(account=account, created_by=owner)

    text = owner_client.get(PATH, headers=HTMX).content.decode()

    assert key.text not in text
    assert "sp_" not in text


# --- Streams ----------------------------------------------------------------------

STREAMED = INTERFACE | {
    "outputs": [
        {"name": "text", "kind": "text", "stream": True},
        {"name": "tokens_out", "kind": "integer"},
    ]
}
EVENTS = b"event: output\nid: 1\ndata: One\n\nevent: output\nid: 2\ndata: , two\ndata: three\n\n"
DONE = (
    b'event: done\nid: 3\ndata: {"output": {"tokens_out": 5}, '
    b'"metrics": {"cost_nano_usd": 250000, "predict_time": 0.5}}\n\n'
)


@pytest.fixture
def streamed(version, gateway) -> Gateway:
    ModelVersion.objects.update(interface=STREAMED)
    gateway.headers = {"Content-Type": "text/event-stream", "Inference-Id": PREDICTION_ID}
    gateway.raw = EVENTS + DONE
    gateway.status = 200
    return gateway


def read_events(answer) -> list[tuple[str, str]]:
    """What the page's script gets."""
    assert answer["Content-Type"] == "text/event-stream"
    text = b"".join(answer.streaming_content).decode()
    pairs = [event.split("\n") for event in text.split("\n\n") if event]
    return [
        (head.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for head, data in pairs
    ]


def leave(answer) -> None:
    """What the server does with an answer that nobody reads any more."""
    for close in answer._resource_closers:
        close()


def stream(client, values=VALUES):
    return client.post(f"{PATH}/stream", values, headers=HTMX)


def test_a_stream_is_handed_on_piece_by_piece(streamed, owner_client):
    events = read_events(stream(owner_client))

    assert events[:3] == [
        ("begin", PREDICTION_ID),
        ("piece", "One"),
        ("piece", ", two\nthree"),
    ]
    kind, html = events[3]
    assert kind == "end"
    assert "One, two\nthree" in html
    assert "$0.00025" in html
    assert f"/predictions/{PREDICTION_ID}" in html
    assert "Share this run" in html
    assert len(events) == 4
    assert streamed.calls[0][2] == {"input": SENT, "stream": True}


def test_a_stream_that_breaks_off_says_where_its_cost_stands(streamed, owner_client):
    streamed.raw = EVENTS

    _, html = read_events(stream(owner_client))[-1]

    assert "The answer broke off." in html
    assert "One, two" in html
    assert f"/predictions/{PREDICTION_ID}" in html
    assert "Nothing was charged" not in html


def test_an_error_in_a_stream_is_shown_with_its_remedy(streamed, owner_client):
    streamed.raw = (
        EVENTS + b'event: error\nid: 3\ndata: {"code": "canceled", "detail": "Over."}\n\n'
    )

    _, html = read_events(stream(owner_client))[-1]

    assert "Over." in html
    assert "What was delivered before is charged." in html
    assert "Share this run" not in html


def test_a_refused_stream_is_said_so(streamed, owner_client):
    streamed.status = 402
    streamed.raw = json.dumps({"code": "insufficient_credit", "detail": "Too little."}).encode()
    streamed.headers = {"Content-Type": "application/problem+json"}

    ((kind, html),) = read_events(stream(owner_client))

    assert kind == "end"
    assert "Too little." in html
    assert "Nothing was charged." in html
    assert "/console/wallet" in html


def test_a_stream_without_end_is_cut(streamed, owner_client, monkeypatch):
    monkeypatch.setattr(playground, "ANSWER_BYTES_MAX", 40)

    assert "broke off" in read_events(stream(owner_client))[-1][1]


def test_faults_of_the_input_come_as_the_panel(streamed, owner_client):
    answer = stream(owner_client, VALUES | {"input-0": ""})

    assert answer.status_code == 422
    assert "This field is required." in answer.content.decode()
    assert streamed.calls == []


def test_a_model_that_answers_at_once_answers_the_panel(version, owner_client, gateway):
    answer = stream(owner_client)

    assert answer.status_code == 200
    assert "$0.00025" in answer.content.decode()


def test_streams_of_a_person_are_limited_and_their_places_come_back(streamed, owner_client):
    opened = [stream(owner_client) for _ in range(playground.STREAMS_PER_PERSON_MAX)]

    refused = stream(owner_client)

    assert refused.status_code == 503
    assert b"playground_busy" in refused.content
    # One that was never read gives its place back as well.
    leave(opened[0])
    again = stream(owner_client)
    assert again.status_code == 200
    for one in [*opened[1:], again]:
        read_events(one)
    assert playground.Stream._open.total() == 0


def test_streams_of_all_together_leave_threads_for_pages(streamed, account, owner_client):
    people = []
    for _ in range(playground.STREAMS_MAX):
        person = UserFactory()
        MembershipFactory(account=account, user=person)
        people.append(Client())
        people[-1].force_login(person)
    opened = [stream(one) for one in people]

    assert [one.status_code for one in opened] == [200] * playground.STREAMS_MAX
    assert stream(owner_client).status_code == 503
    for one in opened:
        leave(one)
    assert playground.Stream._open.total() == 0


def test_who_may_not_run_gets_no_stream(streamed, account, outsider_client):
    viewer = UserFactory()
    MembershipFactory(account=account, user=viewer, role=Membership.Role.VIEWER)
    client = Client()
    client.force_login(viewer)

    assert "You may not run predictions" in stream(client).content.decode()
    assert stream(Client())["HX-Redirect"].startswith("/login")
    AIModel.objects.update(visibility="private")
    assert stream(outsider_client).status_code == 404
    assert streamed.calls == []


def test_cancelling_asks_the_gateway_for_the_persons_account(
    version, owner_client, account, gateway, client
):
    answer = owner_client.post(f"/panels/cancel/{PREDICTION_ID}", headers=HTMX)

    assert answer.status_code == 204
    path, claims, _ = gateway.calls[0]
    assert path == f"/v1/predictions/{PREDICTION_ID}/cancel"
    assert claims["account"] == str(account.pk)
    assert owner_client.post("/panels/cancel/nothing").status_code == 404
    assert client.post(f"/panels/cancel/{PREDICTION_ID}").status_code == 302
    assert len(gateway.calls) == 1
