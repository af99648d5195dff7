"""A table to sort and search, made by itables: an optional library, `pip install "diag[explore]"`.

It needs no network: the script travels with the table, in a saved notebook too. Source: itables 2.9.1, whose
`to_html_datatable(connected=False)` leaves the script to the caller.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

if TYPE_CHECKING:
    from ipywidgets import Widget

MOST_ROWS = 4000  # a saved notebook grows by half a megabyte with them, and by one for the script
_LOOKS = {"maxBytes": 0, "showIndex": False, "autoWidth": False, "classes": "display compact", "style": "width:100%"}


def has_itables() -> bool:
    """Whether itables is installed, and what its widget is made with."""
    return find_spec("itables") is not None and find_spec("anywidget") is not None


def sortable_html(frame: pd.DataFrame) -> Markup:
    """The rows with the script that sorts and searches them; where no script may run, the first ones as a plain table.

    itables escapes every cell.
    """
    from itables import options, to_html_datatable
    from itables.javascript import generate_init_offline_itables_html

    script = generate_init_offline_itables_html(options.dt_bundle)
    looks = {**_LOOKS, "display_logo_when_loading": False}
    return Markup(script + to_html_datatable(frame, connected=False, **looks))  # type: ignore[arg-type]


def sortable_widget(frame: pd.DataFrame) -> Widget:
    """The same as a widget; give its `df` another frame to show that one."""
    from itables.widget import ITable

    return ITable(frame, **_LOOKS)  # type: ignore[arg-type]
