"""Fixtures every test may use: a home of its own, and the default model, pulled once a run by our own command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.one_tls_context import share_tls_context
from support.run_wide import once

MODEL = "smollm2:135m"

# A shell that starts a run in the background has it ignore Ctrl-C, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

share_tls_context()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes runs where it is asked for by its mark."""
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: pytest -m slow"))


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own configuration or models."""
    for name in [name for name in os.environ if name.startswith("ZHIBEI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZHIBEI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("LC_ALL", "LC_MESSAGES", "LANGUAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


@pytest.fixture(scope="session")
def smollm2_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ZHIBEI_HOME in which the default model is present: a copy of what the run has pulled."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ZHIBEI_")}

    def pull(home: Path) -> None:
        command = [sys.executable, "-m", "zhibei", "--home", str(home), "pull", MODEL]
        subprocess.run(command, env=environment, check=True, timeout=600)

    pulled = once(tmp_path_factory.getbasetemp(), "smollm2", pull)
    return shutil.copytree(pulled, tmp_path_factory.mktemp("models") / "home", symlinks=True)


@pytest.fixture(scope="session")
def smollm2_path(smollm2_home: Path) -> Path:
    """The default model's GGUF file."""
    from zhibei.store.library import Library

    return Library(smollm2_home).resolve(MODEL).model_path
