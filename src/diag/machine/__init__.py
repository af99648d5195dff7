"""What this computer is: accelerators and their memory, who holds it, processes, folders, whether somebody watches.

`environment.py` tells all of it at once, without torch; `accelerators.py` is what a load asks. Open these two first.
"""
