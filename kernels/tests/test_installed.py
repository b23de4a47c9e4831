"""An install whose build broke has no library and tells nobody: what tests it would then be skipped, and all would be well."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import zhibei_kernels
from building import compiler

# What the sources ask of a compiler beyond C++17: GCC 11 and Clang 12 are the first that know it.
_NEEDED = ("-std=c++17", "-mavxvnni", "-mavx512vnni")


def is_installed() -> bool:
    """Whether the package under test is the installed one, and no folder of sources."""
    try:
        found = metadata.distribution("zhibei-kernels").locate_file("zhibei_kernels/__init__.py")
    except metadata.PackageNotFoundError:
        return False
    return Path(str(found)).resolve() == Path(zhibei_kernels.__file__).resolve()


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="they are for it alone")
@pytest.mark.skipif(not is_installed(), reason="they are not installed")
def test_it_has_its_library_wherever_a_compiler_can_build_it() -> None:
    known = subprocess.run(
        [compiler("c++"), *_NEEDED, "-fsyntax-only", "-x", "c++", os.devnull], capture_output=True, check=False
    )
    if known.returncode != 0:
        pytest.skip("this compiler is too old for it: GCC 11 or Clang 12 is needed")
    if not zhibei_kernels.built():
        pytest.fail(
            "zhibei-kernels is installed without its library, although the compiler here can build it. What went wrong is in "
            "the output of: pip install --verbose --force-reinstall --no-deps ./kernels",
            pytrace=False,
        )
