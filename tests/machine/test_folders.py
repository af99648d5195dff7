"""The cache is where this system keeps caches, and where its user wants it."""

from pathlib import Path

import platformdirs
import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from diag.machine.folders import cache_folder, hub_cache_folder


@pytest.mark.parametrize(("system", "folder"), [(Unix, ".cache"), (MacOS, "Library/Caches")])
def test_the_cache_follows_the_system_and_diag_cache(monkeypatch, tmp_path, system, folder):
    for name in ("DIAG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platformdirs, "PlatformDirs", system)
    assert cache_folder() == Path.home() / folder / "diag"
    monkeypatch.setenv("DIAG_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_both_caches_follow_the_folder_that_xdg_names(monkeypatch, tmp_path):
    for name in ("DIAG_CACHE", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platformdirs, "PlatformDirs", Unix)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "diag"
    assert hub_cache_folder() == tmp_path / "huggingface" / "hub"
