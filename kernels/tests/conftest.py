"""The library under test, built once, and a process per instruction set that runs ggml with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ggml import Child

ROOT = Path(__file__).parent.parent
_FLAGS = {"avx2": "avx2", "avx-vnni": "avx_vnni", "avx512-vnni": "avx512_vnni"}
_PROCESSOR = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
# The plain one is compared with the others on plain arrays, where it is not the slowest part of the test.
LEVELS = tuple(level for level, flag in _FLAGS.items() if flag in _PROCESSOR)


def cmake(folder: Path, *options: str, target: str) -> None:
    """Configure and build one target."""
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", folder, "--target", target], check=True, capture_output=True)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library: the one named in the environment, the installed one, or one built here."""
    if "ZHIBEI_KERNELS_LIBRARY" in os.environ:
        return Path(os.environ["ZHIBEI_KERNELS_LIBRARY"])
    folder = tmp_path_factory.mktemp("build")
    cmake(folder, target="zhibei_kernels")
    return folder / "libzhibei_kernels.so"


@pytest.fixture(scope="session", params=LEVELS)
def ggml(request: pytest.FixtureRequest, library: Path) -> Iterator[Child]:
    """ggml with the kernels at one level."""
    child = Child(library, request.param)
    assert child.status == 0
    yield child
    child.close()
