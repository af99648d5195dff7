"""From a spec to a plan, from a plan to a model: checkpoints, device maps, quantizer configs, the samples.

Open `recipe.py` first: `load` reads top to bottom, and holds the only `from_pretrained`. `planning.py` makes the plan.
"""
