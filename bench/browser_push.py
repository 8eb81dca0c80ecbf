"""Push a large model from Chromium, and watch what the page's process holds of it.

    .venv/bin/python -m bench.browser_push [--megabytes 269] [--home HOME]

Makes a folder of random weights, pushes it with the command line and then from the dashboard's
page, to a product started for that (or one that runs already, in HOME). Prints megabytes a second
of both, and of the processes of Chromium the private memory before and at its peak. 1 if the page's
process held more than half of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from playwright.sync_api import sync_playwright

from bench import product
from embedded.descendants import list_descendants
from tests.e2e.conftest import ARGUMENTS, NAMES
from tests.e2e.terminal import Creator
from tests.stack import Stack

MEGABYTES = 269
SHARE_MAX = 0.5
_MB = 10**6
_SAMPLE_S = 0.05
_PUSH_TIMEOUT_MS = 600_000


def main() -> int:
    """Push twice and print."""
    options = _parse()
    with (
        tempfile.TemporaryDirectory(prefix="strongroom-push-") as name,
        contextlib.ExitStack() as on,
    ):
        folder = Path(name)
        running = _attach(options.home) if options.home else on.enter_context(product.run(folder))
        model = folder / f"large-{secrets.token_hex(3)}"
        size_bytes = write_model(model, options.megabytes * _MB)
        cli_rate = push_with_cli(running, folder, model, size_bytes)
        rate, memory = push_with_browser(running, model, size_bytes)
    print(f"model                     {size_bytes / _MB:8.1f} MB")
    print(f"strongroom push           {cli_rate:8.1f} MB/s")
    print(f"browser                   {rate:8.1f} MB/s   {rate / cli_rate:.2f}x of the above")
    for kind in sorted(memory.before):
        print(
            f"{kind:<16} private  {memory.before[kind] / _MB:8.1f} MB before, "
            f"{memory.peak[kind] / _MB:8.1f} MB at its peak"
        )
    grown = memory.peak["renderer"] - memory.before["renderer"]
    print(f"the page grew by          {grown / _MB:8.1f} MB, {grown / size_bytes:.2f} of the file")
    return int(grown > SHARE_MAX * size_bytes)


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    parser.add_argument("--home", type=Path, help="of a product that runs already")
    return parser.parse_args(arguments)


def _attach(home: Path) -> Stack:
    return Stack(home, SimpleNamespace(pid=0), home / "output.txt")


def write_model(folder: Path, size_bytes: int) -> int:
    """A folder that looks like a language model, with random weights; its size."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    entry = {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for begin in range(0, size_bytes, _MB):
            file.write(os.urandom(min(_MB, size_bytes - begin)))
    return sum(path.stat().st_size for path in folder.iterdir())


def push_with_cli(running: Stack, folder: Path, model: Path, size_bytes: int) -> float:
    """Megabytes a second of `strongroom push`."""
    creator = Creator(running, folder)
    (folder / "vectors.json").write_text("[]")
    creator.init(model.name, title="Large", price="0.001", task="text-generation")
    begin = time.perf_counter()
    creator.run("push", model.name)
    took_s = time.perf_counter() - begin
    # The page drafts a listing of its own.
    (model / "strongroom.toml").unlink()
    return size_bytes / took_s / _MB


def push_with_browser(running: Stack, model: Path, size_bytes: int) -> tuple[float, Memory]:
    """Megabytes a second from the press of the button to the version's page, and the memory."""
    program = next(path for name in NAMES if (path := shutil.which(name)))
    login = running.demo["creator"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = chromium.new_page(base_url=running.demo["web_url"])
        page.goto("/login")
        page.fill("input[name=email]", login["email"])
        page.fill("input[name=password]", login["password"])
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/login" not in url)
        page.goto("/dashboard/push?account=demo")
        with page.expect_download():
            page.click("#setup-save")
        page.check("#setup-confirm")
        page.click("#setup-done")
        page.set_input_files("#folder", model)
        page.wait_for_selector("#listing:not([hidden])")
        for name, text in {"title": "Large", "licence": "MIT", "price": "0.001"}.items():
            page.fill(f"#listing-{name}", text)
        with watch() as memory:
            begin = time.perf_counter()
            page.click("#listing-push")
            page.wait_for_url("**/panels/onboarding/*", timeout=_PUSH_TIMEOUT_MS)
            took_s = time.perf_counter() - begin
        chromium.close()
    return size_bytes / took_s / _MB, memory


@dataclass
class Memory:
    """Private bytes by kind of process: the largest of the kind."""

    before: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def watch() -> Iterator[Memory]:
    """Sample the processes of Chromium until the end."""
    memory = Memory(measure(), measure())
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(_SAMPLE_S):
            for kind, size_bytes in measure().items():
                memory.peak[kind] = max(memory.peak.get(kind, 0), size_bytes)
                memory.before.setdefault(kind, 0)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield memory
    finally:
        is_over.set()
        thread.join()


def measure() -> dict[str, int]:
    """Private memory, resident or swapped, of the largest process of each kind."""
    found: dict[str, int] = {}
    for pid in list_descendants(os.getpid()):
        try:
            # Processes that Chromium forks write their arguments with spaces.
            words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").split()
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        if not words or "chrom" not in words[0]:
            continue
        kind = next((word[7:] for word in words if word.startswith("--type=")), "browser")
        sizes = dict(line.split(":", 1) for line in lines[1:])
        names = ("Private_Clean", "Private_Dirty", "Swap")
        size_bytes = sum(int(sizes[name].split()[0]) for name in names) * 1024
        found[kind] = max(found.get(kind, 0), size_bytes)
    return found


if __name__ == "__main__":
    sys.exit(main())
