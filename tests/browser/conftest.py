"""A JupyterLab of our own on loopback, and a headless Chromium that looks at it. Skipped where there is no Chromium."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from notebook_page import ROOT, SHOTS, Lab

OFF = ["gpu", "quic", "background-networking", "component-update", "sync"]
FLAGS = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in OFF)]


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[object]:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory) -> Iterator[Lab]:
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: pip install jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder, dirs_exist_ok=True)
    token, port = secrets.token_hex(16), _free_port()
    with open(folder / "lab.log", "wb") as log:
        server = subprocess.Popen(_command(folder, port), stdout=log, stderr=log, env=_environment(folder, token))
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_up(url, token, server)
            yield Lab(url, token, folder)
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture
def page(browser, request) -> Iterator[object]:
    """A desktop page; a picture of its last state stays, for whoever wonders why a test failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, color_scheme="light")
    opened = context.new_page()
    yield opened
    opened.screenshot(path=SHOTS / f"last-{request.node.name}.png")
    context.close()


def _command(folder: Path, port: int) -> list[str]:
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", f"--ServerApp.root_dir={folder}", "--allow-root"]
    return [sys.executable, "-m", "jupyterlab", *options, "--ServerApp.port_retries=0"]


def _environment(folder: Path, token: str) -> dict[str, str]:
    """Settings, state and history of this JupyterLab stay in the folder: nothing of the user's is read or written."""
    lab = ["JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
    names = ["JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", *lab]
    private = {name: str(folder / ".jupyter" / name) for name in names}
    return {**os.environ, **private, "JUPYTER_TOKEN": token, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_up(url: str, token: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with exit code {server.returncode}; see lab.log")
        try:
            with urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("JupyterLab did not come up within 60 s")
