"""Processes: a call is made in a process of its own, and whatever becomes of it, the caller goes on.

Start at pool.py, whose `run` is all that others use. launch.py starts processes, supervisor.py forks them, child.py is
what happens inside one, wire.py is what they say to each other, and deaths.py says how one died.
"""
