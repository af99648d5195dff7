"""reproduce.scenarios."""
