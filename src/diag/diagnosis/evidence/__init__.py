"""diagnosis.evidence."""
