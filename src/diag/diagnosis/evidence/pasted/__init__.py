"""A pasted text before it is read: `paste.py` unpacks JSON, HTML and log prefixes, `logs.py` shortens long logs."""
