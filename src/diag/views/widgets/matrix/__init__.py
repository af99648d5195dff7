"""views.widgets.matrix."""
