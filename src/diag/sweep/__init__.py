"""The load matrix: many specs, each in its own process, results kept as they come."""
