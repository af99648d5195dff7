"""sweep.results."""
