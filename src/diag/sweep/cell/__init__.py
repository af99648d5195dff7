"""sweep.cell."""
