"""The library under test, built once, and a process per instruction set that runs ggml with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zhibei_kernels
from building import cmake, once
from ggml import Child

_FLAGS = {
    "avx2": "avx2",
    "avx-vnni": "avx_vnni",
    "avx512": "avx512bw",
    "avx512-vnni": "avx512_vnni",
    "avx512-bf16": "avx512_bf16",
    "amx": "amx_int8",
}
_NO_LEVEL = 3
_CPUINFO = Path("/proc/cpuinfo")
_PROCESSOR = set((_CPUINFO.read_text() if _CPUINFO.exists() else "").partition("flags")[2].partition("\n")[0].split())
# The plain one is compared with the others on plain arrays, where it is not the slowest part of the test.
LEVELS = tuple(level for level, flag in _FLAGS.items() if flag in _PROCESSOR)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes runs where it is asked for by its mark."""
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: pytest -m slow"))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library: the one named in the environment, the installed one, or one built here."""
    if "ZHIBEI_KERNELS_LIBRARY" in os.environ:
        return Path(os.environ["ZHIBEI_KERNELS_LIBRARY"])
    if zhibei_kernels.built():
        return zhibei_kernels.library_path()
    return once(tmp_path_factory, "library", lambda folder: cmake(folder, target="zhibei_kernels")) / "libzhibei_kernels.so"


@pytest.fixture(scope="session")
def stock(library: Path) -> Iterator[Child]:
    """ggml as the wheel has it."""
    child = Child(library, None)
    yield child
    child.close()


@pytest.fixture(scope="session", params=LEVELS)
def ggml(request: pytest.FixtureRequest, library: Path) -> Iterator[Child]:
    """ggml with the kernels at one level."""
    child = Child(library, request.param)
    if child.status == _NO_LEVEL and request.param != "avx2":
        pytest.skip("the compiler did not know it, or the system does not allow it")
    assert child.status == 0
    yield child
    child.close()
