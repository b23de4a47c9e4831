"""Where the kernels' library is, and what it was built for. Nothing here loads it: who does decides in which process."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

# The ggml whose binary interface the library relies on, and the one release of the wheel that carries it.
GGML_VERSION = "0.26.0"
XLLAMACPP_VERSION = "2026.10.11549"

# What `zhibei_kernels_register` answers.
STATUSES = ("ok", "no-library", "other-version", "no-level", "wrong-results", "twice")


def library_path() -> Path:
    """The shared library, to be loaded with `ctypes.CDLL` after `xllamacpp` and before the first model; see `built`."""
    return Path(__file__).parent / "libzhibei_kernels.so"


def built() -> bool:
    """Whether the library is there: without a compiler, or on another system, the package is installed without it."""
    return library_path().is_file()
