"""The report: one model under every combination as one HTML file, and the gate that a nightly job reads.

Open report.py first: it runs the notebook report.ipynb. afterwards.py writes what the run left, however it ended.
"""
