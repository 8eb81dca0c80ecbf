"""How quickly pages are there on a slow phone, as Chromium's own observers tell it.

    bin/up --home /tmp/home --plain        # in another terminal
    python -m bench.pages /tmp/home

Each page is opened in a fresh browser (nothing cached), with the processor slowed four times and
a line of 1.6 Mbit/s and 150 ms, as Lighthouse does for phones. The floor is a page of this server
that has no style, script or font: `/llms.txt` on the same line. Printed are medians.

- FCP, LCP: first and largest contentful paint. CLS: layout shift. TBT: what long tasks took above
  50 ms each, from the first paint to five seconds after the load.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.e2e.conftest import ARGUMENTS, find_program

RUNS = 5
LATENCY_MS = 150
BYTES_PER_S = 1_600_000 // 8
SLOWER_BY = 4
SETTLED_MS = 5_000
GOTO_TIMEOUT_MS = 120_000
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True}
FLOOR = "/llms.txt"
PAGES = {
    "": [FLOOR, "/", "/demo/digits", "/login"],
    "creator": ["/dashboard", "/dashboard/models/demo/digits/monitoring"],
    "consumer": ["/console", "/console/usage"],
    "admin": ["/platform", "/platform/reviews"],
}
# Filled in from the first byte on.
OBSERVE = """() => {
    window.seen = {lcp: 0, cls: 0, tbt: 0, fcp: 0}
    const watch = (type, note) => new PerformanceObserver(
        (list) => list.getEntries().forEach(note)).observe({type, buffered: true})
    watch("paint", (one) => {
        if (one.name === "first-contentful-paint") seen.fcp = one.startTime })
    watch("largest-contentful-paint", (one) => { seen.lcp = one.startTime })
    watch("layout-shift", (one) => { if (!one.hadRecentInput) seen.cls += one.value })
    watch("longtask", (one) => { seen.tbt += Math.max(0, one.duration - 50) })
}"""
READ = "() => seen"


@dataclass(frozen=True)
class Look:
    """One visit; times in ms."""

    fcp: float
    lcp: float
    cls: float
    tbt: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("home", type=Path, help="home of a running `bin/up`")
    demo = json.loads((parser.parse_args().home / "demo.json").read_text())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_program(), args=ARGUMENTS)
        floor_ms = 0.0
        print("page | FCP | LCP | TBT | CLS | LCP / floor")
        for person, paths in PAGES.items():
            state = sign_in(browser, demo, person) if person else None
            for path in paths:
                looks = [visit(browser, demo["web_url"], path, state) for _ in range(RUNS)]
                middle = Look(*(median(looks, name) for name in Look.__dataclass_fields__))
                floor_ms = floor_ms or middle.fcp
                print(
                    f"{path} | {middle.fcp:.0f} ms | {middle.lcp:.0f} ms | {middle.tbt:.0f} ms"
                    f" | {middle.cls:.3f} | {middle.lcp / floor_ms:.2f}"
                )
        browser.close()


def median(looks: list[Look], name: str) -> float:
    return statistics.median(getattr(one, name) for one in looks)


def sign_in(browser: Browser, demo: dict, person: str) -> dict:
    context = browser.new_context(base_url=demo["web_url"])
    page = context.new_page()
    page.goto("/login")
    page.fill("input[name=email]", demo[person]["email"])
    page.fill("input[name=password]", demo[person]["password"])
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/login" not in url)
    state = context.storage_state()
    context.close()
    return state


def visit(browser: Browser, url: str, path: str, state: dict | None) -> Look:
    """The first visit of a phone on a slow line."""
    context = browser.new_context(base_url=url, storage_state=state, **PHONE)
    try:
        page = context.new_page()
        slow_down(context, page)
        page.add_init_script(f"({OBSERVE})()")
        page.goto(path, wait_until="load", timeout=GOTO_TIMEOUT_MS)
        page.wait_for_timeout(SETTLED_MS)
        return Look(**page.evaluate(READ))
    finally:
        context.close()


def slow_down(context: BrowserContext, page: Page) -> None:
    send: Callable = context.new_cdp_session(page).send
    send("Network.enable")
    send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": LATENCY_MS,
            "downloadThroughput": BYTES_PER_S,
            "uploadThroughput": BYTES_PER_S,
        },
    )
    send("Emulation.setCPUThrottlingRate", {"rate": SLOWER_BY})


if __name__ == "__main__":
    main()
