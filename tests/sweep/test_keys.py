"""The keys under which a results file keeps its rows: an older file is found again."""

from diag.loading.footprint import Packed
from diag.sweep import keys
from diag.sweep.cell.records import Planned
from diag.values.spec import LoadSpec


def test_keys_are_those_that_older_files_hold(monkeypatch):
    monkeypatch.setattr(keys, "versions", lambda: {"torch": "2.13.0"})
    monkeypatch.setattr(keys, "processor", lambda: "a CPU")
    plan = Planned(LoadSpec("m", "auto", "nf4"), "files", 8, '{"": "cpu"}', Packed(("q",)), loader_fingerprint="own")
    machine = ("cpu", "cuda:0")
    found = [keys.row_key(plan, machine), keys.load_key(plan, machine), *keys.needed_references(plan, None, 4)]
    assert [key[:12] for key in found] == ["ebb55e956633", "22f5d5973a58", "530e5e1f6618", "6cf1bb393a5b"]
