"""From a model, an exception or a text to named causes and their fixes.

Open `engine.py` first, then one file of `causes/`, which holds all there is to say about one cause. `evidence/` reads
what rules may use, `ranking.py` and `explain.py` weigh texts, `mending/` applies fixes.
"""
