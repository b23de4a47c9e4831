"""How weights in safetensors files are quantised: its name in the configuration, and how many numbers they pack. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from zhibei.formats.safetensors import DTYPE_BITS, SafetensorsTensor
from zhibei.formats.window import shown

_LABELS = {"bitsandbytes": "bitsandbytes", "compressed-tensors": "compressed-tensors", "modelopt": "ModelOpt"}
_BITS_IN_NAME = {"fp8": 8, "fbgemm_fp8": 8, "mxfp4": 4}
_BUFFERS = frozenset(("BOOL", "I64", "U64"))
_PACKED = {
    "gptq": ".qweight",
    "awq": ".qweight",
    "bitsandbytes": ".weight",
    "compressed-tensors": ".weight_packed",
    "mxfp4": "_blocks",
}
"""The endings of tensors that hold several numbers in each element."""
_ASIDE = tuple(
    ".qzeros .scales .g_idx .SCB .absmax .quant_map .nested_absmax .nested_quant_map .weight_format .weight_shape "
    ".weight_g_idx _scale _scale_inv _scales _zero_point .k_scale .v_scale".split()
)
"""The endings of tensors that say how to unpack others and are no parameters themselves."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How weights are quantised: ``method`` as the configuration names it, ``bits`` per weight where it says so.

    ``group_elements`` is the number of weights that one code stands for (AQLM).
    """

    method: str
    bits: float | None = None
    group_elements: int | None = None

    @property
    def label(self) -> str:
        """``GPTQ-4bit``, ``FP8``, ``compressed-tensors``."""
        name = _LABELS.get(self.method, self.method.upper())
        return name if self.bits is None or self.method in _BITS_IN_NAME else f"{name}-{self.bits:g}bit"


def find_quantisation(*parts: Mapping[str, object]) -> Quantisation | None:
    """What the first of some configurations that speaks of it says."""
    for values in parts:
        for key in ("quantization_config", "compression_config"):
            said = values.get(key)
            if isinstance(said, dict):
                return _read(said)
    return None


def count_parameters(tensors: Iterable[SafetensorsTensor], quantisation: Quantisation | None) -> int | None:
    """How many parameters the tensors hold; None where they are packed in a way that is not known."""
    if quantisation is None:
        return sum(tensor.num_elements for tensor in tensors if tensor.dtype not in _BUFFERS)
    total = 0
    for tensor in tensors:
        if tensor.dtype in _BUFFERS or tensor.name.endswith(_ASIDE) or ".quant_state." in tensor.name:
            continue
        held = _held(tensor, quantisation)
        if held is None:
            return None
        total += held
    return total


def _held(tensor: SafetensorsTensor, quantisation: Quantisation) -> int | None:
    """The parameters in one tensor."""
    if quantisation.method == "aqlm":
        return _held_by_codes(tensor, quantisation)
    if quantisation.method in ("fp8", "fbgemm_fp8"):
        return tensor.num_elements
    ending = _PACKED.get(quantisation.method)
    if ending is None:
        return None
    width = DTYPE_BITS[tensor.dtype]
    is_packed = tensor.name.endswith(ending) and tensor.dtype in ("I32", "U8")
    if quantisation.method == "bitsandbytes" and quantisation.bits == 8:
        is_packed = False
    if not is_packed:
        return tensor.num_elements
    if not quantisation.bits:
        return None
    return int(tensor.num_elements * width / quantisation.bits)


def _held_by_codes(tensor: SafetensorsTensor, quantisation: Quantisation) -> int | None:
    if tensor.name.endswith(".codebooks"):
        return 0
    if not tensor.name.endswith(".codes"):
        return tensor.num_elements
    return None if quantisation.group_elements is None else prod(tensor.shape[:2]) * quantisation.group_elements


def _read(said: Mapping[str, object]) -> Quantisation | None:
    named = said.get("quant_method")
    if not isinstance(named, str) or not named:
        named = "bitsandbytes" if "load_in_4bit" in said or "load_in_8bit" in said else ""
    method = shown(named)[:40].lower()
    if not method:
        return None
    if method == "bitsandbytes":
        return Quantisation(method, 4 if said.get("load_in_4bit") is True else 8 if said.get("load_in_8bit") is True else None)
    if method == "aqlm":
        return _aqlm(said)
    if method == "compressed-tensors":
        return Quantisation(method, _bits_of_groups(said.get("config_groups")))
    return Quantisation(method, _BITS_IN_NAME.get(method) or _bits(said, "bits", "w_bit", "wbits", "nbits"))


def _aqlm(said: Mapping[str, object]) -> Quantisation:
    books, bits = _bits(said, "num_codebooks"), _bits(said, "nbits_per_codebook")
    width, height = _bits(said, "in_group_size"), _bits(said, "out_group_size") or 1
    if books is None or bits is None or width is None:
        return Quantisation("aqlm")
    return Quantisation("aqlm", round(books * bits / (width * height), 2), int(width * height))


def _bits_of_groups(groups: object) -> float | None:
    """The bits that all groups of layers share."""
    found = set()
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        found.add(_bits(weights, "num_bits") if isinstance(weights, dict) else None)
    return found.pop() if len(found) == 1 else None


def _bits(said: Mapping[str, object], *keys: str) -> float | None:
    for key in keys:
        value = said.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 64:
            return value
    return None
