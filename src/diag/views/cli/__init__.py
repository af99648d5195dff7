"""The command line. `main.py` lists the commands in the order of `diag --help`, runs one and ends with its exit code.

A command is a function with its help and exit codes (`command.py`); its options become specs in `options.py`.
"""
