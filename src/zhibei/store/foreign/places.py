"""Where other programs keep their models on each system. Pure: asks neither the disk nor the environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ForeignPlaces:
    """Directories to look in, by program; none needs to exist.

    ``ollama``: its models directories. ``lm_studio``: its homes, and where it keeps its settings; ``lm_studio_pointer`` is a
    file that names another home. ``hf_cache``: hub caches. ``modelscope``: cache roots. ``jan``: data folders.
    ``gpt4all``: models directories. ``folders``: plain folders that the person named.
    """

    ollama: tuple[Path, ...] = ()
    lm_studio: tuple[Path, ...] = ()
    lm_studio_pointer: Path | None = None
    hf_cache: tuple[Path, ...] = ()
    modelscope: tuple[Path, ...] = ()
    jan: tuple[Path, ...] = ()
    gpt4all: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()


def foreign_places(home: Path, platform: str, variables: Mapping[str, str], folders: Iterable[Path] = ()) -> ForeignPlaces:
    """The places on a system.

    Args:
        home: the person's home directory.
        platform: as ``sys.platform``.
        variables: those of the environment's variables that name such places, as far as they are set: OLLAMA_MODELS, HF_HOME,
            HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, MODELSCOPE_CACHE, XDG_CACHE_HOME, XDG_CONFIG_HOME, XDG_DATA_HOME, APPDATA,
            LOCALAPPDATA.
        folders: plain folders to look in besides.
    """

    given = _Variables(home, variables).paths
    cache = (*given("XDG_CACHE_HOME"), home / ".cache")[0]
    if platform == "win32":
        config = data = (*given("APPDATA"), home / "AppData" / "Roaming")[0]
        local = (*given("LOCALAPPDATA"), home / "AppData" / "Local")[0]
    elif platform == "darwin":
        config = data = local = home / "Library" / "Application Support"
    else:
        config = (*given("XDG_CONFIG_HOME"), home / ".config")[0]
        data = local = (*given("XDG_DATA_HOME"), home / ".local" / "share")[0]
    system_ollama = () if platform == "win32" else (Path("/usr/share/ollama/.ollama/models"),)
    hubs = given("HF_HUB_CACHE") or given("HUGGINGFACE_HUB_CACHE") or given("HF_HOME", "hub")
    return ForeignPlaces(
        ollama=_distinct((*given("OLLAMA_MODELS"), home / ".ollama" / "models", *system_ollama)),
        lm_studio=_distinct((home / ".lmstudio", home / ".cache" / "lm-studio", config / "LM Studio")),
        lm_studio_pointer=home / ".lmstudio-home-pointer",
        hf_cache=_distinct((*hubs, cache / "huggingface" / "hub", home / ".cache" / "huggingface" / "hub")),
        modelscope=_distinct((*given("MODELSCOPE_CACHE"), home / ".cache" / "modelscope")),
        jan=_distinct((data / "Jan" / "data", config / "Jan" / "data", home / "jan")),
        gpt4all=_distinct((local / "nomic.ai" / "GPT4All", home / ".cache" / "gpt4all")),
        folders=_distinct(folders),
    )


@dataclass(frozen=True, slots=True)
class _Variables:
    home: Path
    values: Mapping[str, str]

    def paths(self, name: str, *below: str) -> tuple[Path, ...]:
        """The directory that a variable names; none if it is unset, or of no use without a working directory."""
        text = self.values.get(name, "")
        if "\0" in text:
            return ()
        path = self.home / text[2:] if text.startswith(("~/", "~\\")) else Path(text)
        return (path.joinpath(*below),) if text and path.is_absolute() else ()


def _distinct(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(paths))
