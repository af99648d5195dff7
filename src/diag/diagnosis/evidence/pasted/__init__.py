"""diagnosis.evidence.pasted."""
