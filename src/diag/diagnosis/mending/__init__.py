"""What fixes do: `situation.py` offers the ways out, `plans.py` orders them, `fixes.py` tries them and proves one.

`repairs.py` holds the repairs themselves, each of which changes a model in memory, completely or not at all.
"""
