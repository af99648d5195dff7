"""Is a model right? It is asked a probe, and compared with its twin on the CPU, or with the files it came from.

Open `proof.py` first. `twin.py` loads the twin, `probing.py` asks, `weights.py` and `watching.py` check a model itself.
"""
