"""Our own kernels in llama.cpp's worker: whether they can be used, what is said if not, and that nothing else changes."""

from __future__ import annotations

import importlib.machinery
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from zhibei.engines.llama_cpp import kernels, kernels_loading
from zhibei.engines.llama_cpp.backend import LlamaCppBackend
from zhibei.errors import EngineStartFailed
from zhibei.plans import EngineSpec, Kernels

ENGINE = "2026.1.1"
AVX2 = frozenset("sse4_2 avx avx2 fma f16c".split())
AVX512 = AVX2 | set("avx512f avx512bw avx512vl avx512dq avx512_vnni".split())
AMX = AVX512 | set("avx_vnni avx512_bf16 amx_tile amx_int8 amx_bf16".split())
STATUSES = ("ok", "no-library", "other-version", "no-level", "wrong-results", "twice")
FAKE = Path(__file__).parents[2] / "support" / "fake_worker.py"
SPEC = EngineSpec("llama.cpp", "/m.gguf", "m:latest", "generate", 512, 1, 64, 64, 1, None, "f16", "f16", "auto", 0, 0)
LIBRARY = """
#include <stdlib.h>
int zhibei_kernels_register(const char * path, const char * level) { return path && !level ? atoi(getenv("FAKE_STATUS")) : 99; }
const char * zhibei_kernels_level(void) { return atoi(getenv("FAKE_STATUS")) ? 0 : "avx2"; }
int zhibei_kernels_attention(void) { return !atoi(getenv("FAKE_STATUS")); }
"""
Fake = Callable[..., ModuleType]
needs_linux = pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="they are for it alone")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    """Has a package of kernels installed, with a library that is a file at least."""

    def install(library: Path | None = None, **changes: Any) -> ModuleType:
        package = ModuleType("zhibei_kernels")
        package.__spec__ = importlib.machinery.ModuleSpec("zhibei_kernels", None)
        if library is None:
            library = tmp_path / "libzhibei_kernels.so"
            library.write_bytes(b"no library")
        values = {
            "__version__": "9.9",
            "XLLAMACPP_VERSION": ENGINE,
            "STATUSES": STATUSES,
            "library_path": lambda: library,
        }
        for name, value in {**values, **changes}.items():
            setattr(package, name, value)
        monkeypatch.setitem(sys.modules, "zhibei_kernels", package)
        return package

    return install


def engine_module(directory: Path, version: str = ENGINE, device: int = 0) -> Any:
    """What of ``xllamacpp`` the kernels are put into."""
    (directory / "xllamacpp.abi3.so").touch()
    devices = [{"name": "CPU", "type": 0}, {"name": "another", "type": device}]
    return SimpleNamespace(__file__=str(directory / "__init__.py"), __version__=version, get_device_info=lambda: devices)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that answers as the variable FAKE_STATUS says."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = tmp_path_factory.mktemp("library") / "fake.c"
    source.write_text(LIBRARY)
    built = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, source], check=True)
    return built


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (AVX512, "avx512-vnni"),
        (AVX512 | {"avx_vnni"}, "avx512-vnni"),
        (AVX512 | {"avx512_bf16"}, "avx512-bf16"),
        (AMX, "amx"),
        (AMX - {"amx_int8"}, "avx512-bf16"),
        (AVX512 - {"avx512_vnni"}, "avx512"),
        (AVX512 - {"avx512_vnni", "avx512dq"}, "avx2"),
        (AVX2 | {"avx_vnni"}, "avx-vnni"),
        (AVX2, "avx2"),
        (AVX2 - {"f16c"}, None),
        (frozenset(), None),
    ],
)
def test_the_level_is_the_best_that_the_processor_has_all_of(flags: frozenset[str], level: str | None) -> None:
    assert kernels.level_of(flags) == level


@needs_linux
def test_what_is_expected_of_them_is_known_without_loading_them(fake: Fake) -> None:
    fake()
    assert kernels.installed(ENGINE, AVX2) == Kernels("9.9", "avx2", kernels.TYPES, attention=True)
    assert kernels.installed(ENGINE + "+cu124", AVX2).level == "avx2", "a build for graphics processors"
    assert kernels.installed(ENGINE).version == "9.9", "of this processor, whatever it has"


@needs_linux
@pytest.mark.parametrize(
    ("changes", "version", "flags", "said"),
    [
        ({"library_path": lambda: Path("/nowhere/lib.so")}, ENGINE, AVX2, "compiler"),
        ({}, "2026.1.2", AVX2, "another version of xllamacpp"),
        ({}, None, AVX2, "another version of xllamacpp"),
        ({}, ENGINE, AVX2 - {"fma"}, "AVX2"),
    ],
)
def test_why_they_cannot_be_used(fake: Fake, changes: dict[str, Any], version: str | None, flags: Any, said: str) -> None:
    fake(**changes)
    found = kernels.installed(version, flags)
    assert found.level is None and found.types == () and found.version == "9.9"
    assert found.problem is not None and said in found.problem
    assert (found.hint is None) == (said == "AVX2"), "there is nothing to do about a processor"


@needs_linux
@pytest.mark.parametrize("module", [None, ModuleType("zhibei_kernels")])
def test_without_them_there_is_a_hint_and_no_error(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    """Not there at all; or something else of that name."""
    monkeypatch.setitem(sys.modules, "zhibei_kernels", module)
    found = kernels.installed(ENGINE, AVX2)
    assert (found.version, found.level, found.problem) == (None, None, "they are not installed")
    assert found.hint is not None and "pip install ./kernels" in found.hint
    assert LlamaCppBackend().probe().kernels == found


def test_they_are_not_recommended_where_they_cannot_run(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    fake()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    found = kernels.installed(ENGINE, AVX2)
    assert found.level is None and found.hint is None and found.problem is not None and "x86-64" in found.problem


@pytest.mark.parametrize("number", range(len(STATUSES)))
def test_each_status_of_the_library_is_told(
    number: int, fake: Fake, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(library)
    monkeypatch.setenv("FAKE_STATUS", str(number))
    answer = kernels_loading.use(engine_module(tmp_path))
    found, line = kernels.told(answer), capsys.readouterr().err
    assert found is not None and found.version == "9.9" and all(map(kernels.is_of_them, line.splitlines()))
    assert line.count("not used") + line.count("in use") == 1
    if number == 0:
        assert found == Kernels("9.9", "avx2", kernels.TYPES, attention=True)
        assert line.endswith("in use, avx2, with attention\n")
    else:
        assert found.level is None and found.problem is not None and found.problem in line and "not used" in line


def test_a_status_that_is_not_known_is_none_of_theirs(
    fake: Fake, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(library)
    monkeypatch.setenv("FAKE_STATUS", "17")
    found = kernels.told(kernels_loading.use(engine_module(tmp_path)))
    assert found is not None and found.level is None and found.problem is not None


def test_a_library_that_cannot_be_loaded_changes_nothing(fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake()
    found = kernels.told(kernels_loading.use(engine_module(tmp_path)))
    assert found is not None and found.level is None and found.problem == "their library cannot be loaded"
    assert "libzhibei_kernels.so" in capsys.readouterr().err, "and what the system says of it"


def test_one_of_another_name_inside_changes_nothing(fake: Fake, tmp_path: Path, library: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    empty = tmp_path / "empty.so"
    (tmp_path / "empty.c").write_text("int nothing;\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", empty, tmp_path / "empty.c"], check=True)
    fake(empty)
    found = kernels.told(kernels_loading.use(engine_module(tmp_path)))
    assert found is not None and found.problem == "their library cannot be loaded"


def test_a_wheel_without_its_library_is_not_touched(fake: Fake, tmp_path: Path) -> None:
    fake()
    module = engine_module(tmp_path)
    (tmp_path / "xllamacpp.abi3.so").unlink()
    assert kernels_loading.use(module) == {"version": "9.9", "status": "no-library"}


def test_without_them_or_beside_a_graphics_processor_nothing_is_said_to_be_wrong(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    assert kernels_loading.use(engine_module(tmp_path, device=1)) is None
    assert "beside a graphics processor" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "zhibei_kernels", None)
    assert kernels_loading.use(engine_module(tmp_path)) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("answer", [None, [], "ok"])
def test_an_answer_that_says_nothing_of_them(answer: object) -> None:
    assert kernels.told(answer) is None


def test_an_answer_that_makes_no_sense_is_no_use_of_them() -> None:
    for answer in ({}, {"status": "ok"}, {"status": "ok", "level": 3}, {"status": ["ok"]}):
        found = kernels.told(answer)
        assert found is not None and found.level is None and found.problem is not None


def of_fake_workers(*words: str) -> LlamaCppBackend:
    return LlamaCppBackend(command=(sys.executable, str(FAKE), "serve", *words))


async def test_an_engine_shows_what_its_worker_told() -> None:
    engine = await of_fake_workers("kernels=ok").start(SPEC, lambda line: None)
    try:
        assert engine.status().kernels == Kernels("9.9", "avx2", kernels.TYPES)
    finally:
        await engine.close()
    engine = await of_fake_workers("kernels=wrong-results").start(SPEC, lambda line: None)
    try:
        found = engine.status().kernels
        assert found is not None and found.problem == "they computed something wrong in their self-test"
    finally:
        await engine.close()


@pytest.mark.parametrize("number", [4, 6, 7, 8, 11])
async def test_one_that_crashes_with_them_comes_up_without(number: int) -> None:
    workers = of_fake_workers(f"faults_with_kernels={number}")
    for again in (False, True):
        lines: list[str] = []
        engine = await workers.start(SPEC, lines.append)
        try:
            found = engine.status().kernels
            assert engine.spec.kernels is False and found is not None
            assert found.problem == "the engine crashed while it was loaded with them"
            assert sum("crashed" in line for line in lines) == (0 if again else 1), "it is not tried again"
        finally:
            await engine.close()


async def test_what_crashes_without_them_is_not_their_fault() -> None:
    workers = of_fake_workers("faults=11")
    for _ in range(2):
        lines: list[str] = []
        with pytest.raises(EngineStartFailed) as raised:
            await workers.start(SPEC, lines.append)
        assert raised.value.values["code"] == "signal 11"
        assert sum("crashed" in line for line in lines) == 1, "tried without them, each time"


@pytest.mark.parametrize("words", [("serve", "killed"), ("crash",), ("exit",)])
async def test_other_ends_are_not_tried_again(words: tuple[str, ...]) -> None:
    """Killed by the system; a crash where none of ours were at work; an end by itself."""
    lines: list[str] = []
    with pytest.raises(EngineStartFailed):
        await LlamaCppBackend(command=(sys.executable, str(FAKE), *words)).start(SPEC, lines.append)
    assert not any("crashed" in line for line in lines)


def test_whose_fault_a_crash_was_is_told_by_what_was_said_before() -> None:
    assert kernels.may_have_failed("signal 4", "zhibei-kernels 9.9: loading")
    assert kernels.may_have_failed("signal 11", "zhibei-kernels 9.9: in use, avx2")
    for code, said in (("signal 9", "zhibei-kernels 9.9: loading"), ("signal 4", None), ("signal 4", "… not used, …")):
        assert not kernels.may_have_failed(code, said)
