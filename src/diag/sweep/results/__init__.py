"""What a run comes to: its rows, the file that keeps them, and how two runs differ.

Start at rows.py (from what a cell measured to its row) and store.py (the SQLite file). comparison.py matches and
compares the rows of two runs for gate.py, which gives the exit code, and for diffing.py.
"""
