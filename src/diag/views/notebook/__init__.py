"""views.notebook."""
