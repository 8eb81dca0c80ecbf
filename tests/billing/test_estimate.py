"""The calculator gives the sum of what each prediction would be charged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.forms.estimate import PREDICTIONS_MAX, ROWS_MAX
from billing.selectors.estimate import estimate, list_marks
from billing.services.price import set_price
from marketplace.models import AIModel
from marketplace.selectors.access import Actor
from strongroom.rating import Terms, rate
from tests.factories import AIModelFactory

PATH = "/panels/estimate/acme/digits"
HTMX = {"HX-Request": "true"}

starts = st.integers(1, 60)
terms = st.builds(
    Terms,
    st.integers(0, 1_000),
    st.dictionaries(st.sampled_from(["input_token", "row"]), st.integers(0, 3_000_000)),
    st.integers(0, 300),
    st.integers(0, 40),
    st.lists(starts, max_size=3, unique=True).flatmap(
        lambda found: st.just([(one, 9_000 - 2_000 * n) for n, one in enumerate(sorted(found))])
    ),
)


def price_of(one: Terms, **more):
    return SimpleNamespace(terms=one, rates=one.rates, max_units=more.get("max_units", {}))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(terms, st.integers(1, 70), st.integers(1, 7), st.integers(0, 5_000))
def test_the_sum_is_that_of_single_charges(one, predictions, rows, tokens):
    metered = {"input_token": tokens}
    charged = {kind: rows if kind == "row" else tokens for kind in one.rates}

    made = estimate(price_of(one), predictions=predictions, rows=rows, metered=metered)

    each = [rate(one, rows, charged, index * rows) for index in range(predictions)]
    assert made.total_nanos == sum(each)
    assert (made.first_nanos, made.last_nanos) == (each[0], each[-1])


def test_a_sum_over_all_predictions_at_once_would_be_another():
    """The control: rounding and the minimum count for each prediction."""
    one = Terms(1, {}, 5, 0, [(10, 5_000)])

    made = estimate(price_of(one), predictions=100, rows=1, metered={})

    assert made.total_nanos != rate(one, 100, {}, 0)


def test_marks_are_few_however_many_predictions():
    one = Terms(1, {}, 0, 10**11 + 3, [(10**11 + 7, 5_000), (10**12, 1_000)])

    assert len(list_marks(one, PREDICTIONS_MAX, ROWS_MAX)) <= 7


def test_no_more_than_the_most_is_charged():
    one = Terms(0, {"input_token": 1_000_000})

    made = estimate(
        price_of(one, max_units={"input_token": 10}),
        predictions=2,
        rows=3,
        metered={"input_token": 100},
    )

    assert made.total_nanos == 60
    assert made.capped == {"input_token": 30}


# --- The panel --------------------------------------------------------------------


@pytest.fixture
def model(account, owner) -> AIModel:
    model = AIModelFactory(account=account, name="digits", title="Digits")
    set_price(Actor(user=owner), model, nanos_per_prediction=20_000)
    return model


def test_the_calculator_works_out_a_month(model, client):
    shown = client.get(PATH, headers=HTMX).content.decode()
    asked = client.get(PATH, {"predictions": "3000000", "rows": "2"}, headers=HTMX)

    assert "$0.20" in shown  # 10,000 predictions.
    assert "$120.00" in asked.content.decode()
    assert "<html" not in shown


def test_without_scripts_it_is_a_page(model, client):
    text = client.get(PATH, {"predictions": "5", "rows": "1"}).content.decode()

    assert "<html" in text
    assert "$0.0001" in text


@pytest.mark.parametrize(
    ("name", "count", "status"),
    [
        ("predictions", PREDICTIONS_MAX, 200),
        ("predictions", PREDICTIONS_MAX + 1, 422),
        ("predictions", 0, 422),
        ("predictions", -1, 422),
        ("predictions", "1.5", 422),
        ("predictions", "NaN", 422),
        ("predictions", "", 422),
        ("rows", ROWS_MAX, 200),
        ("rows", ROWS_MAX + 1, 422),
        ("rows", "<script>", 422),
    ],
)
def test_numbers_have_limits(model, client, name, count, status):
    asked = {"predictions": "1", "rows": "1"} | {name: str(count)}

    answer = client.get(PATH, asked, headers=HTMX)

    assert answer.status_code == status
    assert 'id="estimate-result"' in answer.content.decode()
    assert "<script>" not in answer.content.decode()


def test_a_model_without_a_price_has_no_calculator(account, client):
    AIModelFactory(account=account, name="digits")

    assert "Calculator" not in client.get(PATH, headers=HTMX).content.decode()
    assert "no price yet" in client.get(PATH).content.decode()


def test_a_private_models_price_is_for_its_people(
    model, client, owner_client, teammate_client, outsider_client
):
    AIModel.objects.update(visibility="private")

    assert owner_client.get(PATH).status_code == 200
    assert teammate_client.get(PATH).status_code == 200
    assert outsider_client.get(PATH).status_code == 404
    assert client.get(PATH).status_code == 404
