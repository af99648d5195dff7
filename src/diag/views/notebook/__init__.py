"""What notebooks use beside the functions of `diag`: `%diag` and `%%diag`, and the checks of the walkthrough.

Open `magics.py` first; `diag` loads it for `%load_ext diag`.
"""
