"""sweep.isolate."""
