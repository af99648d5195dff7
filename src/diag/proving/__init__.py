"""Is a model right? Its twin is loaded, both are asked the same, and the answers are compared.

Open `proof.py` first. `probing.py` asks, `comparing.py` measures; `watching.py` stops at the first operation on meta,
`weights.py` compares weights with the files.
"""
