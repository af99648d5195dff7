"""diagnosis.reading."""
