"""Give each process's database role the rights that it needs, and no other.

Run after `migrate`, as the owner of the schema. The table below is the whole policy: money
is written through functions only, and nobody but the key broker sees its secrets.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection, transaction

APP, GATEWAY, KEYBROKER = "strongroom_app", "strongroom_gateway", "strongroom_keybroker"

MONEY_TABLES = (
    "billing_ledgeraccount",
    "billing_transfer",
    "billing_transferentry",
    "billing_hold",
    "billing_usageevent",
    "billing_keyspend",
    "billing_usagecounter",
    "billing_royaltyshare",
)
# Written by whoever may give credit; a gateway may not.
CREDIT_FUNCTION = "billing_set_credit(uuid, bigint)"
# What happened to payments, and why accounts were frozen: it changes, and stays.
PAYMENT_TABLES = (
    "billing_topup",
    "billing_topuprefund",
    "billing_dispute",
    "billing_reviewcase",
    "billing_accountfreeze",
    "billing_payouthold",
)
RECEIPT_TABLES = ("billing_receiptkey", "billing_receiptbatch", "billing_receiptleaf")
BROKER_TABLES = (
    "inference_uploadkey",
    "inference_modelkey",
    "inference_leasechallenge",
    "inference_lease",
)
MONEY_FUNCTIONS = (
    "billing_account(uuid, text)",
    "billing_transfer(uuid, text, text, text, jsonb, uuid)",
    "billing_reserve(jsonb, integer)",
    "billing_settle(jsonb, uuid[], integer[], integer[], bigint[], timestamptz[], jsonb)",
    "billing_give_back(uuid[], bigint[], text)",
    "billing_expire_holds(integer)",
    "billing_reverse_usage(uuid, uuid, bigint)",
)
# The queue is written by its functions alone.
JOB_TABLES = (
    "inference_job",
    "inference_jobinput",
    "inference_jobflow",
    "inference_jobclock",
    "inference_jobpace",
    "inference_jobattempt",
    "inference_finishedjob",
)
_CLAIM = "inference_claim(uuid, integer, uuid[], double precision)"
_HEARTBEAT = "inference_heartbeat(uuid, uuid[], bigint[], boolean[], double precision)"
# What a gateway does for its callers and for nodes.
JOB_FUNCTIONS = (
    "inference_submit(jsonb, jsonb, integer)",
    _CLAIM,
    _HEARTBEAT,
    "inference_finish(uuid, uuid, bigint, text, jsonb, text, bigint, jsonb, boolean, boolean)",
    "inference_hand_back(uuid, uuid, bigint, text, text)",
    "inference_release_from_node(uuid, text)",
    "inference_cancel_job(uuid, uuid)",
    "inference_reap()",
    "inference_return_holds(integer)",
    "inference_fits_nowhere(uuid)",
)
# What the workers and the web do.
JOB_UPKEEP_FUNCTIONS = (
    "inference_cancel_job(uuid, uuid)",
    "inference_reap()",
    "inference_return_holds(integer)",
    "inference_archive_jobs(interval, interval, integer)",
    "inference_forget_jobs(timestamptz, integer)",
    "inference_erase_jobs(uuid)",
    "inference_replay_job(uuid, double precision)",
    "inference_end_unplaceable()",
    "inference_discard_job(uuid)",
)
# Of whoever changes a prediction, in the transaction of the change.
EVENT_FUNCTION = "inference_note_event(uuid, text, uuid, text, text[])"
# Of the workers alone.
APP_FUNCTIONS = ("billing_lock(uuid[])",)
# To say that versions are wanted; what that leads to is for the workers.
WAKE_FUNCTIONS = (
    "inference_wake(uuid)",
    "inference_may_wait(uuid)",
    "inference_is_missing(uuid)",
    "inference_note_use(uuid[])",
)
# Of the gateways, which put lines of batches into the queue.
BATCH_FUNCTIONS = (
    "inference_take_batch(double precision)",
    "inference_list_batch_lines(uuid, integer, integer, integer)",
    "inference_submit_line(bigint, jsonb, jsonb, integer)",
    "inference_fail_line(bigint, text, text)",
    "inference_note_portion(uuid, text, text, text, double precision)",
    "billing_batch_price(uuid)",
)
# Parts of the above; nobody calls them by themselves.
INNER_FUNCTIONS = (
    "inference_offer_jobs(uuid, uuid)",
    "inference_leave_flow(uuid, uuid, boolean)",
    "inference_end_attempt(inference_job, text, text, text)",
    "inference_close_job(inference_job, text, bigint, jsonb, text, text, bigint, boolean)",
    "inference_requeue(inference_job, text, text)",
    "inference_largest_capacity()",
    "inference_node_capacity(jsonb)",
    "billing_budget_left(uuid, date)",
    "billing_note_spend(uuid[], date[], bigint[], bigint[])",
)
# What the web and the workers may not do, out of everything on all tables.
APP_REVOKED = {
    **dict.fromkeys(MONEY_TABLES, "INSERT, UPDATE, DELETE"),
    **dict.fromkeys(RECEIPT_TABLES, "UPDATE, DELETE"),
    **dict.fromkeys(JOB_TABLES, "INSERT, UPDATE, DELETE"),
    "billing_adjustment": "DELETE",
    "billing_usagereversal": "UPDATE, DELETE",
    "billing_reconcilerun": "DELETE",
    "billing_reconciledifference": "DELETE",
    "billing_release": "UPDATE, DELETE",
    "billing_payoutrun": "UPDATE, DELETE",
    "billing_payoutitem": "DELETE",
    "billing_payoutreversal": "DELETE",
    "billing_meteredtransfer": "UPDATE, DELETE",
    "billing_meterreport": "DELETE",
    "marketplace_auditevent": "UPDATE, DELETE",
    "marketplace_schemanumber": "INSERT, UPDATE, DELETE",
    "marketplace_review": "UPDATE, DELETE",
    "marketplace_report": "DELETE",
    "marketplace_takedown": "DELETE",
    "marketplace_accountdeletion": "DELETE",
    "marketplace_retiredname": "UPDATE, DELETE",
    "marketplace_incident": "DELETE",
    "marketplace_incidentupdate": "UPDATE, DELETE",
    "billing_price": "DELETE",
    "billing_royalty": "DELETE",
    **dict.fromkeys(PAYMENT_TABLES, "DELETE"),
    "billing_reviewsignal": "UPDATE, DELETE",
    "inference_uploadkey": "ALL",
    "inference_modelkey": "ALL",
    "inference_leasechallenge": "ALL",
    "inference_lease": "INSERT, UPDATE, DELETE",
    # Who may be a node is for the broker to say, and who may become one for the owner.
    "inference_platformkey": "ALL",
    "inference_nodejointoken": "ALL",
    "inference_nodeidentity": "INSERT, UPDATE, DELETE",
    "inference_keyrelease": "INSERT, UPDATE, DELETE",
    "inference_keyshred": "INSERT, UPDATE, DELETE",
    "django_migrations": "INSERT, UPDATE, DELETE",
}
GATEWAY_GRANTS = {
    "marketplace_schemanumber": "SELECT",
    "marketplace_account": "SELECT",
    "marketplace_apikey": "SELECT, UPDATE (last_used_at)",
    "marketplace_aimodel": "SELECT",
    "marketplace_modelversion": "SELECT",
    "marketplace_channel": "SELECT",
    # What a search finds models by, and shows of them.
    "marketplace_catalogueentry": (
        "SELECT (model_id, words, label, p50_ms, rows_per_s, price_nanos, price_is_plain,"
        " predictions_30d)"
    ),
    "billing_price": "SELECT",
    "billing_postpaidterms": "SELECT (account_id, paused_at)",
    "billing_ledgeraccount": "SELECT",
    "billing_hold": "SELECT",
    "billing_usageevent": "SELECT",
    "billing_usagecounter": "SELECT",
    "billing_royalty": "SELECT",
    "billing_royaltyshare": "SELECT",
    "billing_receiptbatch": "SELECT",
    "billing_receiptleaf": "SELECT",
    "inference_replica": "SELECT",
    "inference_node": "SELECT",
    "inference_deployment": "SELECT",
    "inference_prediction": "SELECT, INSERT",
    "inference_apirequest": "SELECT, INSERT, UPDATE, DELETE",
    "inference_querysketch": "SELECT, INSERT, UPDATE",
    "inference_querybudget": "SELECT",
    "inference_querysample": "INSERT",
    "inference_driftwatch": "SELECT",
    "inference_driftpart": "INSERT",
    **dict.fromkeys(JOB_TABLES, "SELECT"),
}
KEYBROKER_GRANTS = {
    "marketplace_schemanumber": "SELECT",
    "marketplace_account": "SELECT (id, suspended_at)",
    "marketplace_modelversion": "SELECT",
    "marketplace_aimodel": "SELECT",
    "inference_node": "SELECT",
    "inference_replica": "SELECT",
    "inference_artifact": "SELECT",
    "inference_wrappedkey": "SELECT",
    **dict.fromkeys(BROKER_TABLES, "SELECT, INSERT, UPDATE, DELETE"),
    "inference_platformkey": "SELECT, INSERT, UPDATE (state, retired_at)",
    "inference_nodejointoken": "SELECT, UPDATE (used_at, node_id, use_count)",
    "inference_nodeidentity": "SELECT, INSERT, UPDATE",
    "inference_keyrelease": "SELECT, INSERT",
    "inference_keyshred": "SELECT, INSERT",
}


def statements() -> list[str]:
    """The whole policy as SQL; safe to run again."""
    lines = []
    for role in (APP, GATEWAY, KEYBROKER):
        lines += [
            f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
            f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role}",
            f"GRANT USAGE ON SCHEMA public TO {role}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
        ]
    lines.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {APP}")
    lines += [f"REVOKE {rights} ON {table} FROM {APP}" for table, rights in APP_REVOKED.items()]
    for role, grants in ((GATEWAY, GATEWAY_GRANTS), (KEYBROKER, KEYBROKER_GRANTS)):
        lines += [f"GRANT {rights} ON {table} TO {role}" for table, rights in grants.items()]
    jobs = (*JOB_FUNCTIONS, *JOB_UPKEEP_FUNCTIONS)
    called = (*MONEY_FUNCTIONS, *APP_FUNCTIONS, *WAKE_FUNCTIONS, *jobs, *BATCH_FUNCTIONS)
    for function in (*called, *INNER_FUNCTIONS):
        lines.append(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    for function in (*MONEY_FUNCTIONS, *WAKE_FUNCTIONS):
        lines.append(f"GRANT EXECUTE ON FUNCTION {function} TO {APP}, {GATEWAY}")
    lines.append(f"REVOKE ALL ON FUNCTION {CREDIT_FUNCTION} FROM PUBLIC")
    lines.append(f"GRANT EXECUTE ON FUNCTION {CREDIT_FUNCTION} TO {APP}")
    lines += [f"GRANT EXECUTE ON FUNCTION {one} TO {GATEWAY}" for one in JOB_FUNCTIONS]
    lines += [f"GRANT EXECUTE ON FUNCTION {one} TO {GATEWAY}" for one in BATCH_FUNCTIONS]
    lines += [f"GRANT EXECUTE ON FUNCTION {one} TO {APP}" for one in JOB_UPKEEP_FUNCTIONS]
    lines.append(f"REVOKE ALL ON FUNCTION {EVENT_FUNCTION} FROM PUBLIC")
    lines.append(f"GRANT EXECUTE ON FUNCTION {EVENT_FUNCTION} TO {APP}, {GATEWAY}")
    for function in APP_FUNCTIONS:
        lines.append(f"GRANT EXECUTE ON FUNCTION {function} TO {APP}")
    # Whoever may run predictions may not mint money.
    lines += [
        f"REVOKE ALL ON FUNCTION {function} FROM {GATEWAY}"
        for function in (
            "billing_transfer(uuid, text, text, text, jsonb, uuid)",
            "billing_reverse_usage(uuid, uuid, bigint)",
        )
    ]
    return lines


class Command(BaseCommand):
    help = "Give each process's database role the rights that it needs, and no other."

    def handle(self, *args: Any, **options: Any) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in statements():
                cursor.execute(statement)
        self.stdout.write("roles: strongroom_app, strongroom_gateway, strongroom_keybroker")
