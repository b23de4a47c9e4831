"""House rules that a machine can check: how long files and functions are, and what library code never does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import zhibei

PACKAGE = Path(zhibei.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
# The request edge (before a response and within one) and the command line: whatever went wrong is shown there, not lost.
CATCH_ALL = {"server/guard.py", "server/streams.py", "cli/main.py"}
VAGUE = {"util", "utils", "common", "helper", "helpers", "misc", "base_manager"}

Code = list[tuple[str, ast.AST]]


@pytest.fixture(scope="module")
def code() -> Code:
    """Every node of every file, with the file it is in."""
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
    return [(name, node) for name, tree in trees.items() for node in ast.walk(tree)]


def dotted(node: ast.AST) -> str:
    """``os.environ`` of its node; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def test_files_are_short() -> None:
    lengths = {name: path.read_text(encoding="utf-8").count("\n") for name, path in SOURCES.items()}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    found = {
        f"{name}:{node.lineno} {node.name}": length
        for name, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert found == {}


def test_files_are_named_after_what_they_do() -> None:
    assert [name for name in SOURCES if VAGUE & set(Path(name).with_suffix("").parts)] == []


def test_library_code_does_not_print_nor_ask() -> None:
    talk = {"print", "input", "breakpoint", "exit", "quit"}
    assert [
        f"{name}:{node.lineno}" for name, node in nodes(ast.Call) if isinstance(node, ast.Call) and dotted(node.func) in talk
    ] == []


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("sys.exit", {"__main__.py"}),
        ("os._exit", {"engines/llama_cpp/worker.py"}),
        ("os.environ", {"settings.py"}),
        ("os.environb", set()),
        ("os.getenv", set()),
        ("os.putenv", set()),
        ("os.system", set()),
        ("os.popen", set()),
        ("subprocess.getoutput", set()),
        ("pickle.loads", set()),
        ("eval", set()),
        ("exec", set()),
    ],
)
def test_what_is_done_in_few_places_only(name: str, places: set[str]) -> None:
    assert {place for place, node in nodes(ast.Attribute, ast.Name) if dotted(node) == name} <= places


def test_nothing_is_taken_out_of_these_modules_by_name() -> None:
    """``from os import environ`` would pass by the test above."""
    hidden = {"os": {"environ", "environb", "getenv", "putenv", "system", "popen", "_exit"}, "sys": {"exit"}}
    found = [
        f"{name}:{node.lineno}"
        for name, node in nodes(ast.ImportFrom)
        if isinstance(node, ast.ImportFrom) and hidden.get(str(node.module), set()) & {alias.name for alias in node.names}
    ]
    assert found == []


def handlers() -> Iterator[tuple[str, ast.ExceptHandler, set[str]]]:
    for name, node in nodes(ast.ExceptHandler):
        assert isinstance(node, ast.ExceptHandler)
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type] if node.type is not None else []
        yield name, node, {dotted(item) for item in caught}


def test_everything_is_caught_at_named_posts_only() -> None:
    broad = [name for name, node, caught in handlers() if "Exception" in caught or node.type is None]
    assert sorted(broad) == sorted(CATCH_ALL)


def test_who_catches_even_cancelling_raises_it_again() -> None:
    for name, node, caught in handlers():
        if "BaseException" in caught:
            last = node.body[-1]
            assert isinstance(last, ast.Raise) and last.exc is None, f"{name}:{node.lineno}"


def test_no_state_in_modules() -> None:
    """``global`` is how it begins."""
    assert [f"{name}:{getattr(node, 'lineno', 0)}" for name, node in nodes(ast.Global)] == []


def test_every_module_says_what_it_is() -> None:
    assert [name for name, path in SOURCES.items() if path.name != "__init__.py" and not ast.get_docstring(TREES[name])] == []
