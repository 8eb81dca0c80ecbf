"""Programs that run one prediction, as text to copy: for each client the shortest that works.

They read the key from the environment. A page may put a key into the place of `key_slot`; that
happens in the browser, since keys are known to nobody else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from strongroom.interface import Input, Interface

# A longer input is no longer read in a listing; the program takes it from a file.
INLINE_BYTES_MAX = 32 * 1024
INPUT_FILE = "input.json"
_PYTHON_KEY = 'os.environ["STRONGROOM_API_KEY"]'
_NUMPY_TYPES = {"FP32": "float32", "FP64": "float64", "BOOL": "bool_", "BYTES": "object_"}


@dataclass(frozen=True, slots=True)
class Snippet:
    """One program. `slot_kind` says how a key stands at `key_slot`: bare, or as a string."""

    name: str
    label: str
    language: str
    text: str
    key_slot: str
    slot_kind: str = "string"
    # What has to be installed first.
    install: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """What the programs do.

    Args:
        gateway_url: Where the API is.
        model: `owner/name`.
        task: Of the model; it decides what OpenAI's client can ask for.
        interface: Of the version.
        values: Input name to value.
    """

    gateway_url: str
    model: str
    task: str
    interface: Interface
    values: Mapping[str, Any]

    @property
    def is_inline(self) -> bool:
        """Whether the input stands in the program itself."""
        return len(json.dumps(self.values)) <= INLINE_BYTES_MAX


def list_snippets(call: Call) -> list[Snippet]:
    """The programs for a model, without those whose client cannot call it."""
    makers = (_curl, _strongroom, _replicate, _openai, _tritonclient, _javascript)
    return [made for make in makers if (made := make(call)) is not None]


def _curl(call: Call) -> Snippet:
    if call.is_inline:
        body = json.dumps({"input": call.values}, ensure_ascii=False, separators=(",", ":"))
        # The one character that ends a quoted word of the shell.
        data = "'" + body.replace("'", "'\\''") + "'"
    else:
        data = f"@{INPUT_FILE}"
    text = (
        f"curl {call.gateway_url}/v1/models/{call.model}/predictions \\\n"
        '  -H "Authorization: Bearer $STRONGROOM_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  --data-binary {data}\n"
    )
    return Snippet("curl", "curl", "shell", text, "$STRONGROOM_API_KEY", "bare")


def _strongroom(call: Call) -> Snippet:
    text = (
        f"{_imports(call)}"
        "from strongroom import Client\n\n"
        f"{_python_input(call)}"
        f'client = Client("{call.gateway_url}", {_PYTHON_KEY})\n'
        f'prediction = client.predict("{call.model}", values)\n'
        "print(prediction.output)\n"
    )
    return _python("strongroom", "Python", text, "pip install strongroom")


def _replicate(call: Call) -> Snippet:
    text = (
        f"{_imports(call)}"
        "import replicate\n\n"
        f"{_python_input(call)}"
        "client = replicate.Client(\n"
        f'    base_url="{call.gateway_url}",\n'
        f"    api_token={_PYTHON_KEY},\n"
        ")\n"
        f'print(client.run("{call.model}", input=values))\n'
    )
    return _python("replicate", "Replicate", text, "pip install 'replicate<2'")


def _openai(call: Call) -> Snippet | None:
    spoken = [one for one in call.interface.inputs if one.kind == "text" and not one.format]
    texts = [one.name for one in spoken]
    asked = next((call.values[name] for name in texts if call.values.get(name)), None)
    if asked is None or not call.is_inline:
        return None
    match call.task:
        case "feature-extraction":
            use = (
                f'answer = client.embeddings.create(model="{call.model}", input={asked!r})\n'
                "print(answer.data[0].embedding)\n"
            )
        case "text-generation":
            use = (
                "answer = client.chat.completions.create(\n"
                f'    model="{call.model}",\n'
                f'    messages=[{{"role": "user", "content": {asked!r}}}],\n'
                f"{_openai_limit(call)}"
                ")\n"
                "print(answer.choices[0].message.content)\n"
            )
        case _:
            return None
    text = (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{call.gateway_url}/openai/v1", api_key={_PYTHON_KEY})\n{use}'
    )
    return _python("openai", "OpenAI", text, "pip install openai")


def _openai_limit(call: Call) -> str:
    limit = call.values.get("max_new_tokens")
    return f"    max_tokens={limit},\n" if type(limit) is int else ""


def _tritonclient(call: Call) -> Snippet:
    parts = urlsplit(call.gateway_url)
    is_tls = ", ssl=True" if parts.scheme == "https" else ""
    given = [one for one in call.interface.inputs if one.name in call.values]
    arrays = "".join(_array(one) for one in given)
    text = (
        f"{_imports(call)}"
        "import numpy as np\n"
        "import tritonclient.http as triton\n\n"
        f"{_python_input(call)}"
        "# Each tensor has the batch as its first axis.\n"
        f"arrays = {{\n{arrays}}}\n"
        "inputs = []\n"
        "for name, (datatype, array) in arrays.items():\n"
        "    inputs.append(triton.InferInput(name, list(array.shape), datatype))\n"
        "    inputs[-1].set_data_from_numpy(array)\n"
        f'client = triton.InferenceServerClient("{parts.netloc}"{is_tls})\n'
        "answer = client.infer(\n"
        f'    "{call.model}",\n'
        "    inputs,\n"
        f'    headers={{"Authorization": "Bearer " + {_PYTHON_KEY}}},\n'
        ")\n"
        'for output in answer.get_response()["outputs"]:\n'
        '    print(output["name"], answer.as_numpy(output["name"]))\n'
    )
    return _python("tritonclient", "Triton", text, "pip install 'tritonclient[http]'")


def _array(one: Input) -> str:
    kind = _NUMPY_TYPES.get(one.datatype, one.datatype.lower())
    value = f"values[{one.name!r}]"
    if one.datatype == "BYTES":
        made = f"np.array([[{value}.encode()]], np.{kind})"
    elif one.wire_shape.count(-1) > 1:
        made = f"np.array([{value}], np.{kind})"
    else:
        shape = ", ".join(str(length) for length in (1, *one.wire_shape))
        made = f"np.array({value}, np.{kind}).reshape({shape})"
    return f'    {one.name!r}: ("{one.datatype}", {made}),\n'


def _javascript(call: Call) -> Snippet:
    given = "{ input }"
    begin = ""
    if call.is_inline:
        shown = json.dumps(call.values, ensure_ascii=False, separators=(", ", ": "))
        # Two ends of a line that JSON allows in a string and old engines do not.
        shown = shown.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        begin = f"const input = {shown};\n"
    else:
        begin = (
            'import { readFile } from "node:fs/promises";\n\n'
            f'const {{ input }} = JSON.parse(await readFile("{INPUT_FILE}", "utf8"));\n'
        )
    text = (
        f"{begin}"
        f'const url = "{call.gateway_url}/v1/models/{call.model}/predictions";\n'
        "const response = await fetch(url, {\n"
        '  method: "POST",\n'
        "  headers: {\n"
        '    "Authorization": "Bearer " + process.env.STRONGROOM_API_KEY,\n'
        '    "Content-Type": "application/json",\n'
        "  },\n"
        f"  body: JSON.stringify({given}),\n"
        "});\n"
        "const prediction = await response.json();\n"
        "if (!response.ok) throw new Error(prediction.detail);\n"
        "console.log(prediction.output);\n"
    )
    return Snippet("javascript", "JavaScript", "javascript", text, "process.env.STRONGROOM_API_KEY")


def _python(name: str, label: str, text: str, install: str) -> Snippet:
    return Snippet(name, label, "python", text, _PYTHON_KEY, install=install)


def _imports(call: Call) -> str:
    return "import os\n\n" if call.is_inline else "import json\nimport os\n\n"


def _python_input(call: Call) -> str:
    if call.is_inline:
        return f"values = {dict(call.values)!r}\n"
    return f'with open("{INPUT_FILE}") as file:\n    values = json.load(file)["input"]\n'
