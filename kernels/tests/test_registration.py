"""What is refused, and that a refusal leaves ggml as it was."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from building import cmake, compiler
from ggml import Child

_NO_LIBRARY, _OTHER_VERSION, _NO_LEVEL, _WRONG_RESULTS, _TWICE = 1, 2, 3, 4, 5

_WRONG = """
#include <dlfcn.h>
typedef void *(*product_t)(void *, void *, void *);
typedef int (*compute_t)(void *, void *, int);
typedef float *(*data_t)(void *);
static product_t product; static compute_t compute; static data_t data;
static void *last;
void *ggml_mul_mat(void *context, void *a, void *b) {{ return last = product(context, a, b); }}
int ggml_graph_compute_with_ctx(void *context, void *graph, int threads) {{
    int status = compute(context, graph, threads);
    data(last)[3] += 1000;
    return status;
}}
{jumps}
__attribute__((constructor)) static void find(void) {{
    void *true_one = dlopen("{path}", RTLD_NOW | RTLD_NOLOAD);
    product = (product_t) dlsym(true_one, "ggml_mul_mat");
    compute = (compute_t) dlsym(true_one, "ggml_graph_compute_with_ctx");
    data = (data_t) dlsym(true_one, "ggml_get_data");
    {found}
}}
"""


def test_an_unknown_level_is_refused_and_nothing_is_in_use(library: Path) -> None:
    child = Child(library, "sse9")
    assert child.status == _NO_LEVEL
    assert child.call("level") is None
    assert child.call("extra_buffer_types")[:1] != ["CPU_ZHIBEI"]
    child.close()


def test_the_best_level_is_chosen_and_a_second_registration_refused(library: Path) -> None:
    child = Child(library, "")
    assert child.status == 0
    assert child.call("level") in {"avx2", "avx-vnni", "avx512", "avx512-vnni", "avx512-bf16", "amx"}
    assert child.call("extra_buffer_types")[0] == "CPU_ZHIBEI"
    assert child.call("register", "", "") == _TWICE
    child.close()


def test_a_library_that_is_not_loaded_is_refused(library: Path) -> None:
    child = Child(library, None)
    for path in ("/no/such/library.so", "", "\x01", "x" * 100_000, "/dev/null", str(library), str(library.parent)):
        assert child.call("register", path, "") == _NO_LIBRARY
        assert child.call("level") is None
    for level in ("sse9", "AVX2", "avx2 ", "x" * 100_000, "%s%n"):
        assert child.call("register", child.call("path"), level) == _NO_LEVEL
    assert child.call("register", child.call("path"), "") == 0
    child.close()


def _names() -> list[str]:
    """Of the functions that a registration looks up."""
    abi = (Path(__file__).parent.parent / "src" / "ggml_abi.cpp").read_text()
    return [part.split('"')[0] for part in abi.split('(library, "')[1:]]


def _compiled(folder: Path, text: str) -> Path:
    source, library = folder / "other.c", folder / "libother.so"
    source.write_text(text)
    subprocess.run([compiler("cc"), "-shared", "-fPIC", "-w", "-o", library, source, "-ldl"], check=True)
    return library


def test_another_version_of_ggml_is_refused(library: Path, tmp_path: Path) -> None:
    # A library with all the names, whose version is another: nothing else of it may be called.
    others = "".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in _names() if name != "ggml_version")
    other = _compiled(tmp_path, others + 'const char *ggml_version(void) { return "0.25.9"; }\n')
    child = Child(library, None)
    assert child.call("load", str(other)) is True
    assert child.call("register", str(other), "") == _OTHER_VERSION
    assert child.call("register", child.call("path"), "") == 0
    child.close()


def test_one_with_a_function_missing_is_refused(library: Path, tmp_path: Path) -> None:
    names = _names()
    for missing in (names[0], names[len(names) // 2], names[-1]):
        folder = tmp_path / missing
        folder.mkdir()
        other = _compiled(folder, "".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names if name != missing))
        child = Child(library, None)
        child.call("load", str(other))
        assert child.call("register", str(other), "") == _NO_LIBRARY
        child.close()


def test_one_that_computes_something_else_is_refused(library: Path, tmp_path: Path) -> None:
    # It hands every call on to the true one; only one number of a product is another.
    child = Child(library, None)
    names, own = _names(), {"ggml_mul_mat", "ggml_graph_compute_with_ctx"}
    handed_on = [name for name in names if name not in own]
    jumps = [f'static void *_{n}; __attribute__((naked)) void {n}(void) {{ __asm__("jmp *_{n}(%rip)"); }}' for n in handed_on]
    found = [f'_{n} = dlsym(true_one, "{n}");' for n in handed_on]
    text = _WRONG.format(path=child.call("path"), jumps="\n".join(jumps), found="\n".join(found))
    other = _compiled(tmp_path, text)
    before = child.call("extra_buffer_types")
    child.call("load", str(other))
    assert child.call("register", str(other), "") == _WRONG_RESULTS
    assert child.call("level") is None
    assert child.call("extra_buffer_types") == before
    child.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_plain_arrays_under_the_sanitizers(tmp_path: Path) -> None:
    cmake(tmp_path, "-DZHIBEI_TESTS=ON", "-DZHIBEI_SANITIZE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", target="arrays")
    environment = {**os.environ, "UBSAN_OPTIONS": "halt_on_error=1"}
    result = subprocess.run([tmp_path / "arrays", "check"], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_instructions_of_other_processors_as_plain_code(tmp_path: Path) -> None:
    simde = pytest.importorskip("simde_py")
    headers = Path(simde.__file__).parent / "simde"
    cmake(tmp_path, "-DZHIBEI_TESTS=ON", f"-DZHIBEI_EMULATION={headers}", target="arrays")
    result = subprocess.run([tmp_path / "arrays", "check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
