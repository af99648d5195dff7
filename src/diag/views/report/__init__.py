"""views.report."""
