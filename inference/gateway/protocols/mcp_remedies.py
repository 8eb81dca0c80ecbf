"""What to do about each refusal, in words for whoever called the tool, person or program."""

from __future__ import annotations

from collections.abc import Mapping

_AGAIN = "Nothing was charged. Try again in a moment."
_WRITE = "Nothing helps here: somebody of the account has to write to the platform."
_REPORT = "Nothing was charged. If it happens again, tell the platform the request_id."

REMEDIES: Mapping[str, str] = {
    "account_frozen": _WRITE,
    "account_suspended": _WRITE,
    "bad_request": "Correct the call as the detail says.",
    "booking_unknown": "It may have been charged. Ask get_prediction for the request_id.",
    "budget_exceeded": "Wait for the budget's next period, or have the key's budget raised.",
    "canceled": "Somebody of the account canceled it. Call again if it is still wanted.",
    "capacity": _AGAIN,
    "client_gone": "Nobody waited for the answer. Call again if it is still wanted.",
    "concurrency_limited": "Wait for calls that run to end, then try again.",
    "database_unavailable": _AGAIN,
    "deadline": "Nothing was charged. Give more time, or a smaller input.",
    "files_unavailable": _AGAIN,
    "forbidden": "Use a key with the scope that the detail names.",
    "idempotency_in_flight": "Repeat the same call in a moment to get the first one's answer.",
    "idempotency_mismatch": "Take a new idempotency_key for another model or input.",
    "insufficient_credit": "Somebody of the account has to buy credit in its wallet.",
    "internal": _REPORT,
    "invalid_deadline": "Correct the header that limits the time.",
    "invalid_parameter": "Correct the parameter that the detail names.",
    "invalid_tag": "Correct the header Strongroom-Tag, or leave it out.",
    "invalid_tensor": "Correct the input by the input_schema of get_model.",
    "invoice_past_due": "Somebody of the account has to pay the invoice.",
    "job_queue_full": "Nothing was charged. Wait for retry_after_s, or use another model.",
    "maximum_cost": "Nothing ran. Raise max_cost_usd, or ask for less; see estimate_price.",
    "method_not_allowed": "Send messages by POST; no stream and no session is offered here.",
    "model_failed": "Nothing was charged. Try another input, or tell the model's creator.",
    "model_not_allowed": "Use another model, or a key that was made for this one.",
    "model_not_ready": "Nothing was charged. Wait for retry_after_s, or use another model.",
    "model_waking": "It is being loaded. Nothing was charged. Call again after retry_after_s.",
    "network_not_allowed": "Use the key from a network that it was made for.",
    "not_found": "Look for the name with search_models.",
    "output_invalid": "Nothing was charged. Tell the model's creator.",
    "media_too_large": "Nothing was charged. Ask for less at once: a shorter text, a smaller size.",
    "output_removed": "It was charged before, and its output is gone. A new key runs it again.",
    "payload_too_large": "Send a smaller input.",
    "price_unbounded": "Limit the output, such as with max_new_tokens.",
    "query_budget_exceeded": "Wait for the next day (UTC), or use another model.",
    "query_budget_spent": "Use another model; only this one's creator can raise the budget.",
    "queue_full": _AGAIN,
    "rate_limited": "Wait as long as retry_after_s says, then try again.",
    "receipt_pending": "Ask again within a minute.",
    "request_timeout": "Send the whole request at once.",
    "stream_broken": "What was delivered was charged. Call again for a new answer.",
    "stream_with_key": "Leave out either the key or the stream.",
    "test_key_forbidden": "Use a live key, or a model of the key's own account.",
    "triton_unavailable": _AGAIN,
    "unauthenticated": "Send a valid key as `Authorization: Bearer <key>`.",
    "units_exceed_limit": "Ask for less in one call.",
    "unsupported_parameter": "Leave out the parameter that the detail names.",
    "validation": "Correct what errors names; get_model has the input_schema.",
    "wake_queue_full": _AGAIN,
}
