"""What a creator can do about a reason code.

Codes are stable words for programs; these are the sentences for people. Every code that a
step of onboarding can end with has one.
"""

from __future__ import annotations

from collections.abc import Mapping

FALLBACK = "Nobody has written down what to do about this code. Ask support, and name it."

_AGAIN = "This was not your model's fault. Push it again; if it happens twice, ask support."
_RESEND = "The upload was damaged on its way or in our store. Push the version again."
_SEAL_AGAIN = "The version was not sealed for this upload. Push it again with the current CLI."
_EXPORT = "Export the model to ONNX again and check it with onnx.checker before you push it."
_ONNX_SIMPLER = (
    "The graph is larger or deeper than what is served. Export a simpler graph, without unrolled "
    "loops."
)
_SAFETENSORS = (
    "The file is not what safetensors writes. Save the weights again with "
    "safetensors.torch.save_file."
)
_TOKENIZER = "Save the tokenizer again with tokenizer.save_pretrained, and push its tokenizer.json."
_CONFIG = "Push the config.json that model.save_pretrained wrote, without additions of your own."
_CONVERT = (
    "This format can run code when it is opened, so it is never loaded. Convert the weights to "
    "safetensors, or the model to ONNX, on your own machine."
)
_MANIFEST = "The manifest breaks a rule. Push the version again with the current CLI."
_INTERFACE = (
    "Names, types or shapes in strongroom.toml differ from the model's own. Run strongroom init "
    "again and compare."
)
_OUTPUT = (
    "The model answered something that its interface does not allow. Correct the outputs in "
    "strongroom.toml, or the model."
)

REMEDIES: Mapping[str, str] = {
    # The version as a whole.
    "refused": "A reviewer refused this version; the reason stands in the log. Push a new version.",
    "withdrawn": "The version was withdrawn. Push a new version to go on.",
    "stopped": "The version left this step by another way. Its state says more.",
    "step_timeout": _AGAIN,
    "upload_expired": "The upload was not finished in time. Push the version again.",
    "upload_aborted": "The upload was given up. Push the version again.",
    # Upload and seal.
    "part_missing": _RESEND,
    "part_reordered": _RESEND,
    "part_checksum_mismatch": _RESEND,
    "part_size_mismatch": _RESEND,
    "artifact_corrupt": _RESEND,
    "tampered": _RESEND,
    "manifest_mismatch": _MANIFEST,
    "manifest_too_large": "Leave out test vectors or labels: a manifest has at most 1 MiB.",
    "manifest_not_json": _MANIFEST,
    "manifest_not_canonical": _MANIFEST,
    "member_missing": _MANIFEST,
    "member_invalid": _MANIFEST,
    "unknown_member": _MANIFEST,
    "policy_invalid": "Correct the table [policy] in strongroom.toml and push again.",
    "output_policy_invalid": (
        "A rule below [policy.output] names no output of plain floats. Correct it and push again."
    ),
    "unknown_content_format": _MANIFEST,
    "header_invalid": _SEAL_AGAIN,
    "header_tag_invalid": _SEAL_AGAIN,
    "key_wrap_invalid": _SEAL_AGAIN,
    "not_found": _SEAL_AGAIN,
    "signature_invalid": "Sign with the key that is registered for this account, and push again.",
    "signing_key_revoked": "Make a new signing key with strongroom login, and push again.",
    "base64_invalid": _MANIFEST,
    "suite_unsupported": "This CLI speaks no wrap that the platform takes. Update it, push again.",
    "shredded": "The key of this model was destroyed for good. Publish under a new model name.",
    # What may be in it at all.
    "pickle_refused": _CONVERT,
    "torchscript_refused": _CONVERT,
    "pt2_refused": _CONVERT,
    "python_file_refused": "Code of creators is never run here. Leave Python files out.",
    "archive_refused": "Push the files themselves, not an archive of them.",
    "gguf_refused": "Convert the weights to safetensors on your own machine.",
    "unknown_format": "Accepted are ONNX, and safetensors with config.json and tokenizer.json.",
    "runtime_unknown": "The runtime must be onnx or transformers.",
    "file_missing": "A file that this runtime needs is not there; the log names it. Push it too.",
    "file_unexpected": "A file does not belong to this runtime; the log names it. Leave it out.",
    # ONNX.
    "onnx_malformed": _EXPORT,
    "onnx_custom_op": (
        "The graph uses an operator that is not a standard one. Export it with operators of "
        "ai.onnx, ai.onnx.ml or com.microsoft."
    ),
    "onnx_external_data": (
        "External weights must lie in files of the manifest, beside the model. Export it with "
        "one external data file and push both."
    ),
    "onnx_initializer_size": _EXPORT,
    "onnx_initializer_type": "The graph holds weights of a type that is not served. Cast them.",
    "onnx_function_recursion": _EXPORT,
    "onnx_too_deep": _ONNX_SIMPLER,
    "onnx_too_many_nodes": _ONNX_SIMPLER,
    "onnx_sparse_refused": "Sparse weights are not served. Export dense ones.",
    "onnx_training_refused": "Training graphs are not served. Export the model for inference.",
    # Safetensors and transformers.
    "safetensors_dtype_refused": "A tensor has a type that is not served. Cast it and save again.",
    "safetensors_duplicate_key": "Two files hold a tensor of one name. Save the weights again.",
    "safetensors_header_malformed": _SAFETENSORS,
    "safetensors_header_too_large": "The header has more than 8 MiB. Drop its metadata.",
    "safetensors_hole": _SAFETENSORS,
    "safetensors_out_of_range": _SAFETENSORS,
    "safetensors_overlap": _SAFETENSORS,
    "safetensors_shape_mismatch": _SAFETENSORS,
    "safetensors_too_many_tensors": "Merge tensors, or split the model into several models.",
    "safetensors_trailing_bytes": _SAFETENSORS,
    "safetensors_truncated": "The file ends early. Save the weights again.",
    "weights_mismatch": "Weights and config.json do not belong together. Save both at once.",
    # The second scanner.
    "second_opinion_refused": (
        "A scanner for hostile models found something that is never served; the log names its "
        "rules. Look for code, addresses or odd templates in metadata, and push clean files."
    ),
    "second_opinion_failed": (
        "A scanner for hostile models could not look at all of the files; the log says why. Save "
        "them again in the plainest way, or ask support."
    ),
    "config_architecture_refused": (
        "This architecture is not served. See the list of architectures in the documentation."
    ),
    "config_quantized_refused": "Quantised weights are not served yet. Push bf16 or fp16.",
    "config_too_large": _CONFIG,
    "config_value_refused": _CONFIG,
    "config_invalid": _CONFIG,
    "config_malformed": _CONFIG,
    "tokenizer_malformed": _TOKENIZER,
    "tokenizer_too_large": "tokenizer.json has at most 32 MiB. Save a tokenizer of this model.",
    "tokenizer_refused": (
        "The tokenizer rewrites texts more than is allowed. Push the one of the base model."
    ),
    "tokenizer_vocab_mismatch": "The tokenizer has words that the model has not. Push its own one.",
    "chat_template_refused": "The chat template does more than is allowed. Use the model's own.",
    "chat_template_failed": "The chat template fails on your input. Try it with transformers.",
    "messages_invalid": "Give the test input a list of messages, each with a role and a content.",
    "labels_malformed": "The labels must be a JSON list of texts, one for each class.",
    "model_invalid": "The runtime does not take the model. Load it with the same library first.",
    "load_timeout": "The model took too long to load. Push a smaller one, or one with fewer files.",
    "load_failed": "The model did not load; the log quotes why. Load it on your machine first.",
    "out_of_memory": "The model needs more memory than a node has. Push a smaller one.",
    # Interface, tests, benchmark.
    "interface_invalid": _INTERFACE,
    "interface_mismatch": _INTERFACE,
    "test_vector_invalid": "A test vector does not fit the interface; the log names it.",
    "test_vector_mismatch": (
        "The model gave another output than your test vector expects. Make the vectors with "
        "these weights, or allow a larger tolerance."
    ),
    "canary_mismatch": (
        "The model passed its tests and then answered a test vector otherwise. Check that it "
        "gives the same answer every time; if it does, ask support: a node may be faulty."
    ),
    "benchmark_failed": (
        "The model failed while it was measured; the log quotes why. Give an example for each "
        "input that the model can take."
    ),
    "work_unknown": _AGAIN,
    "input_invalid": "The model refuses the input that was tried. Give an example for each input.",
    "input_too_long": "The example is longer than the model takes. Give a shorter one.",
    "model_failed": "The model failed while it ran; the log quotes why.",
    "output_invalid": _OUTPUT,
    "media_too_large": (
        "The sound or picture that the test vector leads to is larger than an answer can be. "
        "Take a smaller one, and limit the input so that none gets larger."
    ),
    "output_not_finite": "The model answered NaN or infinity. Check the weights and the example.",
    "cancelled": _AGAIN,
    # Ours.
    "node_unavailable": _AGAIN,
    "node_lost": _AGAIN,
    "node_timeout": _AGAIN,
    "node_unreachable": _AGAIN,
    "node_revoked": _AGAIN,
    "certificate_required": _AGAIN,
    "certificate_expired": _AGAIN,
    "certificate_invalid": _AGAIN,
    "certificate_mismatch": _AGAIN,
    "protocol_error": _AGAIN,
    "session_broken": _AGAIN,
    "stub_died": (
        "The serving process ended three times. Most often the model needs more memory than a "
        "node has; if it does not, ask support."
    ),
    "fetch_failed": _AGAIN,
    "disk_full": _AGAIN,
    "triton_unavailable": _AGAIN,
    "triton_start_failed": _AGAIN,
    "unload_failed": _AGAIN,
    "repository_conflict": _AGAIN,
    "model_not_ready": _AGAIN,
    "invalid_tensor": _INTERFACE,
    "keybroker_unavailable": _AGAIN,
    "kms_unavailable": _AGAIN,
    "object_store_unavailable": _AGAIN,
    "unavailable": _AGAIN,
    "deadline": _AGAIN,
    "lease_lost": _AGAIN,
    "lease_expired": _AGAIN,
    "lease_invalid": _AGAIN,
    "nonce_replayed": _AGAIN,
    "not_assigned": _AGAIN,
    "loader_not_allowed": _AGAIN,
    "evidence_insufficient": _AGAIN,
    "evidence_invalid": _AGAIN,
    "evidence_unavailable": _AGAIN,
    "version_not_approved": _AGAIN,
    "version_state": "The version is in use. Withdraw it first.",
    "too_many_platform_keys": _AGAIN,
    "sandbox_incomplete": _AGAIN,
    "sandbox_refused": _AGAIN,
    "sandbox_unsupported": _AGAIN,
    "landlock_required": (
        "Your version demands a sandbox that this node does not have. Leave sandbox out of "
        "[policy], or ask support for nodes that have Landlock."
    ),
    "internal_error": _AGAIN,
    "reason_unknown": FALLBACK,
}

# What a person who tries a model on its page can do; by the code that the gateway answers.
TRY_REMEDIES: Mapping[str, str] = {
    "insufficient_credit": "Buy credit, then run it again.",
    "budget_exceeded": "The budget of the account is used up. An owner can raise it.",
    "rate_limited": "Wait a minute and run it again.",
    "concurrency_limited": "Let what runs come to its end first.",
    "query_budget_exceeded": (
        "The creator limits how many different inputs an account may ask. Ask again tomorrow, or "
        "ask the creator for more."
    ),
    "model_not_ready": "A replica is being loaded. Run it again in a minute.",
    "model_waking": "The model slept and is being loaded. Run it again in a moment.",
    "wake_queue_full": "Many wait for models to be loaded. Run it again in a moment.",
    "capacity": "All replicas are busy. Run it again in a moment.",
    "model_failed": "The model could not compute this input. Try one of the examples.",
    "output_invalid": "The model answered what it does not promise. Tell its creator.",
    "media_too_large": "Ask for less at once: a shorter text, or a smaller size.",
    "deadline_exceeded": "It took too long. Ask for less, or use the API, which waits longer.",
    "account_suspended": "Ask support why the account was suspended.",
    "account_frozen": "A payment of the account is being looked into. Its wallet page says more.",
    "invoice_past_due": "Pay the invoice that is past due.",
    "gateway_unavailable": "Run it again in a moment.",
    "playground_busy": "Run it again in a moment, or use the API.",
    "canceled": "You ended it. What was delivered before is charged.",
    "stream_broken": "What was delivered is charged. Run it again for the whole answer.",
    "output_too_large": "Use one of the programs below.",
    "validation": "Correct the inputs that are marked.",
}


def find_try_remedy(code: str) -> str:
    """What to do about a code of the gateway; empty where nobody knows."""
    return TRY_REMEDIES.get(code, "")


def find_remedy(reason_code: str) -> str:
    """What to do about a code; a sentence also for one that nobody foresaw."""
    return REMEDIES.get(reason_code, FALLBACK)
