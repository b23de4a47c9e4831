"""How a process ended, in words."""

from __future__ import annotations

import pytest

from zhibei.engines.endings import ending, num_killed_for_memory

FAULT = (
    "CUDA error: unspecified launch failure",
    "  current device: 0, in function ggml_backend_cuda_synchronize at ggml-cuda.cu:2980",
    "ggml-cuda.cu:98: CUDA error",
)


def test_exit_codes_in_words() -> None:
    assert ending(-11).how == "a memory fault in the engine"
    assert (ending(3).how, ending(3).code, ending(3).hint) == ("it ended by itself", "exit code 3", None)
    assert ending(-63).code == "signal 63"


def test_one_that_was_killed_was_so_for_lack_of_memory_only_where_the_system_says_so() -> None:
    unknown, known = ending(-9), ending(-9, for_memory=True)
    assert (unknown.code, known.code) == ("signal 9", "signal 9")
    assert "killed" in unknown.how and "usually" in unknown.how
    assert known.how == "the system killed it because memory ran out"
    assert "--ctx-size" in (unknown.hint or "")


@pytest.mark.parametrize(
    "lines",
    [
        FAULT,
        ("ROCm error: unspecified launch failure",),
        ("terminate called after throwing an instance of 'vk::DeviceLostError'", "  what():  vk::Queue::submit: ErrorDeviceLost"),
        ("ggml_metal_synchronize: error: command buffer 0 failed with status 5",),
    ],
)
def test_a_device_that_failed_is_named_with_what_was_said_of_it(lines: tuple[str, ...]) -> None:
    found = ending(-6, ("0.00.1 I loaded", *lines, "#0 0x7f in abort"))
    assert found.device_failed and lines[0] in found.how and found.code == "signal 6"
    assert "--gpu-layers 0" in (found.hint or "")


@pytest.mark.parametrize("line", ["CUDA error: out of memory", "all is well", "it speaks of CUDA errors"])
def test_what_is_no_failure_of_a_device(line: str) -> None:
    assert not ending(-6, (line,)).device_failed


def test_the_systems_count_is_a_number_or_unknown() -> None:
    assert num_killed_for_memory() is None or num_killed_for_memory() >= 0  # type: ignore[operator]
