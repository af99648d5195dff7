"""Frozen values (spec, hardware, outcome, proof, finding) and the small things that have one owner: sizes and times in
words, prose, function names, redaction. Standard library only. Open `spec.py` first.
"""
