"""Imported by the supervisor after the libraries: work that the first load in every cell would otherwise repeat.

Nothing depends on it; where a transformers has no such table, its import fails and the cells are a little slower.
"""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("llama")  # compiles about a thousand patterns for all architectures, 75 ms
