"""loading.checkpoint."""
