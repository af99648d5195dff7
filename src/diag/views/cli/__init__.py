"""views.cli."""
