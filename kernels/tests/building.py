"""What tests compile or fetch: once a run, however many processes share the tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def compiler(name: str) -> str:
    """The compiler of that name (`cc`, `c++`), or the test is skipped."""
    found = shutil.which(os.environ.get({"cc": "CC", "c++": "CXX"}[name]) or name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


def cmake(folder: Path, *options: str, target: str) -> None:
    """Configure and build one target."""
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja build it: pip install './kernels[test]'")
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", folder, "--target", target], check=True, capture_output=True)


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first process fills and the others of the same run wait for."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make(part)
            part.replace(folder)
    return folder
