"""``zhibei doctor``: the report in both languages, its exit codes, and what it never tells."""

from __future__ import annotations

import io
import json
import platform
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from support.program import Program, free_port
from support.pulling import blobs
from support.running_hub import RunningHub
from support.serving import serving, stored_model
from zhibei import __version__
from zhibei.cli import doctor_text
from zhibei.cli.doctor_text import Report
from zhibei.cli.main import run
from zhibei.cli.printer import Printer
from zhibei.cli.render import columns
from zhibei.hardware.disk import Room
from zhibei.i18n import Translator
from zhibei.judging.doctor import Finding
from zhibei.plans import EngineInfo, Gpu, Hardware, Kernels

GIB = 1 << 30
MACHINE = Hardware(
    "AMD Ryzen 7 5800X",
    8,
    16,
    32 * GIB,
    20 * GIB,
    gpus=(Gpu("NVIDIA GeForce RTX 3060", "NVIDIA", 12 * GIB, 11 * GIB, cuda_version="12.4"),),
    cpu_features=("avx2",),
    system="Ubuntu",
    system_version="24.04",
    memory_limit_bytes=None,
    backends=("cuda",),
)
KERNELS = Kernels(None, None, problem="they are not installed", hint="Install them, in a clone of Zhibei: pip install ./kernels")
ENGINE = EngineInfo("llama.cpp", True, "2026.10", formats=("gguf",), kernels=KERNELS)
MISSING = EngineInfo(
    "llama.cpp", False, problem="The engine llama.cpp is not installed.", hint="Install it: pip install 'zhibei[llama-cpp]'"
)
HEAD = f"""\
Zhibei     {__version__}, Python {platform.python_version()}
System     Ubuntu 24.04, {platform.machine()}
Processor  AMD Ryzen 7 5800X; cores: 8, 16 threads; AVX2
Memory     20.0 GiB of 32.0 GiB free
Graphics   NVIDIA GeForce RTX 3060 (11.0 GiB of 12.0 GiB free)

"""
REPORT = """\
ok       Engines   llama.cpp 2026.10 is installed, for: CPU
note     Kernels   zhibei-kernels is not used, so models answer more slowly than
                   they could: they are not installed
                   hint: Install them, in a clone of Zhibei: pip install ./kernels
note     Graphics  NVIDIA GeForce RTX 3060 is not used: the engine that is
                   installed computes on the processor alone.
                   hint: Install a build of xllamacpp for it (CUDA, ROCm or
                   Vulkan); zhibei hardware shows what the drivers allow.
ok       Memory    20.0 GiB of 32.0 GiB free
ok       Disk      90.0 GiB of 500 GiB free for models
ok       Store     ~/models can be written
ok       Models    none yet; zhibei pull fetches one
ok       Settings  every setting is understood
ok       Server    none runs; zhibei serve starts one

Nothing is wrong; notes: 2.
"""
CHINESE = f"""\
Zhibei  {__version__}, Python {platform.python_version()}
系统    Ubuntu 24.04, {platform.machine()}
处理器  AMD Ryzen 7 5800X；核心：8，16 线程；AVX2
内存    32.0 GiB 中有 20.0 GiB 可用
显卡    NVIDIA GeForce RTX 3060 (12.0 GiB 中有 11.0 GiB 可用)

问题  引擎    没有安装引擎 llama.cpp。
              提示：请安装：pip install 'zhibei[llama-cpp]'
"""
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's directory on the machine above, whose store is in it."""
    directory = tmp_path / "adalovelace"
    directory.mkdir()
    for name, value in {
        "HOME": str(directory),
        "USERPROFILE": str(directory),
        "XDG_CONFIG_HOME": str(directory / "config"),
        "LANG": "C.UTF-8",
        "ZHIBEI_HOME": str(directory / "models"),
        "ZHIBEI_PORT": str(free_port()),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr("zhibei.hardware.detect.detect", lambda: MACHINE)
    monkeypatch.setattr("zhibei.judging.machine.engines_here", lambda: (ENGINE,))
    monkeypatch.setattr("zhibei.hardware.disk.room", lambda directory: Room(500 * GIB, 90 * GIB))
    return directory


@pytest.fixture
def ask(person: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The doctor in this process: exit code and stdout. It never writes to stderr."""

    def asked(*words: str) -> tuple[int, str]:
        code = run([*words])
        captured = capsys.readouterr()
        assert captured.err == ""
        return code, captured.out

    return asked


def findings(program: Program, *words: str, code: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Level and message of what the program finds, by check."""
    ran = program("doctor", "--json", *words)
    assert (ran.code, ran.err) == (code, "")
    found: dict[str, list[tuple[str, str]]] = {}
    for each in json.loads(ran.out)["findings"]:
        found.setdefault(each["check"], []).append((each["level"], each["message"]))
    return found


def test_a_report(ask: Ask, person: Path) -> None:
    assert ask("doctor") == (0, HEAD + REPORT)
    # Looking makes no directory.
    assert list(person.iterdir()) == []


def test_without_an_engine_in_chinese(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhibei.judging.machine.engines_here", lambda: (MISSING,))
    code, out = ask("--lang", "zh", "doctor")
    assert code == 6
    assert out.startswith(CHINESE)
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("问题", "注意"))] == ["问题", "注意", "问题"]
    assert all(columns(line) <= 80 for line in out.splitlines())


def test_json_has_the_same_facts(ask: Ask) -> None:
    code, out = ask("doctor", "--json")
    document = json.loads(out)
    assert code == 0 and document["level"] == "note" and document["version"] == __version__
    assert document["processor"] == {
        "name": "AMD Ryzen 7 5800X",
        "num_physical_cores": 8,
        "num_logical_cores": 16,
        "features": ["avx2"],
    }
    assert document["memory"] == {"total_bytes": 32 * GIB, "available_bytes": 20 * GIB}
    assert document["gpus"] == [{"name": "NVIDIA GeForce RTX 3060", "total_bytes": 12 * GIB, "driver_version": None}]
    assert document["findings"][1] == {
        "check": "kernels",
        "level": "note",
        "message": "zhibei-kernels is not used, so models answer more slowly than they could: they are not installed",
        "hint": "Install them, in a clone of Zhibei: pip install ./kernels",
    }
    checks = [finding["check"] for finding in document["findings"]]
    assert checks == "engines kernels graphics memory disk store models settings server".split()


def test_a_report_tells_nothing_of_the_person(ask: Ask, person: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIBEI_API_KEY", "secret-key")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://adalovelace:secret-password@proxy:1")
    outside = person.parent / "disk" / "adalovelace" / "models"
    for home in (person / "models", outside):
        monkeypatch.setenv("ZHIBEI_HOME", str(home))
        for words in (("doctor",), ("doctor", "--json"), ("--lang", "zh", "doctor")):
            _, out = ask(*words)
            assert "lovelace" not in out and "secret" not in out and socket.gethostname() not in out
    assert "/…/models" in ask("doctor", "--json")[1]


def test_settings_that_do_not_parse_do_not_stop_it(ask: Ask, person: Path) -> None:
    config = person / "config.toml"
    config.write_text("[server]\nprot = 1\n", encoding="utf-8")
    code, out = ask("--config", str(config), "doctor")
    assert code == 2
    assert "problem  Settings  There is no setting 'prot' (~/config.toml: server.prot)." in out
    assert out.endswith("Problems: 1; notes: 3.\n")


def test_what_is_to_be_done_alike_is_said_once() -> None:
    twice = tuple(Finding("hubs", "note", "{host} is gone.", "Wait.", {"host": host}) for host in "ab")
    other = Finding("hubs", "note", "c is gone.", "Run.")
    lines = doctor_text.lines(
        Report(MACHINE, (*twice, other), Path("/home/adalovelace")), Translator("en"), 80, lambda text, style: text
    )
    assert [line.split(":")[-1].strip() for line in lines if "hint" in line] == ["Wait.", "Run."]
    assert lines[7].endswith("b is gone.")


@pytest.mark.parametrize("is_coloured", [True, False])
def test_colours_only_the_marks_and_only_where_they_are_wanted(is_coloured: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    printer = Printer(color=is_coloured, out=Terminal())
    found = (Finding("disk", "problem", "It is full.", "Free some."), Finding("store", "ok", "It is well."))
    lines = doctor_text.lines(Report(MACHINE, found, Path("/home/adalovelace")), Translator("en"), 80, printer.styled)
    marks = [line.partition(" Disk")[0].partition(" Store")[0] for line in (lines[6], lines[8])]
    assert marks == (["\x1b[31mproblem\x1b[0m ", "\x1b[32mok     \x1b[0m "] if is_coloured else ["problem ", "ok      "])


def test_a_model_whose_file_is_missing(program: Program) -> None:
    (program.directory / "tiny.gguf").write_bytes(b"")
    stored_model(program.home)
    assert findings(program)["models"] == [("ok", "1 here (6.5 KiB), with all their files")]
    (blob,) = blobs(program.home)
    blob.unlink()
    ((level, message),) = findings(program, code=5)["models"]
    assert level == "problem" and message.startswith("tiny:latest cannot be used: its file ")
    manifest = next(path for path in (program.home / "manifests").rglob("*") if path.is_file())
    manifest.write_text("{")
    ((level, message),) = findings(program, code=5)["models"]
    assert level == "problem" and "cannot be used" in message


def test_variables_and_addresses(program: Program) -> None:
    program.extra |= {"ZHIBEI_PROT": "1", "ZHIBEI_OFFLINE": "1", "ZHIBEI_HOST": "0.0.0.0"}
    found = findings(program, code=2)
    assert [level for level, _ in found["settings"]] == ["note", "problem", "note"]
    assert "ZHIBEI_PROT" in found["settings"][0][1]
    # The scripted engine that these tests run with is not a person's choice.
    assert found["engines"][0][0] == "note"
    program.extra |= {"ZHIBEI_HOST": "192.0.2.1"}
    assert findings(program)["server"] == [("ok", "on another machine, as the settings say; it is not asked")]


def test_a_key_for_those_who_come_from_elsewhere(program: Program) -> None:
    program.extra["ZHIBEI_HOST"] = "0.0.0.0"
    assert program("key", "create", "--name", "mine").code == 0
    assert findings(program)["settings"] == [("ok", "every setting is understood")]
    (keys,) = (path for path in program.home.rglob("*keys*") if path.suffix in (".json", ".toml"))
    keys.write_text("nonsense")
    ((level, _),) = findings(program, code=2)["settings"]
    assert level == "problem"


def test_another_program_holds_the_port(program: Program, hub: RunningHub) -> None:
    program.extra["ZHIBEI_PORT"] = hub.url.rpartition(":")[2]
    ((level, message),) = findings(program, code=2)["server"]
    assert level == "problem" and message.startswith("Another program holds port ")


def test_a_store_that_cannot_be_made(program: Program) -> None:
    program.home.write_text("a file in its place")
    found = findings(program, code=5)
    assert found["store"] == [("problem", "[DIR]/home, where models are kept, cannot be written.")]


def test_a_server_runs(program: Program, tmp_path: Path) -> None:
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        program.extra["ZHIBEI_PORT"] = str(server.port)
        assert findings(program)["server"] == [("ok", f"one runs, port {server.port}")]


def test_a_download_that_was_cut_off(cut_off: Program) -> None:
    ((level, message),) = findings(cut_off)["downloads"]
    assert level == "note" and message.startswith("cut-off downloads: 1, which take ")


def test_hubs_are_asked_only_if_that_is_wished(program: Program, hub: RunningHub) -> None:
    before = len(hub.hub.log)
    assert "hubs" not in findings(program) and len(hub.hub.log) == before
    program.extra["ZHIBEI_OLLAMA_REGISTRY"] = hub.url
    program.extra["HF_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    found = findings(program, "--online")["hubs"]
    assert [level for level, _ in found] == ["note", "ok"]
    assert len(hub.hub.log) > before
