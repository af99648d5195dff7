"""The child's side: what runs in a cell's own process, one load each.

Start at measure.py (one load and its answer, or the reference load), then prepare.py, what is done before any load.
records.py holds all that goes in and comes out.
"""
