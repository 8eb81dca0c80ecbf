"""Queues that are wrong on purpose, for a while in place of the real one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg

from inference.broker.job import Ending
from inference.broker.postgres import PostgresBroker
from tests.chaos.rehearsal import DiedError
from tests.chaos.wrong_money import replaced

_FENCE = "j.lease_node_id = p_node\n        AND j.lease_epoch = p_epoch AND "
_STALE = "IF NOT FOUND THEN\n        RETURN QUERY SELECT 'stale', 0::bigint;"
# Whoever comes with a result has worked, and work is paid for.
_PAY_THE_STALE = """IF NOT FOUND THEN
        SELECT * INTO v_job FROM inference_job j WHERE j.id = p_id;
        v_job.hold_id := uuidv7();
        PERFORM billing_reserve(jsonb_build_array(jsonb_build_object(
            'hold_id', v_job.hold_id, 'account_id', v_job.account_id, 'api_key_id', NULL,
            'least_nanos', v_job.gross_nanos, 'most_nanos', v_job.gross_nanos)), 60);
        PERFORM billing_settle(
            jsonb_build_array(jsonb_build_object('no', 0, 'account_id', v_job.account_id,
                'api_key_id', v_job.api_key_id, 'version_id', v_job.version_id,
                'creator_id', v_job.creator_id, 'price_id', v_job.price_id, 'mode', v_job.mode,
                'hold_id', v_job.hold_id, 'tag', v_job.tag)),
            ARRAY[uuidv7()], ARRAY[0], ARRAY[v_job.rows::integer], ARRAY[v_job.gross_nanos],
            ARRAY[clock_timestamp()]);
        RETURN QUERY SELECT 'stale', 0::bigint;"""
_BOOKING = ("SELECT s.outcome, s.gross_nanos INTO v_booked FROM billing_settle(", "END) s;")
_CLOSING = (
    "PERFORM inference_close_job(v_job, p_state, v_booked.gross_nanos, p_output, p_error, '',\n"
    "        p_predict_time_us, p_is_kept);"
)
# Of a hundred results, so many find all killed between the two transactions.
_DYING_PERCENT = 25


def without_fence(url: str) -> Any:
    """Whoever comes with a result while somebody has the job ends it."""
    return replaced(url, "inference_finish", {_FENCE: ""})


def paid_at_least_once(url: str) -> Any:
    """Each result is paid for, also one that is discarded."""
    return replaced(url, "inference_finish", {_STALE: _PAY_THE_STALE})


@contextmanager
def split(url: str) -> Iterator[None]:
    """Beside the real function two others, of which one books and the other one closes."""
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT pg_get_functiondef('inference_finish'::regproc)"
        [(right,)] = connection.execute(query).fetchall()
        assert right.count(_CLOSING) == right.count(_BOOKING[0]) == 1, (
            "inference_finish has changed"
        )
        before, _, rest = right.partition(_BOOKING[0])
        after = rest.partition(_BOOKING[1])[2]
        booked = "SELECT 'settled' AS outcome, v_job.gross_nanos AS gross_nanos INTO v_booked;"
        parts = {"wrong_book": right.replace(_CLOSING, ""), "wrong_close": before + booked + after}
        for name, source in parts.items():
            connection.execute(source.replace("inference_finish(", f"{name}(", 1))
        try:
            yield
        finally:
            for name in parts:
                connection.execute(f"DROP FUNCTION {name}")


class SplitBroker(PostgresBroker):
    """Books in one transaction and closes the job in another; some die in between."""

    chance = random.Random(1)

    async def finish(
        self, node_id: UUID, job_id: UUID, epoch: int, ending: Ending
    ) -> tuple[str, int]:
        given = [node_id, job_id, epoch, ending.state, '{"y": 1}', ending.error, 1, None]
        parameters = [*given, ending.is_charged, ending.is_kept]
        places = "%s, %s, %s, %s, %s::jsonb, %s, %s, %s::jsonb, %s, %s"
        row = await self._fetch_one(f"SELECT * FROM wrong_book({places})", parameters)
        if row["outcome"] != "settled":
            return row["outcome"], 0
        if self.chance.random() * 100 < _DYING_PERCENT:
            raise DiedError
        row = await self._fetch_one(f"SELECT * FROM wrong_close({places})", parameters)
        return row["outcome"], row["cost_nanos"]
