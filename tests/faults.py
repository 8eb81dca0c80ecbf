"""What axe finds on a page."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]},
    "resultTypes": ["violations"],
}
# Until what fades in is there: half way it has too little contrast. And from the top: what lies
# half below the header that stays is a small target.
_STILL = """() => {
    scrollTo(0, 0);
    return Promise.all(document.getAnimations()
        .filter((one) => one.effect.getComputedTiming().endTime !== Infinity)
        .map((one) => one.finished.catch(() => {})));
}"""


# Panels fetch themselves; the page is complete when none is busy.
BUSY_PANELS = ".panel[aria-busy=true]"
_PANELS_TIMEOUT_MS = 20_000


def find_faults(page: Page) -> list[str]:
    """Faults of accessibility (WCAG 2.2 AA) of the complete page, each with its element."""
    expect(page.locator(BUSY_PANELS)).to_have_count(0, timeout=_PANELS_TIMEOUT_MS)
    page.evaluate(_STILL)
    found = Axe().run(page, options=RULES).response["violations"]
    return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]
