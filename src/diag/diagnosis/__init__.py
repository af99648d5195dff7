"""From a failing model, an exception or a pasted text to a named cause: evidence, rules, catalogue.

Reading text (`paste`, `report`, `clues`, `explain`) and the catalogue (`causes`) need the standard library only.
"""
