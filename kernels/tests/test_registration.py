"""What is refused, and that a refusal leaves ggml as it was."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import cmake
from ggml import Child

_NO_LIBRARY, _OTHER_VERSION, _NO_LEVEL, _TWICE = 1, 2, 3, 5


def test_an_unknown_level_is_refused_and_nothing_is_in_use(library: Path) -> None:
    child = Child(library, "sse9")
    assert child.status == _NO_LEVEL
    assert child.call("level") is None
    assert child.call("extra_buffer_types")[:1] != ["CPU_ZHIBEI"]
    child.close()


def test_the_best_level_is_chosen_and_a_second_registration_refused(library: Path) -> None:
    child = Child(library, "")
    assert child.status == 0
    assert child.call("level") in {"avx2", "avx-vnni", "avx512-vnni"}
    assert child.call("extra_buffer_types")[0] == "CPU_ZHIBEI"
    assert child.call("register", "", "") == _TWICE
    child.close()


def test_a_library_that_is_not_loaded_is_refused(library: Path) -> None:
    child = Child(library, None)
    assert child.call("register", "/no/such/library.so", "") == _NO_LIBRARY
    assert child.call("register", str(library), "") == _NO_LIBRARY
    child.close()


def test_another_version_of_ggml_is_refused(library: Path, tmp_path: Path) -> None:
    # A library with all the names, whose version is another: nothing else of it may be called.
    abi = (Path(__file__).parent.parent / "src" / "ggml_abi.cpp").read_text()
    names = [part.split('"')[0] for part in abi.split('(library, "')[1:]]
    source = tmp_path / "other.c"
    others = "".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names if name != "ggml_version")
    source.write_text(others + 'const char *ggml_version(void) { return "0.25.9"; }\n')
    other = tmp_path / "libother.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", other, source], check=True)
    child = Child(library, None)
    assert child.call("load", str(other)) is True
    assert child.call("register", str(other), "") == _OTHER_VERSION
    child.close()


@pytest.mark.slow
def test_plain_arrays_under_the_sanitizers(tmp_path: Path) -> None:
    cmake(tmp_path, "-DZHIBEI_TESTS=ON", "-DZHIBEI_SANITIZE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", target="arrays")
    environment = {**os.environ, "UBSAN_OPTIONS": "halt_on_error=1"}
    result = subprocess.run([tmp_path / "arrays", "check"], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_instructions_of_other_processors_as_plain_code(tmp_path: Path) -> None:
    simde = pytest.importorskip("simde_py")
    headers = Path(simde.__file__).parent / "simde"
    cmake(tmp_path, "-DZHIBEI_TESTS=ON", f"-DZHIBEI_EMULATION={headers}", target="arrays")
    result = subprocess.run([tmp_path / "arrays", "check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
