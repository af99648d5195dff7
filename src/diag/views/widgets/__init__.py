"""Interactive views for notebooks: a matrix panel, a placement explorer, a player for scenarios.

Each works from plain arguments and shows itself: with a front end as widgets, under papermill, nbconvert or in a
terminal as a static view of the same content.
"""

from diag.views.widgets.explorer import placement_explorer
from diag.views.widgets.matrix.panel import matrix_panel
from diag.views.widgets.player import step_player

__all__ = ["matrix_panel", "placement_explorer", "step_player"]
