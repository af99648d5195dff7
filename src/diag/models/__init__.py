"""A live model, read once: tensors, hooks, devices, maps, ties, quantizers, and the tables made from them.

Open `snapshot.py` first; everything that looks at a model starts from a snapshot. `undo.py` takes changes back.
"""
