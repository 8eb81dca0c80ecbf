"""Tiny language models with random weights, and tokenizers to match."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

CORPUS = ["hello world the cat sat on the mat and looked at the dog"] * 10
HIDDEN_SIZE = 32
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ bos_token }}{{ message.role }} {{ message.content }} "
    "{% endfor %}{% if add_generation_prompt %}the {% endif %}"
)
GENERATION_INTERFACE: dict[str, Any] = {
    "inputs": [
        {"name": "prompt", "kind": "text"},
        {
            "name": "max_new_tokens",
            "kind": "integer",
            "required": False,
            "default": 12,
            "minimum": 1,
            "maximum": 20,
        },
        {"name": "temperature", "kind": "number", "required": False, "default": 0, "minimum": 0},
        {"name": "seed", "kind": "integer", "required": False, "default": -1},
    ],
    "outputs": [
        {"name": "text", "kind": "text"},
        {"name": "tokens_in", "kind": "integer"},
        {"name": "tokens_out", "kind": "integer"},
        {"name": "finish_reason", "kind": "text"},
    ],
    "batch": {"max_size": 2, "leading_axis": True},
}
EMBEDDING_INTERFACE: dict[str, Any] = {
    "inputs": [{"name": "text", "kind": "text"}],
    "outputs": [
        {"name": "embedding", "kind": "tensor", "datatype": "FP32", "shape": [HIDDEN_SIZE]},
        {"name": "tokens_in", "kind": "integer"},
    ],
    "batch": {"max_size": 8, "leading_axis": True},
}

Files = dict[str, tuple[str, bytes]]


@cache
def byte_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@cache
def word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@cache
def llama() -> LlamaForCausalLM:
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=byte_tokenizer().get_vocab_size(),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        architectures=["LlamaForCausalLM"],
    )
    return LlamaForCausalLM(config).eval()


@cache
def bert() -> BertModel:
    torch.manual_seed(12)
    config = BertConfig(
        vocab_size=word_tokenizer().get_vocab_size(),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        architectures=["BertModel"],
    )
    return BertModel(config).eval()


def llama_files(*, chat_template: str = "", **config: Any) -> Files:
    model = llama()
    tensors = {name: one for name, one in model.state_dict().items() if name != "lm_head.weight"}
    files = _files(model.config.to_dict() | config, save(tensors), byte_tokenizer())
    if chat_template:
        settings = {"chat_template": chat_template, "bos_token": {"content": "<s>"}}
        files["tokenizer_config.json"] = ("tokenizer_config", json.dumps(settings).encode())
    return files


def bert_files(**config: Any) -> Files:
    model = bert()
    return _files(model.config.to_dict() | config, save(model.state_dict()), word_tokenizer())


def _files(config: dict[str, Any], weights: bytes, tokenizer: Tokenizer) -> Files:
    return {
        "config.json": ("config", json.dumps(config).encode()),
        "model.safetensors": ("safetensors", weights),
        "tokenizer.json": ("tokenizer", tokenizer.to_str().encode()),
    }
