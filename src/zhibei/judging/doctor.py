"""What is wrong with a machine, a store and settings, or slower than it has to be. Pure: facts in, findings out.

Who gathers the facts is ``cli/commands/doctor.py``. What is not known gives no finding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal
from urllib.parse import urlsplit

from zhibei.engines.registry import no_engine
from zhibei.errors import ZhibeiError
from zhibei.hardware.disk import Room
from zhibei.i18n import N_
from zhibei.models import Leftover, StoredModel
from zhibei.planner.space import space_of
from zhibei.plans import EngineInfo, Hardware, Kernels, Resident
from zhibei.units import format_bytes

Level = Literal["ok", "note", "problem"]
LEVELS: tuple[Level, ...] = ("ok", "note", "problem")
"""From best to worst. A note works, but slower or less than it could; of a problem something will fail."""
CheckName = Literal[
    "engines",
    "kernels",
    "graphics",
    "memory",
    "limits",
    "disk",
    "store",
    "models",
    "downloads",
    "settings",
    "server",
    "running",
    "network",
    "hubs",
]

TEST_ENGINE = "echo"
# Below this not even what Zhibei notes for itself is sure to be written; below the other one most models do not fit.
_ALMOST_NO_BYTES, _LITTLE_BYTES = 100 << 20, 2 << 30
# Swap that was filled once stays filled for long: only much of it tells of memory that is short.
_MUCH_SWAP_SHARE, _MUCH_SWAP_BYTES = 0.5, 512 << 20
_PREFIX = "ZHIBEI_"
_SCHEMES = ("http", "https")
_MIRROR = N_("zhibei pull uses the hubs and mirrors that answer; HF_ENDPOINT and ZHIBEI_HF_MIRRORS name other mirrors.")
_REPULL = N_("Pull it again, or remove it: zhibei rm {name}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``message`` and ``hint`` are English templates for ``values``; a hint says what to do."""

    check: CheckName
    level: Level
    message: str
    hint: str | None = None
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listener:
    """What is found where the server's settings point. ``is_elsewhere``: at another machine, which is not asked.

    ``version`` None: what listens there is no Zhibei, or lets us not in, which is ``problem``. ``residents``: what it runs.
    """

    is_elsewhere: bool = False
    is_listening: bool = False
    version: str | None = None
    problem: ZhibeiError | None = None
    residents: tuple[Resident, ...] = ()


@dataclass(frozen=True, slots=True)
class Opening:
    """Who may reach a server with these settings. ``is_beyond``: other machines; ``is_allowed``: although there is no key."""

    is_beyond: bool
    has_key: bool
    is_allowed: bool


def worst(findings: Sequence[Finding]) -> Level:
    """The level of them all."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def failed(check: CheckName, error: ZhibeiError) -> Finding:
    """A look that an error ended."""
    return Finding(check, "problem", error.message, error.hint, error.values)


def engines(found: Sequence[EngineInfo], wanted: str, known: Collection[str]) -> list[Finding]:
    """Which engines can run, and whether the one that the settings want (``auto``: any) is among the ``known``."""
    findings = []
    if wanted != "auto" and wanted not in known:
        findings.append(failed("engines", no_engine(wanted, known)))
    elif wanted == TEST_ENGINE:
        message = N_("The setting engine is echo, which is for tests: it runs no model, and repeats what it is told.")
        hint = N_("Set engine (ZHIBEI_ENGINE) to auto; zhibei config shows where it is set.")
        findings.append(Finding("engines", "note", message, hint))
    installed = [engine for engine in found if engine.installed]
    for engine in installed:
        values = {"name": engine.name, "version": engine.version or "?", "devices": ", ".join(engine.devices).upper()}
        findings.append(Finding("engines", "ok", N_("{name} {version} is installed, for: {devices}"), None, values))
    missing = next((engine for engine in found if engine.problem is not None), None)
    if not installed and missing is not None and missing.problem is not None:
        findings.append(Finding("engines", "problem", missing.problem, missing.hint))
    return findings


def kernels(engine: EngineInfo, hardware: Hardware, wish: bool | None) -> list[Finding]:
    """Whether kernels of ours compute an engine's products. ``wish``: the setting; None and True: where they can."""
    if not engine.installed or engine.kernels is None:
        return []
    found, has_gpu = engine.kernels, bool(space_of(hardware, devices=engine.devices).gpus)
    if found.problem is not None:
        return [_not_usable(found, hardware, is_needed=wish is not False and not has_gpu)]
    told = {"version": found.version or "?", "level": found.level}
    if has_gpu:
        return [Finding("kernels", "ok", N_("zhibei-kernels {version} is not used, since a graphics card computes"), None, told)]
    if wish is False:
        hint = N_("Turn them on: set load.kernels (ZHIBEI_KERNELS) to true; zhibei config shows where it is turned off.")
        return [
            Finding(
                "kernels",
                "note",
                N_("zhibei-kernels {version} is turned off by a setting, so models answer more slowly than they could"),
                hint,
                told,
            )
        ]
    message = N_("zhibei-kernels {version} is used ({level})")
    if found.attention:
        message = N_("zhibei-kernels {version} is used ({level}, with attention)")
    return [Finding("kernels", "ok", message, None, told)]


def _not_usable(found: Kernels, hardware: Hardware, *, is_needed: bool) -> Finding:
    # What can be mended comes with a hint; on a processor without AVX2 there would be nothing to gain.
    is_of_use = not hardware.cpu_features or "avx2" in hardware.cpu_features
    values = {"problem": found.problem}
    if not is_needed or found.hint is None or not is_of_use:
        return Finding("kernels", "ok", N_("zhibei-kernels is not used: {problem}"), None, values)
    message = N_("zhibei-kernels is not used, so models answer more slowly than they could: {problem}")
    return Finding("kernels", "note", message, found.hint, values)


def graphics(hardware: Hardware, found: Sequence[EngineInfo]) -> list[Finding]:
    """Whether graphics cards are there, and an engine that is installed uses them."""
    if not hardware.gpus:
        return [Finding("graphics", "ok", N_("No graphics processor was found that an engine could use."))]
    devices = tuple(dict.fromkeys(device for engine in found if engine.installed for device in engine.devices)) or ("cpu",)
    space = space_of(hardware, devices=devices)
    values: Mapping[str, object] = {"gpus": ", ".join(dict.fromkeys(gpu.name for gpu in hardware.gpus))}
    if space.gpus:
        used = {"gpus": ", ".join(dict.fromkeys(gpu.name for gpu in space.gpus)), "backend": space.backend}
        return [Finding("graphics", "ok", N_("{gpus} is used ({backend})"), None, used)]
    message = N_("{gpus} is not used: how much memory it has could not be found out.")
    hint = N_("Look whether its driver is installed as its maker says; zhibei hardware shows what is known of it.")
    if space.reasons:
        message, values = space.reasons[0]
        if hardware.backends:
            hint = N_("Install a build of xllamacpp for it (CUDA, ROCm or Vulkan); zhibei hardware shows what the drivers allow.")
    if all(gpu.is_integrated for gpu in hardware.gpus):
        # It shares the processor's memory, which is what answers wait for.
        return [Finding("graphics", "ok", message, None, values)]
    return [Finding("graphics", "note", message, hint, values)]


def memory(hardware: Hardware, smallest: tuple[str, int] | None) -> list[Finding]:
    """Memory of this moment. ``smallest``: the model of the catalogue that needs least, and its bytes."""
    findings = []
    free, total = hardware.available_bytes, hardware.total_bytes
    if free is not None and smallest is not None and free < smallest[1]:
        values = {"free": format_bytes(free), "model": smallest[0], "needed": format_bytes(smallest[1])}
        message = N_("Only {free} is free now; even the smallest model ({model}) needs {needed}.")
        findings.append(Finding("memory", "note", message, _CLOSE, values))
    elif free is not None and total is not None:
        values = {"free": format_bytes(free), "total": format_bytes(total)}
        findings.append(Finding("memory", "ok", N_("{free} of {total} free"), None, values))
    swap, swap_free = hardware.swap_total_bytes, hardware.swap_free_bytes
    if swap and swap_free is not None and swap - swap_free >= max(_MUCH_SWAP_BYTES, swap * _MUCH_SWAP_SHARE):
        values = {"used": format_bytes(swap - swap_free), "total": format_bytes(swap)}
        message = N_("{used} of {total} swap is in use: programs had to make room, and a model that is swapped out is very slow.")
        findings.append(Finding("memory", "note", message, _CLOSE, values))
    return findings


_CLOSE = N_("Close other programs, or unload models: zhibei ps shows them, zhibei stop unloads one.")


def limits(hardware: Hardware, num_machine_threads: int | None) -> list[Finding]:
    """A container's or a group's limits that are smaller than its machine. ``num_machine_threads``: the machine's own."""
    findings = []
    hint = N_("If models should have more, raise the limit where the container or service is started.")
    if hardware.memory_limit_bytes is not None:
        size = {"size": format_bytes(hardware.memory_limit_bytes)}
        message = N_("This container or group may use {size} of memory, which is less than the machine has.")
        findings.append(Finding("limits", "note", message, hint, size))
    if hardware.cpu_limit is not None and num_machine_threads is not None and hardware.cpu_limit < num_machine_threads:
        counts = {"count": hardware.cpu_limit, "total": num_machine_threads}
        message = N_("This container or group may use {count} of the machine's {total} processors.")
        findings.append(Finding("limits", "note", message, hint, counts))
    return findings


def disk(room: Room | None) -> list[Finding]:
    """Space for models."""
    if room is None:
        return []
    values = {"free": format_bytes(room.free_bytes), "total": format_bytes(room.total_bytes)}
    hint = N_("Free some space: zhibei list shows what models take, zhibei rm removes one.")
    if room.free_bytes < _ALMOST_NO_BYTES:
        return [Finding("disk", "problem", N_("The disk for models is full: {free} of {total} free."), hint, values)]
    if room.free_bytes < _LITTLE_BYTES:
        return [Finding("disk", "note", N_("The disk for models is nearly full: {free} of {total} free."), hint, values)]
    return [Finding("disk", "ok", N_("{free} of {total} free for models"), None, values)]


def store(path: object, *, is_writable: bool) -> Finding:
    """Whether models and state can be written where they are kept."""
    if is_writable:
        return Finding("store", "ok", N_("{path} can be written"), None, {"path": path})
    hint = N_("Make it writable, or set ZHIBEI_HOME to a directory that is.")
    return Finding("store", "problem", N_("{path}, where models are kept, cannot be written."), hint, {"path": path})


def models(stored: Sequence[StoredModel]) -> list[Finding]:
    """Models whose files are not there, or of another size; what is in the files is not read."""
    findings = []
    for model in stored:
        if model.problem is not None:
            # What was made here, or lies elsewhere, no source has.
            can_mend = bool(model.source) and not model.in_place and not model.is_created
            values = {"name": model.name, "model": model.name, "problem": model.problem}
            hint = N_("Mend it: zhibei repair {model}") if can_mend else _REPULL
            findings.append(Finding("models", "problem", N_("{model} cannot be used: {problem}"), hint, values))
    if not stored:
        return [Finding("models", "ok", N_("none yet; zhibei pull fetches one"))]
    if not findings:
        size = format_bytes(sum(model.size_bytes for model in stored))
        counts = {"count": len(stored), "size": size}
        findings.append(Finding("models", "ok", N_("{count} here ({size}), with all their files"), None, counts))
    return findings


def downloads(parts: Sequence[Leftover]) -> list[Finding]:
    """Downloads that were cut off; those under way are none."""
    cut_off = [part for part in parts if not part.is_active]
    if not cut_off:
        return []
    values = {"count": len(cut_off), "size": format_bytes(sum(part.size_bytes for part in cut_off))}
    hint = N_("Run the same zhibei pull to go on; zhibei prune removes what has come so far.")
    return [Finding("downloads", "note", N_("cut-off downloads: {count}, which take {size}"), hint, values)]


def broken_settings(error: ZhibeiError) -> list[Finding]:
    """Settings that do not parse: every other command stops at them, and so do the looks that need them."""
    found = failed("settings", error)
    known = error.values.get("known")
    if isinstance(known, str):
        # All the names there are would be a page; the nearest is most likely the one that was meant.
        close = get_close_matches(str(error.values.get("name")), known.split(", "), n=1)
        hint = N_("Did you mean {close}?") if close else N_("docs/reference/settings.md lists all settings.")
        found = replace(found, hint=hint, values={**error.values, "close": "".join(close)})
    message = N_("The store, the server and the network were not looked at: the settings say where they are.")
    return [found, Finding("settings", "note", message, N_("Put the settings right, then run zhibei doctor again."))]


def _close(name: str, known: Collection[str]) -> str:
    """The known variable that was most likely meant; the prefix, which all have, says nothing."""
    by_word = {each.removeprefix(_PREFIX): each for each in known if each.startswith(_PREFIX)}
    return "".join(by_word[word] for word in get_close_matches(name.removeprefix(_PREFIX), by_word, n=1))


def settings(unknown: Sequence[str], known: Collection[str], opening: Opening, *, is_offline: bool = False) -> list[Finding]:
    """Settings that parse. ``unknown``: variables that look like ours and that nothing reads; ``known``: those that are."""
    findings = []
    for name in unknown:
        close = _close(name, known)
        hint = N_("Did you mean {close}?") if close else N_("zhibei config shows the settings that there are.")
        message = N_("The variable {name} is set, but Zhibei knows none of that name: it has no effect.")
        findings.append(Finding("settings", "note", message, hint, {"name": name, "close": close}))
    if opening.is_beyond and not opening.has_key:
        findings.append(_open(opening))
    if is_offline:
        hint = N_("What is already pulled works. To go online again, unset ZHIBEI_OFFLINE (download.offline).")
        findings.append(Finding("settings", "note", N_("Zhibei is set to be offline: nothing can be pulled."), hint))
    return findings or [Finding("settings", "ok", N_("every setting is understood"))]


def _open(opening: Opening) -> Finding:
    hint = N_("Make a key (zhibei key create), or listen on 127.0.0.1 alone (ZHIBEI_HOST, server.host).")
    if opening.is_allowed:
        return Finding(
            "settings", "note", N_("The server may be used by everybody who can reach this machine: it asks no key."), hint
        )
    message = N_("The server is to listen for other machines, but there is no key: it will not start.")
    return Finding("settings", "problem", message, hint)


def server(seen: Listener, own_version: str, port: int) -> list[Finding]:
    """Whether a server runs, of which version, and how its models are computed."""
    if seen.is_elsewhere:
        return [Finding("server", "ok", N_("on another machine, as the settings say; it is not asked"))]
    values: dict[str, object] = {"port": port, "own": own_version, "found": seen.version}
    if not seen.is_listening:
        return [Finding("server", "ok", N_("none runs; zhibei serve starts one"))]
    if seen.problem is not None:
        hint = seen.problem.hint
        return [Finding("server", "note", N_("one runs, but: {problem}"), hint, {**seen.problem.values, "problem": seen.problem})]
    if seen.version is None:
        hint = N_("End that program, or choose another port: ZHIBEI_PORT (server.port), or zhibei serve --port 0 for a free one.")
        return [
            Finding("server", "problem", N_("Another program holds port {port}: zhibei serve cannot start there."), hint, values)
        ]
    if seen.version != own_version:
        hint = N_("Start the server again: Ctrl-C where it runs, then zhibei serve.")
        return [Finding("server", "note", N_("one runs, but is Zhibei {found}; this is {own}"), hint, values)]
    return [Finding("server", "ok", N_("one runs, port {port}"), None, values), *_running(seen.residents)]


def _running(residents: Sequence[Resident]) -> list[Finding]:
    """Models that are computed more slowly than they were meant to be: known only once they are loaded."""
    findings = []
    hint = N_("zhibei logs {name} shows what its engine wrote.")
    for each in residents:
        if each.device_problem is not None:
            values = {"name": each.name, "said": each.device_problem}
            message = N_("The graphics processor fails {name}, which is computed without it: {said}")
            findings.append(Finding("running", "note", message, hint, values))
        if each.kernels is not None and each.kernels.problem is not None:
            values = {"name": each.name, "problem": each.kernels.problem}
            message = N_("{name} is computed without zhibei-kernels: {problem}")
            findings.append(Finding("running", "note", message, each.kernels.hint or hint, values))
    return findings


def proxies(found: Sequence[str | ZhibeiError | None]) -> list[Finding]:
    """The proxies for the hubs' addresses, as the variables have them; they may hold a password, so none is shown."""
    hint = N_("Write HTTPS_PROXY and HTTP_PROXY like http://host:port; SOCKS is not supported.")
    if any(isinstance(proxy, ZhibeiError) or not _is_address(proxy) for proxy in found if proxy is not None):
        return [Finding("network", "note", N_("A proxy is set that cannot be used: downloads will fail."), hint)]
    if any(found):
        return [Finding("network", "ok", N_("downloads go through a proxy"))]
    return []


def _is_address(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy)
        return parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def hubs(asked: Sequence[tuple[str, ZhibeiError | None]]) -> list[Finding]:
    """Whether hubs and mirrors answer: each by its host's name, with what was wrong."""
    findings = []
    is_any_there = any(problem is None for _, problem in asked)
    for host, problem in asked:
        if problem is None:
            findings.append(Finding("hubs", "ok", N_("{host} answers"), None, {"host": host}))
        else:
            hint = _MIRROR if is_any_there else problem.hint
            findings.append(Finding("hubs", "note", problem.message, hint, problem.values))
    return findings
