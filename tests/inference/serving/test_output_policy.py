"""What may leave of an output: the rules by themselves, around requests, and in a real Triton."""

from __future__ import annotations

import timeit
from types import MappingProxyType

import numpy as np
import pytest

from inference.serving.errors import LoadError
from inference.serving.execution import Executor
from inference.serving.first_run import check_canaries
from inference.serving.output_policy import OutputPolicy, limit, show
from inference.serving.streaming import StreamExecutor
from strongroom.interface import Interface
from strongroom.sealing.manifest import TestVector
from strongroom.sealing.policy import OutputRule, Policy
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE, WEIGHTS, linear
from tests.inference.serving.sealed import seal
from tests.inference.serving.test_execution import INTERFACE, Doubling, Paper, request
from tests.inference.serving.test_streaming import INTERFACE as TELLER
from tests.inference.serving.test_streaming import Request as StreamRequest
from tests.inference.serving.test_streaming import Sender, StreamPaper

FLOATS = (np.float16, np.float32, np.float64)


def rounded(decimals: int | None = None, **members) -> OutputRule:
    return OutputRule(decimals=decimals, **members)


@pytest.mark.parametrize("kind", FLOATS)
def test_probabilities_are_the_softmax_of_each_line(kind):
    scores = np.array([[1, 2, 3], [1000, 0, -1000]], dtype=kind)

    shown = show(scores, OutputRule(shown_as="probabilities"))

    assert shown.dtype == kind
    assert shown[0] == pytest.approx([0.09003, 0.24473, 0.66524], abs=1e-3)
    assert shown[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("kind", FLOATS)
def test_label_is_one_for_the_largest_and_of_equals_for_the_first(kind):
    scores = np.array([[-3, -1, -2], [5, 7, 7]], dtype=kind)

    shown = show(scores, OutputRule(shown_as="label"))

    assert (shown.dtype, shown.tolist()) == (kind, [[0, 1, 0], [0, 1, 0]])


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [[0, 9, 0, 0], [2, 0, 0, 0], [-1, 0, 0, 0]]),
        (2, [[0, 9, 3, 0], [2, 2, 0, 0], [-1, 0, -3, 0]]),
        (3, [[1, 9, 3, 0], [2, 2, 2, 0], [-1, -4, -3, 0]]),
        (4, [[1, 9, 3, 1], [2, 2, 2, 2], [-1, -4, -3, -5]]),
        (1000, [[1, 9, 3, 1], [2, 2, 2, 2], [-1, -4, -3, -5]]),
    ],
)
def test_exactly_the_largest_stay_and_of_equals_the_first(kind, count, expected):
    scores = np.array([[1, 9, 3, 1], [2, 2, 2, 2], [-1, -4, -3, -5]], dtype=kind)

    shown = show(scores, OutputRule(top_k=count))

    assert (shown.dtype, shown.tolist()) == (kind, expected)
    # The model's own memory is not written to.
    assert scores[0].tolist() == [1, 9, 3, 1]


def test_ties_agree_with_a_slow_and_obvious_reading():
    rng = np.random.default_rng(1)
    scores = rng.integers(-3, 4, size=(40, 3, 11)).astype(np.float32)

    for count in range(1, 12):
        shown = show(scores, OutputRule(top_k=count))
        for line, got in zip(scores.reshape(-1, 11), shown.reshape(-1, 11), strict=True):
            kept = sorted(range(11), key=lambda at: (-line[at], at))[:count]
            assert got.tolist() == [line[at] if at in kept else 0 for at in range(11)]


@pytest.mark.parametrize("kind", FLOATS)
def test_rounding_gives_the_shortest_numbers_and_no_negative_zero(kind):
    shown = show(np.array([[0.12345, -0.0004, 2.5]], dtype=kind), rounded(3))

    assert (shown.dtype, shown.tolist()) == (kind, np.array([[0.123, 0, 2.5]], kind).tolist())
    assert not np.signbit(shown[0, 1])
    assert show(np.array([[0.5, 1.5, 2.4]], dtype=kind), rounded(0)).tolist() == [[0, 2, 2]]


def test_rounding_leaves_the_largest_numbers_as_they_are():
    for kind in FLOATS:
        largest = np.array([[np.finfo(kind).max, -np.finfo(kind).max]], dtype=kind)
        assert show(largest, rounded(8)).tolist() == largest.tolist()


def test_rules_are_applied_in_their_order():
    scores = np.log(np.array([[0.5, 0.3004, 0.1996]]))

    rule = OutputRule(shown_as="probabilities", top_k=2, decimals=3)

    assert show(scores, rule).tolist() == [[0.5, 0.3, 0]]


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "rule",
    [
        OutputRule(shown_as="probabilities"),
        OutputRule(shown_as="label"),
        OutputRule(top_k=1),
        OutputRule(decimals=1),
    ],
)
def test_a_fault_stays_a_fault_of_its_own_line(rule, fault):
    shown = show(np.array([[1, fault, 3], [1, 2, 3]], dtype=np.float32), rule)

    assert np.isnan(shown[0]).all()
    assert np.isfinite(shown[1]).all()


def test_an_axis_without_values_has_nothing_to_show():
    for rule in (OutputRule(shown_as="label"), OutputRule(top_k=1), OutputRule(decimals=1)):
        assert show(np.empty((2, 0), np.float32), rule).shape == (2, 0)


def test_a_large_batch_costs_little():
    scores = np.random.default_rng(2).normal(size=(32, 1000)).astype(np.float32)
    rule = OutputRule(shown_as="probabilities", top_k=5, decimals=3)

    took_s = min(timeit.repeat(lambda: show(scores, rule), number=3, repeat=5)) / 3
    slow_s = min(timeit.repeat(lambda: _show_slowly(scores), number=1, repeat=2))

    # Against a loop in Python on the same machine, which is what it must not become.
    assert took_s < slow_s / 3


def _show_slowly(scores: np.ndarray) -> list[list[float]]:
    shown = []
    for line in np.exp(scores).tolist():
        total = sum(line)
        kept = set(sorted(range(len(line)), key=lambda at: -line[at])[:5])
        shown.append([round(one / total, 3) if at in kept else 0 for at, one in enumerate(line)])
    return shown


@pytest.mark.parametrize("name", ["missing", "text", "tokens_out"])
def test_a_rule_for_what_is_no_plain_float_is_refused(name):
    with pytest.raises(LoadError) as caught:
        OutputPolicy({name: rounded(2)}, Interface.parse(TELLER.to_json()))

    assert caught.value.reason_code == "output_policy_invalid"
    assert name in caught.value.detail


def execute(rules: dict[str, OutputRule], *requests):
    policy = OutputPolicy(rules, INTERFACE)
    runtime = Doubling()
    responses = Executor(limit(runtime, policy), INTERFACE, Paper).execute(requests)
    answers = [
        one.error.message if one.error else one.tensors[0].array.tolist() for one in responses
    ]
    return answers, runtime.calls


def test_requests_that_share_a_call_are_all_limited_and_faults_are_told():
    requests = [request([1, 2], [5, 4]), request([7, 3]), request([np.inf, 1])]

    answers, calls = execute({"y": OutputRule(top_k=1)}, *requests)

    refusal = "output_not_finite: The output y holds a value that is not a finite number."
    assert answers == [[[0, 4], [10, 0]], [[14, 0]], refusal]
    assert calls == [4]


def test_without_a_rule_the_raw_values_are_seen():
    answers, _ = execute({}, request([0.123456, 2]))

    assert np.allclose(answers[0], [[0.246912, 4]])
    assert limit(runtime := Doubling(), OutputPolicy({}, INTERFACE)) is runtime


class Scoring:
    """Streams a text, with a score beside it at the end."""

    can_batch = False

    def run(self, inputs, is_cancelled):
        return [np.array([[b"ab"]], dtype=object), np.array([[0.123456]], np.float32)]

    def stream(self, inputs, is_cancelled):
        yield {"text": np.array([[b"a"]], dtype=object)}
        yield {"text": np.array([[b"b"]], dtype=object), "score": self.run(inputs, None)[1]}


@pytest.mark.parametrize("given", ["{}", '{"stream": true}'])
def test_what_stands_beside_a_stream_is_limited_too(given):
    interface = Interface.parse(
        {
            "inputs": [{"name": "prompt", "kind": "text"}],
            "outputs": [
                {"name": "text", "kind": "text", "stream": True},
                {"name": "score", "kind": "number"},
            ],
        }
    )
    runtime = limit(Scoring(), OutputPolicy({"score": rounded(2)}, interface))
    sender = Sender()

    StreamExecutor(runtime, interface, StreamPaper).execute([StreamRequest(sender, given)])

    last = [one for one, _ in sender.sent if one is not None][-1]
    assert np.allclose(last.tensors[-1].array, [[0.12]], atol=1e-6)


RULE = OutputRule(top_k=2, decimals=1)
ROW = [1.0] * 16


def expected(rule: OutputRule | None) -> list[float]:
    raw = np.array([ROW], np.float32) @ WEIGHTS
    return (raw if rule is None else show(raw, rule))[0].tolist()


def seal_linear(folder, rule: OutputRule | None, answer: list[float]):
    sealed = seal(
        folder,
        {"model.onnx": ("onnx", linear())},
        runtime="onnx",
        interface=LINEAR_INTERFACE,
        vectors=(TestVector({"x": ROW}, {"y": answer}),),
    )
    rules = {} if rule is None else {"y": rule}
    return sealed.with_manifest(policy=Policy(output=MappingProxyType(rules)))


def test_triton_answers_what_may_leave_and_the_canary_is_compared_with_it(triton, load, parts):
    assert expected(RULE) != expected(None)
    limited, _ = load(seal_linear(parts, RULE, expected(RULE)))
    # With the rule switched off the raw values are seen.
    raw, _ = load(seal_linear(parts, None, expected(None)))
    x = np.array([ROW, ROW], np.float32)

    assert triton.infer(limited, x=x)["y"].tolist() == [expected(RULE)] * 2
    # Nearly: the last digits of a sum depend on the processor.
    assert np.allclose(triton.infer(raw, x=x)["y"], [expected(None)] * 2, atol=1e-5)


def test_a_canary_that_holds_raw_values_ends_the_load_of_a_limited_model(parts):
    class Linear:
        can_batch = True

        def run(self, inputs, is_cancelled):
            return [inputs[0] @ WEIGHTS]

    interface = Interface.parse(LINEAR_INTERFACE)
    policy = OutputPolicy({"y": RULE}, interface)
    raw = seal_linear(parts, RULE, expected(None)).manifest

    check_canaries(Linear(), raw, interface)
    with pytest.raises(LoadError) as caught:
        check_canaries(limit(Linear(), policy), raw, interface)
    assert caught.value.reason_code == "canary_mismatch"
