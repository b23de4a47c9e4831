"""Who may import whom: the contracts in ``pyproject.toml``, and what they cannot say of the standard library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zhibei

PACKAGE = Path(zhibei.__file__).parent
ROOT = Path(__file__).parents[2]
# Values in, values out: no clock, no input or output, no waiting.
PURE = (
    "planner",
    "runtime/scheduler.py",
    "runtime/eviction.py",
    "text",
    "server/openai/translate.py",
    "server/native/translate.py",
    "server/ollama/translate.py",
    "server/anthropic/translate.py",
    "server/kobold/translate.py",
    "server/llama_server/translate.py",
    "setting_values.py",
)
VOCABULARY = ("chat.py", "events.py", "refs.py", "models.py", "options.py", "plans.py", "errors.py", "units.py")
IMPURE = {
    "aiohttp",
    "asyncio",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "select",
    "shutil",
    "signal",
    "socket",
    "subprocess",
}
IMPURE |= {"tempfile", "threading", "time", "urllib.request", "uuid", "http"}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            yield node.lineno, str(node.module)


def files(place: str) -> list[Path]:
    path = PACKAGE / place
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert found, place
    return found


def test_the_layers() -> None:
    pytest.importorskip("importlinter", reason="a tool of development: pip install 'zhibei[dev]'")
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("place", [*PURE, *VOCABULARY])
def test_decisions_import_nothing_that_acts(place: str) -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in files(place)
        for line, name in imported(path)
        if name in IMPURE or name.partition(".")[0] in IMPURE
    ]
    assert found == []


def test_every_translator_is_on_the_list() -> None:
    found = {str(path.relative_to(PACKAGE).as_posix()) for path in PACKAGE.glob("server/*/translate.py")}
    assert found == {place for place in PURE if place.endswith("translate.py")}


def test_the_vocabulary_needs_only_the_standard_library() -> None:
    for place in VOCABULARY:
        for line, name in imported(PACKAGE / place):
            top = name.partition(".")[0]
            assert top == "zhibei" or top in sys.stdlib_module_names, f"{place}:{line}: {name}"


def test_the_store_can_be_imported_without_an_event_loop() -> None:
    """Commands that only look at what is there start quickly."""
    code = "import sys, zhibei.store.library; assert not {'asyncio', 'aiohttp', 'ssl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
