"""What would change a plan: each thing is tried by planning again, and told with what comes of it. Pure.

Told is what makes the verdict a better one, or what is slow at least a quarter faster; one of each kind, the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner import quality
from zhibei.plans import VERDICTS, Change, ChangeKind, Gpu, Hardware, Plan
from zhibei.units import format_bytes, format_count

GIB = 1 << 30
# Sizes that memory is added in; the first that helps is told.
_ADDED_GIB = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# From more bits to fewer; the usual ones of the hubs.
_QUANTISATIONS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K")
_LINE_OF_LIFE = "Q4_K_M"
_MODEL_STEPS = 32
_FASTER = 1.25
# Nobody is told to change something for a shorter context than this.
USEFUL_CTX = 2048


@dataclass(frozen=True, slots=True)
class Asked:
    """What was planned."""

    model: StoredModel
    hardware: Hardware
    wishes: LoadOptions
    devices: tuple[str, ...] | None

    @property
    def least_ctx(self) -> int:
        """The shortest context that is worth telling of."""
        trained = self.model.info.context_length if self.model.info is not None else None
        return min(USEFUL_CTX, self.wishes.ctx_size or USEFUL_CTX, trained or USEFUL_CTX)


Again = Callable[[StoredModel, Hardware, LoadOptions, "tuple[str, ...] | None"], Plan]


def changes(found: Plan, asked: Asked, again: Again) -> Iterator[Change]:
    """What would make ``found`` better, by planning ``again``."""
    if found.verdict == "runs_well":
        return
    yield from _engine(found, asked, again)
    yield from _wishes(found, asked, again)
    if found.verdict == "unsupported":
        return
    yield from _quantisation(found, asked, again)
    yield from _memory(found, asked, again)
    if found.verdict in ("does_not_fit", "runs_slowly"):
        yield from _model(found, asked, again)


def is_better(new: Plan, old: Plan, least_ctx: int = 0) -> bool:
    """Whether a plan has a better verdict and enough context, or is as slow as before but clearly faster."""
    if (new.ctx_size or 0) < least_ctx:
        return False
    if new.verdict != old.verdict:
        return VERDICTS.index(new.verdict) > VERDICTS.index(old.verdict)
    before = old.speed.generation_tokens_per_s if old.speed is not None else None
    after = new.speed.generation_tokens_per_s if new.speed is not None else None
    return old.verdict == "runs_slowly" and before is not None and after is not None and after >= before * _FASTER


def scaled(model: StoredModel, share: float) -> StoredModel:
    """The model as if its weights were so much smaller; all else as it is."""
    info = model.info
    if info is not None:
        layers = tuple(
            replace(layer, dense_bytes=int(layer.dense_bytes * share), expert_bytes=int(layer.expert_bytes * share))
            for layer in info.layers
        )
        info = replace(
            info,
            layers=layers,
            weights_bytes=_part(info.weights_bytes, share),
            embedding_bytes=_part(info.embedding_bytes, share),
            lookup_bytes=_part(info.lookup_bytes, share),
            output_bytes=_part(info.output_bytes, share),
            other_bytes=_part(info.other_bytes, share),
        )
    files = tuple(
        replace(file, size_bytes=int(file.size_bytes * share)) if file.role in ("model", "shard", "weights") else file
        for file in model.files
    )
    return replace(model, files=files, info=info)


def _part(num_bytes: int | None, share: float) -> int | None:
    return None if num_bytes is None else int(num_bytes * share)


def _made(kind: ChangeKind, message: str, plan: Plan, **values: object) -> Change:
    return Change(kind, message, values, plan.verdict, plan.ctx_size, plan.needed_bytes)


def _engine(found: Plan, asked: Asked, again: Again) -> Iterator[Change]:
    """An engine that can use the machine's graphics processors."""
    if asked.devices is None or not asked.hardware.backends:
        return
    new = again(asked.model, asked.hardware, asked.wishes, None)
    if is_better(new, found, asked.least_ctx):
        backends = ", ".join(asked.hardware.backends)
        yield _made(
            "engine", N_("With an engine built for {backends} the graphics processor would help."), new, backends=backends
        )


def _wishes(found: Plan, asked: Asked, again: Again) -> Iterator[Change]:
    """What a person asked for, left to the planner; and a smaller cache."""
    wishes = asked.wishes

    def tried(**other: object) -> Plan | None:
        new = again(asked.model, asked.hardware, replace(wishes, **other), asked.devices)  # type: ignore[arg-type]
        return new if is_better(new, found, asked.least_ctx) else None

    if wishes.ctx_size is not None and (new := tried(ctx_size=None)) and (new.ctx_size or 0) < wishes.ctx_size:
        yield _made("context", N_("With a context of {tokens} tokens."), new, tokens=new.ctx_size)
    if wishes.parallel is not None and wishes.parallel > 1 and (new := tried(parallel=1)):
        yield _made("slots", N_("With one conversation at a time."), new)
    if (wishes.gpu_layers is not None or wishes.tensor_split) and (new := tried(gpu_layers=None, tensor_split=())):
        count = new.spec.gpu_layers if new.spec is not None else None
        yield _made("gpu_layers", N_("With {count} layers on graphics processors, as the plan would have it."), new, count=count)
    for cache_type in ("q8_0", "q4_0", "f16"):
        if cache_type in (wishes.cache_type_k, wishes.cache_type_v):
            continue
        is_smaller = wishes.cache_type_k is None and wishes.cache_type_v is None and cache_type != "f16"
        if not is_smaller and found.verdict != "unsupported":
            continue
        if new := tried(cache_type_k=cache_type, cache_type_v=cache_type):
            yield _made("cache_type", N_("With the cache kept as {cache_type}."), new, cache_type=cache_type)
            return


def _quantisation(found: Plan, asked: Asked, again: Again) -> Iterator[Change]:
    """The one with the most bits that helps."""
    bits = _bits(asked.model)
    if bits is None:
        return
    parameters = (asked.model.info and asked.model.info.num_parameters) or 0
    for name in _QUANTISATIONS:
        wanted = quality.bits_per_weight(name)
        if wanted is None or wanted >= bits * 0.97:
            continue
        new = again(scaled(asked.model, wanted / bits), asked.hardware, asked.wishes, asked.devices)
        if not is_better(new, found, asked.least_ctx):
            continue
        is_poor = wanted < quality.least_bits(parameters)
        if is_poor and found.verdict == "runs":
            return
        message = (
            N_("With the quantisation {quantisation}, which costs this model much of its quality.")
            if is_poor
            else N_("With the quantisation {quantisation}.")
        )
        yield _made("quantisation", message, new, quantisation=name)
        return


def _bits(model: StoredModel) -> float | None:
    info = model.info
    if info is None:
        return None
    size_bytes = info.weights_bytes or sum(file.size_bytes for file in model.files if file.role in ("model", "shard", "weights"))
    if info.num_parameters:
        return size_bytes * 8 / info.num_parameters
    return quality.bits_per_weight(info.quantisation) if info.quantisation else None


def _memory(found: Plan, asked: Asked, again: Again) -> Iterator[Change]:
    """More memory, on the devices and in the machine."""
    hardware = asked.hardware
    sizes: Sequence[int] = [count * GIB for count in _ADDED_GIB]
    gpus = [use for use in found.devices if use.device != "cpu" and not use.is_shared]

    def first(grown: Callable[[int], Hardware]) -> tuple[int, Plan] | None:
        """The least that helps, where what helps keeps helping."""
        low, high = 0, len(sizes)
        best: tuple[int, Plan] | None = None
        while low < high:
            middle = (low + high) // 2
            new = again(asked.model, grown(sizes[middle]), asked.wishes, asked.devices)
            if is_better(new, found, asked.least_ctx):
                best, high = (sizes[middle], new), middle
            else:
                low = middle + 1
        return best

    if gpus and (told := first(lambda more: _with_gpu_memory(hardware, gpus[0].name, more))):
        text = N_("With {more} more memory on {gpu}.")
        yield _made("gpu_memory", text, told[1], more=format_bytes(told[0]), more_bytes=told[0], gpu=gpus[0].name)
    if hardware.available_bytes is not None and (told := first(lambda more: _with_memory(hardware, more))):
        text = N_("With {more} more free memory.")
        yield _made("main_memory", text, told[1], more=format_bytes(told[0]), more_bytes=told[0])


def _with_memory(hardware: Hardware, more: int) -> Hardware:
    total = None if hardware.total_bytes is None else hardware.total_bytes + more
    gpus = tuple(gpu if gpu.shared_bytes is None else replace(gpu, shared_bytes=gpu.shared_bytes + more) for gpu in hardware.gpus)
    return replace(hardware, available_bytes=(hardware.available_bytes or 0) + more, total_bytes=total, gpus=gpus)


def _with_gpu_memory(hardware: Hardware, name: str | None, more: int) -> Hardware:
    gpus, is_done = [], False
    for gpu in hardware.gpus:
        is_it = gpu.name == name and not is_done
        is_done |= is_it
        gpus.append(_larger(gpu, more) if is_it else gpu)
    return replace(hardware, gpus=tuple(gpus))


def _larger(gpu: Gpu, more: int) -> Gpu:
    total, free = gpu.total_bytes, gpu.free_bytes
    return replace(gpu, total_bytes=None if total is None else total + more, free_bytes=None if free is None else free + more)


def _model(found: Plan, asked: Asked, again: Again) -> Iterator[Change]:
    """How many parameters a model of this kind may have, with four bits each."""
    bits, target = _bits(asked.model), quality.bits_per_weight(_LINE_OF_LIFE)
    parameters = asked.model.info.num_parameters if asked.model.info is not None else None
    if bits is None or target is None or not parameters:
        return
    best: tuple[int, Plan] | None = None
    low, high = 1, _MODEL_STEPS
    while low < high:
        middle = (low + high) // 2
        share = middle / _MODEL_STEPS
        new = again(scaled(asked.model, share * target / bits), asked.hardware, asked.wishes, asked.devices)
        if is_better(new, found, asked.least_ctx):
            best, low = (int(parameters * share), new), middle + 1
        else:
            high = middle
    if best is not None:
        values = {"parameters": format_count(best[0]), "quantisation": _LINE_OF_LIFE}
        text = N_("A model of this kind with up to {parameters} parameters, as {quantisation}.")
        yield _made("model", text, best[1], num_parameters=best[0], **values)
