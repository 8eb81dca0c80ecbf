"""A person who has no mouse: Tab, letters, Space and Enter, and what the focus is on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

# Of one page, from its first link to its last: more is a trap.
TABS_MAX = 250
_IS_FOCUSED = "element => element === document.activeElement"
_LOOK = """element => {
    const style = getComputedStyle(element)
    return [style.outlineStyle, style.outlineColor, style.boxShadow, style.borderColor].join(" ")
}"""


@dataclass(frozen=True)
class Keyboard:
    """Does with keys alone what others click; fails where that is not possible.

    Args:
        page: Where the person is.
    """

    page: Page

    def reach(self, target: Locator) -> None:
        """Press Tab until the focus is there, and can be seen there."""
        expect(target).to_be_visible()
        if target.evaluate(_IS_FOCUSED):
            return
        plain = target.evaluate(_LOOK)
        for _ in range(TABS_MAX):
            if target.evaluate(_IS_FOCUSED):
                assert target.evaluate(_LOOK) != plain, f"{target} shows no focus"
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{target} cannot be reached with Tab")

    def press(self, target: Locator, key: str = "Enter") -> None:
        """Press a key on something."""
        self.reach(target)
        self.page.keyboard.press(key)

    def follow(self, target: Locator, to: str | Callable[[str], bool]) -> None:
        """Press Enter on a link or a button that leads elsewhere."""
        self.press(target)
        self.page.wait_for_url(to)

    def write(self, label: str, text: str) -> None:
        """Fill in a field, whatever stood there before."""
        self.reach(self.page.get_by_label(label, exact=True))
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def choose(self, label: str, option: str) -> None:
        """Choose from a list by its first letters."""
        field = self.page.get_by_label(label, exact=True)
        self.reach(field)
        self.page.keyboard.type(option)
        chosen = field.evaluate("select => select.selectedOptions[0].label")
        assert chosen == option, chosen
