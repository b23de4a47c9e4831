"""The catalogue is complete and in step with the source."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "messages"


@pytest.fixture
def messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, pointed at an empty source tree."""
    loader = SourceFileLoader("messages", str(SCRIPT))
    spec = spec_from_loader("messages", loader)
    assert spec is not None
    module = module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "SOURCE", tmp_path / "src" / "zhibei")
    monkeypatch.setattr(module, "PO", tmp_path / "zhibei.po")
    monkeypatch.setattr(module, "MO", tmp_path / "zhibei.mo")
    return module


def write(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / "src" / "zhibei" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_every_template_of_the_source_is_translated() -> None:
    ran = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_what_is_collected(messages: ModuleType, tmp_path: Path) -> None:
    write(
        tmp_path,
        "errors.py",
        "class ZhibeiError(Exception): ...\n"
        "class Own(ZhibeiError):\n"
        "    FRAME = 'frame {problem}'\n"
        "    def __init__(self, n): super().__init__('own message', hint='own hint')\n",
    )
    write(
        tmp_path,
        "other.py",
        "from zhibei.errors import ZhibeiError\n"
        "class Lower(ZhibeiError): ...\n"
        "HINT = N_('a hint of its own')\n"
        "raise Lower('first {x}', hint=HINT, x=1)\n"
        "raise Lower('a' if x else 'b', hint=other.hint)\n"
        "problem = 'chosen' if x else 'other'\n"
        "raise Lower(problem, reason='a phrase', path='not a phrase')\n"
        "Notice('a notice')\n"
        "print('not a template')\n"
        "self.note('not below cli')\n",
    )
    write(tmp_path, "store/x.py", "BadShape('{where} is odd', where=1)\nPhrase('{where} is gone', where=Phrase('a file'))\n")
    write(tmp_path, "cli/x.py", "i.note('said')\ni.printer.note('already translated')\n")
    extractor = messages.Extractor()
    extractor.run()
    assert set(extractor.found) == {
        "frame {problem}", "own message", "own hint", "a hint of its own", "first {x}", "a", "b", "chosen", "other", "a phrase",
        "a notice", "said", "{where} is odd", "{where} is gone", "a file",
    }  # fmt: skip
    assert extractor.problems == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("N_('new')", "untranslated: 'new'"),
        ("N_(f'{x}')", "must be a literal template"),
        ("N_('a' + x)", "must be a literal template"),
    ],
)
def test_check_fails(messages: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, problem: str) -> None:
    write(tmp_path, "x.py", source)
    assert messages.main(check=True) == 1
    assert problem in capsys.readouterr().err


def test_a_translation_is_kept_and_its_placeholders_are_compared(
    messages: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "x.py", "N_('{a} and {b!r}')")
    messages.main(check=False)
    text = messages.PO.read_text()
    messages.PO.write_text(text.replace('msgid "{a} and {b!r}"\nmsgstr ""', 'msgid "{a} and {b!r}"\nmsgstr "{b} 和 {c}"'))
    capsys.readouterr()
    assert messages.main(check=True) == 1
    assert "placeholders differ" in capsys.readouterr().err
    messages.PO.write_text(text.replace('msgid "{a} and {b!r}"\nmsgstr ""', 'msgid "{a} and {b!r}"\nmsgstr "{b} 和 {a}"'))
    assert messages.main(check=True) == 1
    assert "stale" in capsys.readouterr().err
    assert messages.main(check=False) == 0
    assert messages.main(check=True) == 0
    write(tmp_path, "x.py", "pass")
    assert messages.main(check=True) == 1
    assert "obsolete" in capsys.readouterr().err
