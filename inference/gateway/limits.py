"""How much may be asked for at once: rates and caps of a key, its account and the model.

Asked right before money is held. Three things can be limited for each of the three: requests
and units a minute, and requests at the same time. The numbers hold for all gateways in sum,
see `inference.gateway.limits_store`; without Redis each gateway keeps its fair share.

What is refused takes nothing: neither of that limit nor of the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import UUID

from inference.gateway.auth import Caller
from inference.gateway.catalog import Offer
from inference.gateway.config import PLANS_KEPT_MAX, READERS_KEPT_MAX, GatewayConfig
from inference.gateway.errors import (
    ConcurrencyLimitedError,
    RateLimitedError,
    UnitsExceedLimitError,
)
from inference.gateway.gcra import Pace, burst_of
from inference.gateway.limits_store import PREFIX, Ask, Item, LimitsStore
from inference.gateway.shares import Gate, Rate
from marketplace.core.errors import LimitExceededError

# Nobody knows when a request will end; a second is what clients can sleep.
_CONCURRENCY_RETRY_S = 1
_READS_POLICY = "key-reads"
# An item that was not used for so long owes nothing, or soon.
_KEPT_S = 120.0
_SECOND_US = 1_000_000

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Limits:
    """The three limits of one key, account or model; None where there is none."""

    requests_per_minute: int | None
    units_per_minute: int | None
    concurrency_max: int | None


class Plan:
    """All limits that one caller's requests for one offer meet.

    As a context manager it ends what `Limits.admit` began: places are given back whatever
    happens. Any number of requests may be inside at once.
    """

    __slots__ = (
        "caller",
        "gates",
        "limits",
        "offer",
        "policy",
        "rates",
        "request_rates",
        "unit_rates",
    )

    def __init__(self, limits: Limits, caller: Caller, offer: Offer) -> None:
        self.limits = limits
        # Kept so that no other object can have their identity meanwhile.
        self.caller, self.offer = caller, offer
        self.request_rates: list[Rate] = []
        self.unit_rates: list[Rate] = []
        self.gates: list[Gate] = []

    def close(self) -> Plan:
        """All limits are in it."""
        # Each with whether a request counts as its units there.
        self.rates = [(rate, False) for rate in self.request_rates]
        self.rates += [(rate, True) for rate in self.unit_rates]
        parts = [f'"{one.policy}";q={one.per_minute};w=60' for one in self.request_rates]
        parts += [f'"{one.policy}";q={one.per_minute};w=60;qu="units"' for one in self.unit_rates]
        parts += [f'"{one.policy}";q={one.cap};qu="concurrent-requests"' for one in self.gates]
        self.policy = ", ".join(parts)
        return self

    def __enter__(self) -> Plan:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for gate in self.gates:
            if gate.release():
                self.limits.store.give_back(gate)

    def render(self, *, is_openai: bool) -> list[Header]:
        """The headers that tell a client where it stands; a few microseconds."""
        if not self.policy:
            return []
        is_up = self.limits.store.is_up
        headers = [("ratelimit-policy", self.policy), ("ratelimit", self._render_tightest(is_up))]
        if not is_up:
            headers.append(("x-ratelimit-scope", "local"))
        if is_openai and self.request_rates:
            headers += self._render_openai(is_up)
        return headers

    def _render_tightest(self, is_up: bool) -> str:
        now_s = time.monotonic()
        tightest, policy, remaining, reset_us = 2.0, "", 0, 0
        for rate, _ in self.rates:
            left, after_us = self._look_at(rate, is_up, now_s)
            if left < tightest * rate.leased_burst:
                tightest, policy, remaining, reset_us = (
                    left / rate.leased_burst,
                    rate.policy,
                    left,
                    after_us,
                )
        for gate in self.gates:
            left = gate.remaining() if is_up else self.limits.share_of(gate) - gate.used
            if left < tightest * gate.cap:
                tightest, policy, remaining, reset_us = left / gate.cap, gate.policy, left, 0
        # A place comes back when a request ends, nobody knows when: it has no time.
        reset = f";t={-(-reset_us // _SECOND_US)}" if reset_us else ""
        return f'"{policy}";r={max(0, remaining)}{reset}'

    def _look_at(self, rate: Rate, is_up: bool, now_s: float) -> tuple[int, int]:
        if is_up:
            return rate.remaining(now_s), rate.reset_us(now_s)
        return self.limits.look_at_own(rate, now_s)

    def _render_openai(self, is_up: bool) -> list[Header]:
        now_s = time.monotonic()
        looks = [(self._look_at(rate, is_up, now_s), rate) for rate in self.request_rates]
        (remaining, reset_us), rate = min(looks, key=lambda one: one[0][0] / one[1].leased_burst)
        return [
            ("x-ratelimit-limit-requests", str(rate.per_minute)),
            ("x-ratelimit-remaining-requests", str(max(0, remaining))),
            ("x-ratelimit-reset-requests", _render_duration(reset_us)),
        ]


class _Taken:
    """What a request has of what it needs, and what it lacks."""

    __slots__ = ("counts", "entered", "lacking", "slots", "store")

    def __init__(self, store: LimitsStore) -> None:
        self.store = store
        self.slots: list[tuple[Rate, int, float]] = []
        self.entered: list[Gate] = []
        self.lacking: list[Item] = []
        self.counts: list[int] = []

    def take_slots(self, rate: Rate, count: int, now_s: float) -> None:
        until_s = rate.take(count, now_s)
        if until_s:
            self.slots.append((rate, count, until_s))
            if rate.needs_refill():
                self.store.refill(rate)
        else:
            self.lacking.append(rate)
            self.counts.append(count)

    def take_place(self, gate: Gate, now_s: float) -> None:
        if gate.take(now_s):
            self.entered.append(gate)
        else:
            self.lacking.append(gate)
            self.counts.append(1)

    def undo(self) -> None:
        """Put everything back: the request is not let in."""
        for rate, count, until_s in self.slots:
            rate.put_back(count, until_s)
        for gate in self.entered:
            if gate.release():
                self.store.give_back(gate)

    def refuse(self, refused: Sequence[Item]) -> LimitExceededError:
        """The error that names what was refused of what lacked."""
        now_s = time.monotonic()
        waits_us = [
            item.wait_us(count, now_s)
            for item, count in zip(self.lacking, self.counts, strict=True)
            if isinstance(item, Rate) and item in refused
        ]
        return _refusal(refused, waits_us)


class Limits:
    """Admits requests, or refuses them with the time after which they may come again."""

    def __init__(self, config: GatewayConfig) -> None:
        self._account_defaults = _Limits(
            config.account_requests_per_minute or None,
            config.account_units_per_minute or None,
            config.account_concurrency_max or None,
        )
        self._reads_per_minute = config.reads_per_minute
        self.store = LimitsStore(
            config.redis_url, wait_s=config.redis_wait_ms / 1000, gateways=config.gateway_count
        )
        self._rates: dict[str, Rate] = {}
        self._plans: dict[tuple[int, int], Plan] = {}
        self._reads: dict[UUID, Pace] = {}

    async def start(self) -> None:
        """Begin to share limits with the other gateways."""
        await self.store.start()

    async def stop(self) -> None:
        """Let go of Redis."""
        await self.store.stop()

    @property
    def scope(self) -> str:
        """Where limits are kept now: `shared` by all gateways, or `local`."""
        return "shared" if self.store.is_up else "local"

    def plan(self, caller: Caller, offer: Offer) -> Plan:
        """The limits that concern this caller and this offer."""
        number = (id(caller), id(offer))
        plan = self._plans.get(number)
        if plan is None:
            if len(self._plans) >= PLANS_KEPT_MAX:
                self._forget()
            plan = self._plans[number] = self._make_plan(caller, offer)
        return plan

    async def admit(self, caller: Caller, offer: Offer, units: int) -> Plan:
        """Let a request in, once.

        It waits only for limits of which nothing is leased, and then for one call of Redis.

        Args:
            caller: Who asks.
            offer: For what.
            units: What the price counts.

        Returns:
            To be used in a `with` statement around all that the request does.

        Raises:
            RateLimitedError, ConcurrencyLimitedError: Not now.
            UnitsExceedLimitError: Not ever.
        """
        plan = self.plan(caller, offer)
        if not plan.policy:
            return plan
        for rate in plan.unit_rates:
            if units > rate.per_minute:
                raise UnitsExceedLimitError(
                    f"This request has {units} units; {rate.policy} allows {rate.per_minute}"
                    " a minute. Send smaller ones.",
                    **_violated([rate]),
                )
        if not self.store.is_up:
            return self._admit_alone(plan, units)
        return await self._admit_shared(plan, units)

    async def _admit_shared(self, plan: Plan, units: int) -> Plan:
        now_s = time.monotonic()
        taken = _Taken(self.store)
        for rate, is_of_units in plan.rates:
            taken.take_slots(rate, units if is_of_units else 1, now_s)
        for gate in plan.gates:
            taken.take_place(gate, now_s)
        if not taken.lacking:
            return plan
        answer: list[Item] | None = _find_hopeless(taken.lacking, taken.counts, now_s)
        if not answer:
            try:
                answer = await self.store.ask(Ask(taken.lacking, taken.counts))
            except BaseException:
                taken.undo()
                raise
        if answer is None:
            return plan
        taken.undo()
        if not answer:
            return self._admit_alone(plan, units)
        raise taken.refuse(answer)

    def _admit_alone(self, plan: Plan, units: int) -> Plan:
        """Keep this gateway's fair share, while there is nobody to ask."""
        now_us = int(time.monotonic() * 1e6)
        weight = self.store.gateways
        # A slot here weighs as much as one at each gateway: all alike, they keep the limit.
        weighed = [
            (rate, (units if is_of_units else 1) * weight) for rate, is_of_units in plan.rates
        ]
        spent = [(rate, count) for rate, count in weighed if not rate.own.has_room(count, now_us)]
        full = [gate for gate in plan.gates if gate.used >= self.share_of(gate)]
        if spent or full:
            waits_us = [rate.own.wait_us(count) for rate, count in spent]
            raise _refusal([*(rate for rate, _ in spent), *full], waits_us)
        for rate, count in weighed:
            rate.own.take(count)
        for gate in plan.gates:
            gate.used += 1
            gate.used_s = now_us / 1e6
        return plan

    def share_of(self, gate: Gate) -> int:
        """The places of this gateway while there is nobody to ask; never none."""
        return max(1, gate.cap // self.store.gateways)

    def look_at_own(self, rate: Rate, now_s: float) -> tuple[int, int]:
        """What is left of this gateway's share of a rate, and when nothing is owed any more."""
        own, weight = rate.own, self.store.gateways
        own.has_room(0, int(now_s * 1e6))
        left = own.count_room() // weight
        return left, own.reset_us()

    def admit_read(self, caller: Caller) -> None:
        """Let a request in that runs nothing. Each process counts for itself.

        Raises:
            RateLimitedError: Too many.
        """
        number = caller.key_id or caller.account_id
        pace = self._reads.get(number)
        if pace is None:
            if len(self._reads) >= READERS_KEPT_MAX:
                self._reads.clear()
            limit = self._reads_per_minute
            pace = self._reads[number] = Pace(limit, burst_of(limit))
        if not pace.has_room(1, int(time.monotonic() * 1e6)):
            raise RateLimitedError(
                f"{_READS_POLICY} is reached: {pace.per_minute} a minute.",
                retry_after_s=_to_seconds(pace.wait_us(1)),
                **_violated_names([_READS_POLICY]),
            )
        pace.take(1)

    def _make_plan(self, caller: Caller, offer: Offer) -> Plan:
        plan = Plan(self, caller, offer)
        for owner, number, limits in self._list_limits(caller, offer):
            for per_minute, name, rates in (
                (limits.requests_per_minute, "rpm", plan.request_rates),
                (limits.units_per_minute, "upm", plan.unit_rates),
            ):
                if per_minute is not None:
                    rates.append(self._find_rate(f"{owner}-{name}", number, per_minute))
            if limits.concurrency_max is not None:
                plan.gates.append(self._find_gate(f"{owner}-conc", number, limits.concurrency_max))
        return plan.close()

    def _list_limits(self, caller: Caller, offer: Offer) -> Iterator[tuple[str, UUID, _Limits]]:
        if caller.key_id is not None:
            of_key = _Limits(
                caller.requests_per_minute, caller.units_per_minute, caller.concurrency_max
            )
            yield "key", caller.key_id, of_key
        defaults = self._account_defaults
        of_account = _Limits(
            caller.account_requests_per_minute or defaults.requests_per_minute,
            caller.account_units_per_minute or defaults.units_per_minute,
            caller.account_concurrency_max or defaults.concurrency_max,
        )
        yield "account", caller.account_id, of_account
        of_model = _Limits(offer.requests_per_minute, offer.units_per_minute, offer.concurrency_max)
        yield "model", offer.model_id, of_model

    def _find_rate(self, policy: str, number: UUID, per_minute: int) -> Rate:
        key = f"{PREFIX}{policy}:{number}"
        rate = self._rates.get(key)
        if rate is None:
            rate = self._rates[key] = Rate(policy, key, per_minute)
        elif rate.per_minute != per_minute:
            rate.set_limit(per_minute)
        return rate

    def _find_gate(self, policy: str, number: UUID, cap: int) -> Gate:
        key = f"{PREFIX}{policy}:{number}"
        gate = self.store.gates.get(key)
        if gate is None:
            gate = self.store.gates[key] = Gate(policy, key, cap)
        gate.set_limit(cap)
        return gate

    def _forget(self) -> None:
        """Forget plans, and what of them nobody has used for a while."""
        self._plans.clear()
        oldest_s = time.monotonic() - _KEPT_S
        self._rates = {key: one for key, one in self._rates.items() if one.used_s > oldest_s}
        # A gate with places must stay the one that Redis is told of.
        self.store.gates = {
            key: one
            for key, one in self.store.gates.items()
            if one.used or one.idle or one.used_s > oldest_s
        }


def _find_hopeless(items: Sequence[Item], counts: Sequence[int], now_s: float) -> list[Item] | None:
    """What would be refused by Redis as well: nobody is asked."""
    return [
        item
        for item, count in zip(items, counts, strict=True)
        if (item.is_full(now_s) if isinstance(item, Gate) else item.is_spent(count, now_s))
    ]


def _refusal(refused: Sequence[Item], waits_us: Sequence[int]) -> LimitExceededError:
    """The error that names all limits that were reached."""
    names = ", ".join(item.policy for item in refused)
    kind: type[LimitExceededError] = RateLimitedError if waits_us else ConcurrencyLimitedError
    retry_s = _to_seconds(max(waits_us)) if waits_us else _CONCURRENCY_RETRY_S
    return kind(
        f"Limit reached: {names}. Try again in {retry_s} s.",
        retry_after_s=retry_s,
        **_violated(refused),
    )


def _violated(items: Sequence[Item]) -> dict[str, Any]:
    return _violated_names([item.policy for item in items])


def _violated_names(names: list[str]) -> dict[str, Any]:
    return {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "violated-policies": names,
    }


def _to_seconds(wait_us: int) -> int:
    """Whole seconds, as `Retry-After` has them; never too early."""
    return max(1, -(-wait_us // _SECOND_US))


def _render_duration(duration_us: int) -> str:
    """As OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    milliseconds = -(-duration_us // 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest_ms = divmod(milliseconds, 60_000)
    seconds = f"{rest_ms / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds
