"""What a notebook shows to click: the matrix panel, the placement explorer, the player of scenarios.

Each works from plain arguments. It is made of widgets where somebody can click, and a static view of the same content
under papermill, nbconvert or in a terminal. `live.py`, their common base, is the file to open first.
"""

from diag.views.widgets.explorer import placement_explorer
from diag.views.widgets.panel import matrix_panel
from diag.views.widgets.player import step_player

__all__ = ["matrix_panel", "placement_explorer", "step_player"]
