"""What the doctor finds: every outcome of every check, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei.engines.llama_cpp.kernels import refused
from zhibei.errors import BadSetting, NotPermitted, Offline
from zhibei.hardware.disk import Room
from zhibei.i18n import Translator
from zhibei.judging import doctor
from zhibei.judging.catalogue import smallest
from zhibei.judging.doctor import Finding, Listener, Opening
from zhibei.models import Leftover, StoredFile, StoredModel
from zhibei.plans import EngineInfo, Gpu, Hardware, Kernels, Resident

GIB = 1 << 30
KNOWN = ("llama.cpp", "echo")
MACHINE = Hardware("A processor", 4, 8, 16 * GIB, 10 * GIB, cpu_features=("avx2",))
KERNELS = Kernels("0.1.0", "avx2", ("Q4_0",), attention=True)
ENGINE = EngineInfo("llama.cpp", True, "2026.10", formats=("gguf",), kernels=KERNELS)
MISSING = EngineInfo(
    "llama.cpp", False, problem="The engine llama.cpp is not installed.", hint="Install it: pip install 'zhibei[llama-cpp]'"
)
CARD = Gpu("NVIDIA GeForce RTX 3060", "NVIDIA", 12 * GIB, 11 * GIB, cuda_version="12.4")
INTEGRATED = Gpu("Intel Iris Xe", "Intel", shared_bytes=8 * GIB, is_integrated=True)
WITH_CARD = replace(MACHINE, gpus=(CARD,), backends=("cuda",))
FOR_CARDS = replace(ENGINE, devices=("cpu", "cuda"))
CLOSED = Opening(is_beyond=False, has_key=False, is_allowed=False)
RESIDENT = Resident("tiny:latest", "llama.cpp", "generate", "ready", 1, 128, 1, 0, 1, None, None)


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    """Level and English text of each; what a hint says, in the same way as a person sees it, must have all its values."""
    text = Translator("en").text
    for finding in findings:
        assert finding.hint is None or "{" not in text(finding.hint, **finding.values)
        assert finding.level == "ok" or finding.hint
    return [(finding.level, text(finding.message, **finding.values)) for finding in findings]


def hint(findings: list[Finding]) -> str:
    (finding,) = findings
    assert finding.hint is not None
    return Translator("en").text(finding.hint, **finding.values)


def stored(name: str, problem: str | None = None, source: str = "hf:o/x", *, in_place: bool = False) -> StoredModel:
    file = StoredFile("model", Path("model.gguf"), 2 * GIB)
    return StoredModel(name, (file,), None, source, datetime.now(timezone.utc), in_place=in_place, problem=problem)


def test_engines() -> None:
    assert told(doctor.engines([ENGINE], "auto", KNOWN)) == [("ok", "llama.cpp 2026.10 is installed, for: CPU")]
    missing = doctor.engines([MISSING], "auto", KNOWN)
    assert told(missing) == [("problem", "The engine llama.cpp is not installed.")]
    assert hint(missing) == "Install it: pip install 'zhibei[llama-cpp]'"
    assert told(doctor.engines([ENGINE], "vllm", KNOWN))[0] == ("problem", "There is no engine 'vllm'.")
    assert told(doctor.engines([ENGINE], "echo", KNOWN))[0][0] == "note"
    assert told(doctor.engines([ENGINE], "llama.cpp", KNOWN))[0][0] == "ok"


def test_kernels_that_can_be_used() -> None:
    used = ("ok", "zhibei-kernels 0.1.0 is used (avx2, with attention)")
    assert told(doctor.kernels(ENGINE, MACHINE, None)) == told(doctor.kernels(ENGINE, MACHINE, True)) == [used]
    plain = replace(ENGINE, kernels=replace(KERNELS, attention=False))
    assert told(doctor.kernels(plain, MACHINE, None)) == [("ok", "zhibei-kernels 0.1.0 is used (avx2)")]
    ((level, message),) = told(doctor.kernels(ENGINE, MACHINE, False))
    assert level == "note" and "turned off by a setting" in message
    assert "ZHIBEI_KERNELS" in hint(doctor.kernels(ENGINE, MACHINE, False))
    ((level, message),) = told(doctor.kernels(FOR_CARDS, WITH_CARD, None))
    assert level == "ok" and "since a graphics card computes" in message
    assert told(doctor.kernels(ENGINE, WITH_CARD, None)) == [used]


def test_nothing_is_said_of_kernels_without_their_engine() -> None:
    assert doctor.kernels(replace(MISSING, kernels=KERNELS), MACHINE, None) == []
    assert doctor.kernels(replace(ENGINE, kernels=None), MACHINE, None) == []


@pytest.mark.parametrize("status", ["not-installed", "other-version", "not-built", "not-loaded", "no-library"])
def test_kernels_that_could_be_used_after_some_work(status: str) -> None:
    engine = replace(ENGINE, kernels=refused(status))
    found = doctor.kernels(engine, MACHINE, None)
    assert found[0].level == "note" and "more slowly than they could" in found[0].message
    assert "./kernels" in hint(found)
    # Nobody needs them there.
    for hardware, its, wish in ((MACHINE, engine, False), (WITH_CARD, replace(engine, devices=("cpu", "cuda")), None)):
        assert told(doctor.kernels(its, hardware, wish))[0][0] == "ok"
    old = replace(MACHINE, cpu_features=("sse4_2",))
    assert told(doctor.kernels(engine, old, None))[0][0] == "ok"


@pytest.mark.parametrize("status", ["other-machine", "no-level"])
def test_kernels_that_can_never_be_used_here(status: str) -> None:
    ((level, message),) = told(doctor.kernels(replace(ENGINE, kernels=refused(status)), MACHINE, None))
    assert level == "ok" and message.startswith("zhibei-kernels is not used: ")


def test_graphics() -> None:
    none = [("ok", "No graphics processor was found that an engine could use.")]
    assert told(doctor.graphics(MACHINE, [ENGINE])) == none
    assert told(doctor.graphics(WITH_CARD, [FOR_CARDS])) == [("ok", "NVIDIA GeForce RTX 3060 is used (cuda)")]
    idle = doctor.graphics(WITH_CARD, [ENGINE])
    says = "NVIDIA GeForce RTX 3060 is not used: the engine that is installed computes on the processor alone."
    assert told(idle) == told(doctor.graphics(WITH_CARD, [MISSING])) == [("note", says)]
    assert "xllamacpp" in hint(idle)
    driverless = doctor.graphics(replace(WITH_CARD, backends=()), [FOR_CARDS])
    assert told(driverless)[0][0] == "note" and "no driver was found" in told(driverless)[0][1]
    assert "driver" in hint(driverless)
    unknown = doctor.graphics(replace(WITH_CARD, gpus=(replace(CARD, total_bytes=None, free_bytes=None),)), [FOR_CARDS])
    assert told(unknown)[0][0] == "note" and "how much memory" in told(unknown)[0][1]


def test_a_graphics_processor_inside_the_processor_is_nothing_to_worry_about() -> None:
    ((level, message),) = told(doctor.graphics(replace(MACHINE, gpus=(INTEGRATED,), backends=("vulkan",)), [ENGINE]))
    assert level == "ok" and message.startswith("Intel Iris Xe is not used")


def test_memory() -> None:
    least = ("smollm2:135m", 300 << 20)
    assert told(doctor.memory(MACHINE, least)) == [("ok", "10.0 GiB of 16.0 GiB free")]
    assert told(doctor.memory(MACHINE, None)) == [("ok", "10.0 GiB of 16.0 GiB free")]
    assert doctor.memory(replace(MACHINE, available_bytes=None), least) == []
    little = told(doctor.memory(replace(MACHINE, available_bytes=200 << 20), least))
    assert little == [("note", "Only 200 MiB is free now; even the smallest model (smollm2:135m) needs 300 MiB.")]


@pytest.mark.parametrize(
    ("total", "free", "is_much"),
    [(8 * GIB, 3 * GIB, True), (8 * GIB, 5 * GIB, False), (GIB // 4, 0, False), (0, 0, False), (None, None, False)],
)
def test_swap(total: int | None, free: int | None, is_much: bool) -> None:
    found = told(doctor.memory(replace(MACHINE, swap_total_bytes=total, swap_free_bytes=free), None))
    assert [level for level, _ in found] == (["ok", "note"] if is_much else ["ok"])


def test_the_smallest_model_of_the_catalogue_needs_little_and_something() -> None:
    name, num_bytes = smallest(WITH_CARD)
    assert ":" in name and (50 << 20) < num_bytes < GIB
    assert smallest(replace(MACHINE, available_bytes=1 << 20))[0] == name


def test_limits() -> None:
    assert doctor.limits(MACHINE, 8) == []
    assert doctor.limits(replace(MACHINE, cpu_limit=8), 8) == doctor.limits(replace(MACHINE, cpu_limit=2), None) == []
    tight = told(doctor.limits(replace(MACHINE, memory_limit_bytes=2 * GIB, cpu_limit=2), 8))
    assert [level for level, _ in tight] == ["note", "note"]
    assert "2.0 GiB" in tight[0][1] and "2 of the machine's 8 processors" in tight[1][1]


@pytest.mark.parametrize(("free", "level"), [(50 << 20, "problem"), (GIB, "note"), (90 * GIB, "ok")])
def test_disk(free: int, level: str) -> None:
    assert [each for each, _ in told(doctor.disk(Room(100 * GIB, free)))] == [level]
    assert doctor.disk(None) == []


def test_store() -> None:
    assert told([doctor.store("/x", is_writable=True)]) == [("ok", "/x can be written")]
    assert told([doctor.store("/x", is_writable=False)]) == [("problem", "/x, where models are kept, cannot be written.")]


def test_models() -> None:
    assert told(doctor.models([])) == [("ok", "none yet; zhibei pull fetches one")]
    assert told(doctor.models([stored("a:1"), stored("b:1")])) == [("ok", "2 here (4.0 GiB), with all their files")]
    broken = doctor.models([stored("a:1", "its file x is missing"), stored("b:1")])
    assert told(broken) == [("problem", "a:1 cannot be used: its file x is missing")]
    assert hint(broken) == "Mend it: zhibei repair a:1"


@pytest.mark.parametrize(
    "model", [stored("a:1", "gone", "file:/x", in_place=True), stored("a:1", "gone", "created:x"), stored("a:1", "gone", "")]
)
def test_models_that_no_source_has(model: StoredModel) -> None:
    assert hint(doctor.models([model])) == "Pull it again, or remove it: zhibei rm a:1"


def test_downloads() -> None:
    part = Leftover("part", Path("x.part"), 3 << 20, "hf:o/x")
    assert doctor.downloads([replace(part, is_active=True)]) == []
    found = doctor.downloads([part, part])
    assert told(found) == [("note", "cut-off downloads: 2, which take 6.0 MiB")]
    assert "zhibei pull" in hint(found) and "zhibei prune" in hint(found)


def test_settings() -> None:
    known = ("ZHIBEI_PORT", "ZHIBEI_HOST", "HF_TOKEN")
    assert told(doctor.settings((), known, CLOSED)) == [("ok", "every setting is understood")]
    assert hint(doctor.settings(("ZHIBEI_PROT",), known, CLOSED)) == "Did you mean ZHIBEI_PORT?"
    assert "zhibei config" in hint(doctor.settings(("ZHIBEI_XYZ",), known, CLOSED))
    assert told(doctor.settings((), known, CLOSED, is_offline=True))[0][0] == "note"


def test_a_server_that_others_can_reach() -> None:
    for has_key, is_allowed, level in ((False, False, "problem"), (False, True, "note"), (True, False, "ok")):
        opening = Opening(is_beyond=True, has_key=has_key, is_allowed=is_allowed)
        assert [each for each, _ in told(doctor.settings((), (), opening))] == [level]


def test_settings_that_do_not_parse() -> None:
    error = BadSetting("There is no setting {name!r}.", hint="Known: {known}", name="server.prot", known="server.port, lang")
    found = doctor.broken_settings(error)
    assert told(found)[0] == ("problem", "There is no setting 'server.prot'.")
    assert hint(found[:1]) == "Did you mean server.port?" and found[1].level == "note"
    far = BadSetting("There is no setting {name!r}.", hint="Known: {known}", name="zzz", known="server.port, lang")
    assert "settings.md" in hint(doctor.broken_settings(far)[:1])
    other = BadSetting("{port} is not a port.", hint="Ports are 1 to 65535.", port=70000)
    assert hint(doctor.broken_settings(other)[:1]) == "Ports are 1 to 65535."


@pytest.mark.parametrize(
    ("seen", "level", "words"),
    [
        (Listener(is_elsewhere=True), "ok", "another machine"),
        (Listener(), "ok", "none runs"),
        (Listener(is_listening=True, version="1.0"), "ok", "port 11435"),
        (Listener(is_listening=True, version="0.9"), "note", "is Zhibei 0.9; this is 1.0"),
        (Listener(is_listening=True), "problem", "Another program holds port 11435"),
        (
            Listener(is_listening=True, problem=NotPermitted("It wants a key.", hint="Set ZHIBEI_API_KEY to its key.")),
            "note",
            "one runs, but: It wants a key.",
        ),
    ],
)
def test_server(seen: Listener, level: str, words: str) -> None:
    ((found, message),) = told(doctor.server(seen, "1.0", 11435))
    assert found == level and words in message


def test_models_that_are_loaded_otherwise_than_meant() -> None:
    residents = (
        RESIDENT,
        replace(RESIDENT, kernels=KERNELS),
        replace(RESIDENT, kernels=refused("wrong-results")),
        replace(RESIDENT, kernels=refused("crashed")),
        replace(RESIDENT, device_problem="CUDA error: x"),
    )
    found = doctor.server(Listener(is_listening=True, version="1.0", residents=residents), "1.0", 1)[1:]
    assert [level for level, _ in told(found)] == ["note"] * 3
    assert [hint([each]) for each in found] == [
        "zhibei logs tiny:latest shows what its engine wrote.",
        "Load it without them: --no-kernels",
        "zhibei logs tiny:latest shows what its engine wrote.",
    ]


@pytest.mark.parametrize(
    ("proxy", "level"),
    [
        ("http://proxy:3128", "ok"),
        ("https://user:secret@proxy:1", "ok"),
        ("http://", "note"),
        ("http://proxy:port", "note"),
        ("http://[::1", "note"),
        (BadSetting("The proxy {proxy} is of a kind that is not supported.", proxy="x"), "note"),
    ],
)
def test_proxies(proxy: str | BadSetting, level: str) -> None:
    ((found, message),) = told(doctor.proxies([None, proxy]))
    assert found == level and "proxy:" not in message and "secret" not in message
    assert doctor.proxies([None, None]) == []


def test_hubs() -> None:
    problem = Offline("{host} cannot be reached.", hint="Check the connection.", host="b")
    some = doctor.hubs([("a", None), ("b", problem)])
    assert told(some) == [("ok", "a answers"), ("note", "b cannot be reached.")]
    assert "HF_ENDPOINT" in hint(some[1:])
    assert hint(doctor.hubs([("b", problem)])) == "Check the connection."


def test_the_worst_of_all() -> None:
    assert doctor.worst([]) == "ok"
    found = [*doctor.disk(Room(100 * GIB, GIB)), doctor.store("x", is_writable=True)]
    assert doctor.worst(found) == "note"
    assert doctor.worst([doctor.failed("models", BadSetting("x")), *found]) == "problem"
