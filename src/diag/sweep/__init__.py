"""The load matrix: many specs, each different load in a process of its own, and results that are kept as they come.

Start at run.py, whose `matrix` reads top to bottom: plan, share equal loads, price, load, judge, keep. cell/ is what
runs in the child, isolate/ starts and ends children, results/ is the rows and the file that keeps them.
"""
