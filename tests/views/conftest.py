"""What the tests of widgets share: whether somebody is there to click."""

from __future__ import annotations

import pytest


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv("DIAG_WIDGETS", "1")


@pytest.fixture
def still(monkeypatch):
    monkeypatch.setenv("DIAG_WIDGETS", "0")
