"""One child process through every way it can live and end, with a fake worker instead of an engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from zhibei.engines.process import EngineProcess
from zhibei.errors import EngineMissing, EngineStartFailed

FAKE = Path(__file__).parents[2] / "support" / "fake_worker.py"


def process(mode: str, log: list[str] | None = None) -> EngineProcess:
    lines = log if log is not None else []
    return EngineProcess(
        "tiny:latest", [sys.executable, str(FAKE), mode], lambda key: json.dumps({"key": key}).encode(), lines.append
    )


async def wait_until_gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_one_child_however_many_ask() -> None:
    child = process("ready")
    assert child.state == "stopped"
    answers = await asyncio.gather(*(child.ensure_ready() for _ in range(8)))
    assert len({answer.address for answer in answers}) == 1
    assert answers[0].key in answers[0].address, "the child was given the key on standard input"
    assert child.state == "ready"
    with child.call():
        assert child.state == "busy"
    status = child.status()
    assert status.pid is not None and status.memory_bytes is not None and status.memory_bytes > 1_000_000
    await child.close()
    assert child.state == "stopped"
    assert not psutil.pid_exists(status.pid)


async def test_each_start_has_its_own_key() -> None:
    first, second = process("ready"), process("ready")
    assert (await first.ensure_ready()).key != (await second.ensure_ready()).key
    await first.close()
    await second.close()


async def test_close_is_idempotent_and_final() -> None:
    child = process("ready")
    await child.ensure_ready()
    await child.close()
    await child.close()
    with pytest.raises(EngineStartFailed):
        await child.ensure_ready()


@pytest.mark.parametrize(
    ("mode", "words"),
    [("crash", "signal 11"), ("exit", "exit code 3"), ("garbage", "ended by itself")],
)
async def test_a_start_that_fails_says_how_and_leaves_nothing(mode: str, words: str) -> None:
    child = process(mode)
    with pytest.raises(EngineStartFailed) as caught:
        await child.ensure_ready()
    assert words in str(caught.value)
    assert child.state == "failed"
    assert child.status().pid is None
    if mode == "exit":
        assert "bad magic in model file" in caught.value.log_tail
    await child.close()


async def test_a_missing_library_is_named() -> None:
    child = process("missing")
    with pytest.raises(EngineMissing) as caught:
        await child.ensure_ready()
    assert str(caught.value) == "It lacks libgomp."
    assert caught.value.hint_text == "Get libgomp."
    await child.close()


async def test_a_cancelled_start_leaves_no_process() -> None:
    child = process("hang")
    start = asyncio.create_task(child.ensure_ready())
    async with asyncio.timeout(10):
        while child.status().pid is None:
            await asyncio.sleep(0.01)
    pid = child.status().pid
    assert pid is not None
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not psutil.pid_exists(pid)
    await child.close()


async def test_a_child_that_dies_is_started_again() -> None:
    child = process("ready")
    first = await child.ensure_ready()
    pid = child.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while child.state != "failed":
            await asyncio.sleep(0.01)
    error = await child.died(first)
    assert "signal 9" in str(error)
    again = await child.ensure_ready()
    assert child.state == "ready"
    assert str(pid) not in again.address
    assert child.status().pid != pid
    await child.close()


async def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhibei.engines.process.STOP_GRACE_S", 0.2)
    child = process("stubborn")
    await child.ensure_ready()
    pid = child.status().pid
    assert pid is not None
    await child.close()
    assert not psutil.pid_exists(pid)


async def test_grandchildren_are_reaped_too() -> None:
    child = process("grandchild")
    address = (await child.ensure_ready()).address
    grandchild = int(address.split("/")[3])
    assert psutil.pid_exists(grandchild)
    await child.close()
    await wait_until_gone(grandchild)


async def test_a_flood_of_log_does_not_block_and_is_capped() -> None:
    lines: list[str] = []
    child = process("flood", lines)
    await child.ensure_ready()
    await child.close()
    assert max(map(len, lines)) <= 4096
    assert "last words" in lines
    assert len(child.log_tail()) <= 12


async def test_the_child_has_no_secrets_and_a_neutral_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "ZHIBEI_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, "hunter2")
    lines: list[str] = []
    child = process("ready", lines)
    await child.ensure_ready()
    pid = child.status().pid
    assert pid is not None
    assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    key = (await child.ensure_ready()).key
    await child.close()
    assert b"hunter2" not in environment
    assert key.encode() not in environment + command


def test_the_child_ends_with_its_parent_even_on_sigkill(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, json, sys
        from zhibei.engines.process import EngineProcess
        async def main():
            child = EngineProcess("x", [sys.executable, {str(FAKE)!r}, "ready"],
                                  lambda key: json.dumps({{"key": key}}).encode(), lambda line: None)
            await child.ensure_ready()
            print(child.status().pid, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    asyncio.run(wait_until_gone(pid))
