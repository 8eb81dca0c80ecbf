"""Language models from safetensors: embeddings and text generation on the CPU.

The class comes from our list and the sizes from the checked configuration; nothing is
ever loaded "from a folder". Generation is a loop of our own, so that it can be cancelled
between two tokens, counts them, and needs none of the library's lazily loaded parts.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.artifact import tokenizer as tokenizer_files
from inference.artifact import transformers_config as config_files
from inference.artifact.errors import ArtifactError
from inference.artifact.safetensors import SafetensorsHeader, parse_header
from inference.artifact.tokenizer import TokenizerSettings
from inference.artifact.transformers_config import FEATURE_EXTRACTION, ModelConfig
from inference.artifact.transformers_interface import MESSAGES, Roles, find_roles
from inference.serving import environment
from inference.serving.decryption import PlainFile
from inference.serving.errors import CancelledError, LoadError, RequestError
from inference.serving.runtimes.base import Arrays, IsCancelled
from inference.serving.runtimes.chat import ChatTemplate, read_messages
from inference.serving.runtimes.detokenise import Detokeniser
from strongroom.interface import Interface, Output

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

# transformers takes them along where they are, for training and for clouds.
_UNUSED_LIBRARIES = ("accelerate", "boto3", "botocore", "pandas", "scipy", "sklearn")
DEFAULT_NEW_TOKENS = 256
# A request that wants more should be several.
MAX_NEW_TOKENS = 8_192
MAX_TEMPERATURE = 10.0


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How one answer is made; a temperature of 0 takes the likeliest token each time."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer."""

    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str


class TransformersRuntime:
    """One language model."""

    def __init__(self, *, threads: int) -> None:
        self.can_batch = False
        self._threads = threads
        self._config: ModelConfig | None = None
        self._settings = TokenizerSettings()
        self._pooling = "mean"
        self._max_tokens = 0
        self._eos: frozenset[int] = frozenset()
        self._sources: list[tuple[PlainFile, SafetensorsHeader]] = []
        self._tokenizer: Tokenizer | None = None
        self._template: ChatTemplate | None = None
        self._interface: Interface | None = None
        self._roles: Roles | None = None
        self._model: Any = None

    def import_libraries(self) -> None:
        """Import torch and every class that may be built, which takes seconds."""
        with environment.without(*_UNUSED_LIBRARIES):
            import torch
            import transformers
            import transformers.cache_utils
            import transformers.masking_utils
            import transformers.modeling_outputs

            for name in config_files.ARCHITECTURES:
                getattr(transformers, name)
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(self._threads)

    def validate(self, files: Sequence[PlainFile], interface: Interface) -> dict[str, Any]:
        """Check configuration, tokenizer and headers; match the interface to the task.

        Raises:
            ArtifactError: A file may not be served.
        """
        config = self._read_configs([one for one in files if one.kind == "config"])
        self._roles = find_roles(config, interface)
        self._interface = interface
        self.can_batch = config.task == FEATURE_EXTRACTION
        self._read_tokenizer(config, files)
        if MESSAGES in self._roles.settings and self._template is None:
            detail = "The interface takes messages; that needs a chat template, and there is none."
            raise ArtifactError("interface_mismatch", detail)
        parameters = 0
        for one in files:
            if one.kind == "labels":
                tokenizer_files.check_labels(one.data)
            if one.kind == "safetensors":
                header = parse_header(one.data)
                parameters += header.parameter_count
                self._sources.append((one, header))
        return {
            "architecture": config.architecture,
            "task": config.task,
            "parameters": parameters,
            "tensors": sum(len(header.tensors) for _, header in self._sources),
            "context_tokens": config.context_tokens,
            "stripped_config": list(config.stripped),
            "chat_template": self._settings.chat_template is not None,
        }

    def build(self) -> None:
        """Build the class on "meta" and point its parameters at the plain files.

        Raises:
            ArtifactError: `weights_mismatch`.
            LoadError: `model_invalid`: the library refuses the configuration.
        """
        import torch
        import transformers

        from inference.serving.runtimes.weights import fill_model

        assert self._config is not None
        model_class = getattr(transformers, self._config.architecture)
        extra = {} if model_class.__name__ not in _HAS_POOLER else {"add_pooling_layer": False}
        try:
            config = model_class.config_class(**self._config.values)
            with torch.device("meta"):
                model = model_class(config, **extra)
        except Exception as error:  # noqa: BLE001 - configurations are checked by many hands
            detail = f"The library refuses the configuration ({type(error).__name__})."
            raise LoadError("model_invalid", detail) from None
        for one, header in self._sources:
            one.buffer.align(header.data_begin)
        fill_model(model, [(one.data, header) for one, header in self._sources])
        self._model = model.eval()

    def run(self, inputs: Arrays, is_cancelled: IsCancelled) -> Arrays:
        """Run rows; see `Runtime.run`."""
        assert self._config is not None
        if self._config.task == FEATURE_EXTRACTION:
            return self._embed(inputs)
        return self._generate_rows(inputs, is_cancelled)

    def stream(self, inputs: Arrays, is_cancelled: IsCancelled) -> Iterator[dict[str, np.ndarray]]:
        """Generate one row, piece by piece; see `StreamingRuntime.stream`."""
        assert self._tokenizer is not None
        [prompt] = self._texts(inputs)
        prompt_ids = self._encode(prompt, inputs, 0)
        tokens = self._tokens(prompt_ids, self._row(inputs, 0), is_cancelled)
        text = Detokeniser(self._decode_tokens)
        count = 0
        while True:
            try:
                token = next(tokens)
            except StopIteration as end:
                finish_reason = end.value
                break
            count += 1
            piece = text.push(token)
            if piece:
                yield self._arrange_named(piece, {"tokens_out": np.array([count])})
        beside = {
            "tokens_in": np.array([len(prompt_ids)]),
            "tokens_out": np.array([count]),
            "finish_reason": _texts_array([finish_reason]),
        }
        yield self._arrange_named(text.finish(), beside)

    def close(self) -> None:
        """Let go of model and tokenizer."""
        self._model = None
        self._tokenizer = None
        self._sources = []

    # --- Files ---

    def _read_configs(self, files: Sequence[PlainFile]) -> ModelConfig:
        by_path = {one.path: one for one in files}
        main = by_path.pop("config.json", None)
        if main is None:
            raise ArtifactError("file_missing", "There is no config.json.")
        self._config = config = config_files.parse_config(main.data)
        self._eos = config.eos_token_ids
        self._max_tokens = config.context_tokens
        for path, one in by_path.items():
            name = path.rpartition("/")[2]
            if path == "generation_config.json":
                self._eos |= config_files.parse_generation_tokens(one.data)
            elif path.endswith("_Pooling/config.json"):
                self._pooling = config_files.parse_pooling(one.data)
            elif name == "sentence_bert_config.json":
                length = config_files.parse_sentence_length(one.data)
                self._max_tokens = min(self._max_tokens, length or self._max_tokens)
            else:
                config_files.check_unused(one.data)
        return config

    def _read_tokenizer(self, config: ModelConfig, files: Sequence[PlainFile]) -> None:
        settings = []
        for one in files:
            if one.kind == "tokenizer":
                self._tokenizer = tokenizer_files.load_tokenizer(
                    one.data, vocab_size=config.vocab_size
                )
            elif one.kind == "tokenizer_config" and one.path.endswith(".jinja"):
                settings.append(tokenizer_files.parse_template(one.data))
            elif one.kind == "tokenizer_config":
                settings.append(tokenizer_files.parse_settings(one.data))
        self._settings = tokenizer_files.merge_settings(settings)
        assert self._tokenizer is not None
        eos = self._tokenizer.token_to_id(self._settings.special_tokens.get("eos_token", ""))
        if eos is not None:
            self._eos |= {eos}
        if self._settings.chat_template is not None:
            self._template = ChatTemplate(
                self._settings.chat_template, self._settings.special_tokens
            )
        self._max_tokens = min(self._max_tokens, self._settings.model_max_length or 1 << 30)
        if config.task == FEATURE_EXTRACTION:
            pad = config.values.get("pad_token_id") or 0
            self._tokenizer.enable_truncation(max_length=self._max_tokens)
            self._tokenizer.enable_padding(pad_id=pad if isinstance(pad, int) else 0)
        else:
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()

    # --- Embeddings ---

    def _embed(self, inputs: Arrays) -> Arrays:
        import torch

        assert self._tokenizer is not None
        assert self._config is not None
        encoded = self._tokenizer.encode_batch(self._texts(inputs))
        mask = torch.tensor([one.attention_mask for one in encoded])
        feeds = {"input_ids": torch.tensor([one.ids for one in encoded]), "attention_mask": mask}
        if self._config.architecture == "BertModel":
            feeds["token_type_ids"] = torch.tensor([one.type_ids for one in encoded])
        with torch.inference_mode():
            hidden = self._model(**feeds).last_hidden_state.float()
            pooled = hidden[:, 0] if self._pooling == "cls" else _mean(hidden, mask)
            vectors = torch.nn.functional.normalize(pooled, dim=1)
        return self._arrange(vectors.numpy(), {"tokens_in": mask.sum(1).numpy()})

    # --- Generation ---

    def _generate_rows(self, inputs: Arrays, is_cancelled: IsCancelled) -> Arrays:
        assert self._tokenizer is not None
        prompts = self._texts(inputs)
        answers = [
            self._generate(self._encode(prompt, inputs, row), self._row(inputs, row), is_cancelled)
            for row, prompt in enumerate(prompts)
        ]
        texts = [self._decode_tokens(one.token_ids) for one in answers]
        return self._arrange(
            _texts_array(texts),
            {
                "tokens_in": np.array([one.prompt_tokens for one in answers]),
                "tokens_out": np.array([len(one.token_ids) for one in answers]),
                "finish_reason": _texts_array([one.finish_reason for one in answers]),
            },
        )

    def _encode(self, prompt: str, inputs: Arrays, row: int) -> list[int]:
        assert self._tokenizer is not None
        if self._template is None:
            return list(self._tokenizer.encode(prompt).ids)
        given = self._value(inputs, MESSAGES, row)
        if given:
            return self._render(read_messages(_decode(given)))
        messages = [{"role": "user", "content": prompt}]
        system = self._value(inputs, "system_prompt", row)
        if system:
            messages.insert(0, {"role": "system", "content": _decode(system)})
        return self._render(messages)

    def _render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        assert self._tokenizer is not None
        assert self._template is not None
        text = self._template.render(messages)
        # The template has written the special tokens already.
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _row(self, inputs: Arrays, row: int) -> GenerationSettings:
        assert self._interface is not None
        limit = MAX_NEW_TOKENS
        for one in self._interface.inputs:
            if one.name == "max_new_tokens" and one.maximum is not None:
                limit = min(limit, int(one.maximum))
        wanted = self._value(inputs, "max_new_tokens", row)
        seed = self._value(inputs, "seed", row)
        temperature = self._value(inputs, "temperature", row)
        top_p = self._value(inputs, "top_p", row)
        top_k = self._value(inputs, "top_k", row)
        return GenerationSettings(
            max_new_tokens=max(1, min(limit, int(wanted or DEFAULT_NEW_TOKENS))),
            temperature=min(MAX_TEMPERATURE, max(0.0, float(temperature or 0.0))),
            top_p=min(1.0, float(top_p)) if top_p else 1.0,
            top_k=max(0, int(top_k or 0)),
            # A negative seed asks for chance, like none.
            seed=int(seed) if seed is not None and seed >= 0 else None,
        )

    def _generate(
        self, prompt_ids: list[int], settings: GenerationSettings, is_cancelled: IsCancelled
    ) -> Generated:
        tokens = self._tokens(prompt_ids, settings, is_cancelled)
        answer: list[int] = []
        while True:
            try:
                answer.append(next(tokens))
            except StopIteration as end:
                return Generated(answer, len(prompt_ids), end.value)

    def _tokens(
        self, prompt_ids: list[int], settings: GenerationSettings, is_cancelled: IsCancelled
    ) -> Generator[int, None, str]:
        """The tokens of the answer, as they are made; returns why it ended."""
        import torch
        from transformers import DynamicCache

        room = self._max_tokens - len(prompt_ids)
        if not prompt_ids or room < 1:
            detail = f"The prompt has {len(prompt_ids)} tokens; 1 to {self._max_tokens - 1} fit."
            raise RequestError("input_too_long", detail, is_input_fault=True)
        random = torch.Generator()
        random.manual_seed(_fresh_seed() if settings.seed is None else settings.seed)
        cache = DynamicCache(config=self._model.config)
        next_ids = torch.tensor([prompt_ids])
        for _ in range(min(room, settings.max_new_tokens)):
            if is_cancelled():
                raise CancelledError
            # Entered for each step: between two of them others run on this thread.
            with torch.inference_mode():
                logits = (
                    self._model(
                        input_ids=next_ids, past_key_values=cache, use_cache=True, logits_to_keep=1
                    )
                    .logits[0, -1]
                    .float()
                )
                token = _choose(logits, settings, random)
            if token in self._eos:
                return "stop"
            yield token
            next_ids = torch.tensor([[token]])
        return "length"

    def _decode_tokens(self, token_ids: Sequence[int]) -> str:
        assert self._tokenizer is not None
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    # --- Wire ---

    def _texts(self, inputs: Arrays) -> list[str]:
        assert self._interface is not None
        assert self._roles is not None
        for one, array in zip(self._interface.inputs, inputs, strict=True):
            if one.name == self._roles.text:
                return [_decode(text) for text in array.ravel()]
        raise AssertionError(self._roles.text)

    def _value(self, inputs: Arrays, name: str, row: int) -> Any:
        assert self._interface is not None
        for one, array in zip(self._interface.inputs, inputs, strict=True):
            if one.name == name:
                return array[row].ravel()[0]
        return None

    def _arrange(self, result: np.ndarray, beside: Mapping[str, np.ndarray]) -> Arrays:
        """The outputs in the interface's order, in its types."""
        assert self._interface is not None
        assert self._roles is not None
        named = {**beside, self._roles.result: result}
        return [_shape(one, named[one.name]) for one in self._interface.wire_outputs]

    def _arrange_named(self, piece: str, beside: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A piece of one row's text, and what is known beside it, by output."""
        assert self._interface is not None
        assert self._roles is not None
        named = {**beside, self._roles.result: _texts_array([piece])}
        outputs = self._interface.wire_outputs
        return {one.name: _shape(one, named[one.name]) for one in outputs if one.name in named}


_HAS_POOLER = frozenset({"BertModel", "RobertaModel"})
_INTEGERS = {"INT64": np.int64, "INT32": np.int32}


def _shape(one: Output, array: np.ndarray) -> np.ndarray:
    """An array as the interface promises it."""
    if one.datatype in _INTEGERS:
        array = array.astype(_INTEGERS[one.datatype])
    return array.reshape(len(array), *one.wire_shape)


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that are not padding."""
    weights = mask[..., None].float()
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _choose(logits: torch.Tensor, settings: GenerationSettings, random: torch.Generator) -> int:
    import torch

    if not torch.isfinite(logits).all():
        raise RequestError("output_not_finite", "The model's scores are not finite numbers.")
    if settings.temperature == 0.0:
        return int(logits.argmax())
    logits = logits / settings.temperature
    if 0 < settings.top_k < len(logits):
        least = logits.topk(settings.top_k).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities, order = logits.softmax(0).sort(descending=True)
    if settings.top_p < 1.0:
        # The first token always stays, the last one is the one that reaches the sum.
        above = probabilities.cumsum(0) - probabilities >= settings.top_p
        probabilities = probabilities.masked_fill(above, 0.0)
    return int(order[torch.multinomial(probabilities, 1, generator=random)])


def _fresh_seed() -> int:
    return int.from_bytes(os.urandom(7), "big")


def _decode(text: Any) -> str:
    try:
        return bytes(text).decode() if isinstance(text, bytes) else str(text)
    except UnicodeDecodeError:
        detail = "A text is not UTF-8."
        raise RequestError("input_invalid", detail, is_input_fault=True) from None


def _texts_array(texts: Sequence[str]) -> np.ndarray:
    return np.array([one.encode() for one in texts], dtype=object)
