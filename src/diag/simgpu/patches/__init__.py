"""What simulated GPUs change in PyTorch and in the libraries above it, one file for each reason to change something.

Each file has `install()`, which is called once per process; `pytorch.py` is the first to read.
"""
