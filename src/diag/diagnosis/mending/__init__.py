"""diagnosis.mending."""
