"""Which files of a safetensors repository are the model: weights, what belongs to them, the licence. Never code, never pickles.

Pure. Knows how publishers name files; knows no hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from zhibei.errors import ModelNotFound, Unsupported
from zhibei.i18n import N_

INCOMPLETE_HINT = N_("The upload may not be complete. Choose another variant or another repository.")
_PLAIN = "safetensors"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$", re.ASCII)
_INDEX = re.compile(r"(?P<stem>.+)\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json", re.ASCII)
_CONFIG = re.compile(
    r"config\.json|generation_config\.json|tokenizer[\w-]*\.(?:json|model)|tokenizer\.model\.v\d+|tekken\.json"
    r"|vocab\.(?:json|txt)|merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template\.(?:json|jinja)"
    r"|(?:video_)?preprocessor_config\.json|processor_config\.json|(?:quantize|quant|quantization|hf_quant)_config\.json"
    r"|modules\.json|config_sentence_transformers\.json|sentence_bert_config\.json|1_Pooling/config\.json"
    r"|[\w-]+\.tiktoken|spiece\.model|sentencepiece\.bpe\.model|adapter_config\.json",
    re.ASCII,
)
_LICENCE = re.compile(r"LICEN[CS]E(?:[._-][\w.-]*)?", re.ASCII)
_LICENCE_ENDINGS = ("", ".txt", ".md", ".rst", ".pdf")


def is_of_safetensors(name: str) -> bool:
    """Whether a file of this name may belong to a model of safetensors, the weights themselves apart."""
    return bool(_CONFIG.fullmatch(name) or (_INDEX.fullmatch(name) and "/" not in name) or _is_licence(name))


def pick_safetensors(
    repository: str, what: str | None, names: Iterable[str]
) -> tuple[tuple[tuple[str, str], ...] | None, str, tuple[str, ...]]:
    """``(files with their roles, the label of what was picked, all labels)``; files None: there is no such variant.

    Raises:
        Unsupported: an adapter without its model, or weights without a configuration.
        ModelNotFound: a shard is missing, or the weights are not at the root.
    """
    known = sorted(set(names))
    families = _families(known)
    _check_is_model(repository, known, families)
    labels = {_label(stem, families): stem for stem in sorted(families)}
    asked = what.casefold() if what is not None else None
    if asked is not None and asked not in (_PLAIN, *(label.casefold() for label in labels)):
        stems = [stem for stem, files in families.items() if what in files]
        if not stems:
            return None, "", tuple(labels)
        asked = _label(stems[0], families).casefold()
    label = next((label for label in labels if label.casefold() == asked), _PLAIN if _PLAIN in labels else min(labels))
    chosen = _chosen(labels[label], families, is_all=label == _PLAIN)
    for stem in chosen:
        _check_complete(repository, families[stem])
    weights = [(name, "weights") for stem in chosen for name in families[stem]]
    rest = [(name, _role(name)) for name in known if is_of_safetensors(name) and _belongs(name, chosen)]
    return (*weights, *rest), label, tuple(labels)


def _families(names: list[str]) -> dict[str, list[str]]:
    """Weights at the root by their name without the shard's number, but copies in another layout and adapters."""
    families: dict[str, list[str]] = {}
    for name in names:
        if name.endswith(".safetensors") and "/" not in name:
            families.setdefault(_SHARD.sub("", name.removesuffix(".safetensors")), []).append(name)
    for stem in list(families):
        is_copy = stem.lower().startswith("consolidated") and not all(
            other.lower().startswith("consolidated") for other in families
        )
        if is_copy or stem.startswith("adapter_"):
            del families[stem]
    return families


def _check_is_model(repository: str, names: list[str], families: dict[str, list[str]]) -> None:
    if not families and "adapter_config.json" in names:
        raise Unsupported(
            "{repository} is an adapter (LoRA), not a whole model.",
            hint="Look for a repository in which it is merged with its model, or for a GGUF of it.",
            repository=repository,
        )
    if not families:
        raise ModelNotFound(
            "{repository} has no model at its top level; its safetensors files are parts of something else.",
            hint="Only language models in one directory, or GGUF files, can be pulled.",
            repository=repository,
        )
    if "config.json" not in names:
        raise Unsupported(
            "{repository} has weights but no config.json that says what they are.",
            hint="Look for a GGUF of the same model: zhibei search {name}",
            repository=repository,
            name=repository.partition("/")[2],
        )


def _label(stem: str, families: dict[str, list[str]]) -> str:
    """``model`` and what stands beside it are the plain weights; ``model.fp16`` is the variant ``fp16`` of ``model``."""
    base, dot, variant = stem.rpartition(".")
    if dot and (base in families or base in ("model", "pytorch_model", "diffusion_pytorch_model")):
        return variant
    return _PLAIN if stem == "model" or "model" not in families else stem


def _chosen(stem: str, families: dict[str, list[str]], *, is_all: bool) -> list[str]:
    """The plain weights are all that is no variant of another; a variant is itself alone."""
    if not is_all:
        return [stem]
    plain = [other for other in sorted(families) if "." not in other or other.rpartition(".")[0] not in families]
    return sorted(plain, key=lambda other: (other != stem, other))


def _check_complete(repository: str, names: list[str]) -> None:
    shards = [match for name in names if (match := _SHARD.search(name.removesuffix(".safetensors")))]
    if not shards:
        return
    counts = {int(match[2]) for match in shards}
    if len(counts) != 1 or {int(match[1]) for match in shards} != set(range(1, min(counts) + 1)):
        raise ModelNotFound(
            "{repository} has only some of the files of {what}.",
            hint=INCOMPLETE_HINT,
            repository=repository,
            what=_SHARD.sub("", names[0].removesuffix(".safetensors")),
        )


def _belongs(name: str, chosen: list[str]) -> bool:
    """An index belongs to its weights; an adapter's configuration to none of these; the rest to all."""
    match = _INDEX.fullmatch(name)
    if match is None:
        return name != "adapter_config.json"
    stem = f"{match['stem']}.{match['variant']}" if match["variant"] else match["stem"]
    return stem in chosen


def _role(name: str) -> str:
    return "licence" if _is_licence(name) else "config"


def _is_licence(name: str) -> bool:
    _, dot, ending = name.rpartition(".")
    return bool(_LICENCE.fullmatch(name)) and (f"{dot}{ending}" if dot else "").lower() in _LICENCE_ENDINGS
