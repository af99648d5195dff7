"""Pages of a long table: all rows are reachable, and what is shown is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PAGE_ROWS = 50


@dataclass(frozen=True)
class Page:
    """One page of `total` rows; `number` counts from 1 and is kept within what there is.

    >>> Page(50_000, 1000).says
    'rows 49,951–50,000 of 50,000'
    """

    total: int
    number: int = 1
    size: int = PAGE_ROWS

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", min(max(1, self.number), self.count))

    @property
    def count(self) -> int:
        return max(1, -(-self.total // self.size))

    @property
    def rows(self) -> slice:
        return slice((self.number - 1) * self.size, min(self.number * self.size, self.total))

    @property
    def says(self) -> str:
        if not self.total:
            return "no rows"
        return f"rows {self.rows.start + 1:,}–{self.rows.stop:,} of {self.total:,}"


class Pager:
    """First, previous, a page number, next, last; `turned` is called when the page changes."""

    def __init__(self, turned: Callable[[], None]) -> None:
        from diag.views.widgets.live import button, row

        self._turned = turned
        self._page = Page(0)
        self._number = _number_field()
        self._number.observe(lambda change: self._go(change["new"]), "value")
        self._label = _label()
        self._back = [button("First", lambda: self._go(1)), button("Previous", lambda: self._go(self._page.number - 1))]
        self._on = [
            button("Next", lambda: self._go(self._page.number + 1)),
            button("Last", lambda: self._go(self._page.count)),
        ]
        self.widget = row(*self._back, self._number, *self._on, self._label)

    @property
    def page(self) -> Page:
        return self._page

    def start(self, total: int) -> None:
        """Another table: back to its first page."""
        self._set(Page(total))

    def grow(self, total: int) -> None:
        """More rows of the same table: the page stays."""
        self._set(Page(total, self._page.number))

    def _go(self, number: int) -> None:
        page = Page(self._page.total, number)
        if page != self._page:
            self._set(page)
            self._turned()

    def _set(self, page: Page) -> None:
        from diag.views.widgets.live import mark_usable

        self._page = page
        self._number.max = max(page.count, self._number.value)
        self._number.value = page.number
        self._number.max = page.count
        self._label.value = f"of {page.count:,} · {page.says}"
        for buttons, why_not in (
            (self._back, "this is the first page" * (page.number == 1)),
            (self._on, "this is the last page" * (page.number == page.count)),
        ):
            for one in buttons:
                mark_usable(one, why_not)
        self.widget.layout.display = "flex" if page.count > 1 else "none"


def _number_field() -> Any:
    from ipywidgets import BoundedIntText, Layout

    return BoundedIntText(value=1, min=1, max=1, description="page", layout=Layout(width="9rem"),
                          style={"description_width": "initial"})  # fmt: skip


def _label() -> Any:
    from ipywidgets import Label

    return Label()
