"""A model's files: found by name, fetched from the hub, checked, and read tensor by tensor. Open `find.py` first."""
