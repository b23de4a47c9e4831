"""Zhibei's own fields of a request on a model: how it is loaded, and how long it stays. The same in every dialect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from zhibei.errors import BadRequest, ZhibeiError
from zhibei.options import CacheType, LoadOptions
from zhibei.server.body import Extension
from zhibei.units import parse_keep_alive

INT32_MAX = 2**31 - 1
_FILES = ("lora", "mmproj", "draft_model", "chat_template")


class LoadBody(Extension):
    """How to load the model, if this request is what loads it. Names are those of the CLI's flags."""

    ctx_size: int | None = Field(None, ge=1, le=INT32_MAX)
    parallel: int | None = Field(None, ge=1, le=1024)
    threads: int | None = Field(None, ge=1, le=4096)
    threads_batch: int | None = Field(None, ge=1, le=4096)
    batch_size: int | None = Field(None, ge=1, le=1_048_576)
    ubatch_size: int | None = Field(None, ge=1, le=1_048_576)
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    flash_attn: Literal["on", "off", "auto"] | None = None
    gpu_layers: int | None = Field(None, ge=0, le=100_000)
    main_gpu: int | None = Field(None, ge=0, le=255)
    tensor_split: list[Annotated[float, Field(ge=0, le=1e9)]] | None = Field(None, max_length=256)
    mmap: bool | None = None
    mlock: bool | None = None
    cache_ram_mib: int | None = Field(None, ge=0, le=INT32_MAX)
    rope_freq_base: float | None = Field(None, gt=0, le=1e12)
    rope_freq_scale: float | None = Field(None, gt=0, le=1e6)
    reasoning: Literal["on", "off", "auto"] | None = None
    speculation: Literal["auto", "ngram", "off"] | None = None
    pooling: Literal["none", "mean", "cls", "last", "rank"] | None = None
    kernels: bool | None = None
    # Files of the server's machine: known, so that they can be refused in words.
    lora: Any = None
    mmproj: Any = None
    draft_model: Any = None
    chat_template: Any = None


def load_options(body: LoadBody | None) -> LoadOptions:
    """The options a request may set.

    Raises:
        BadRequest: it names a file of the server's machine.
    """
    if body is None:
        return LoadOptions()
    for name in _FILES:
        if getattr(body, name) is not None:
            raise BadRequest(
                "A request cannot name files of the server: {param}.",
                hint="Set it on the server, in config.toml or with a flag of zhibei serve.",
                param=f"load.{name}",
            )
    values = body.model_dump(exclude_none=True)
    if "tensor_split" in values:
        values["tensor_split"] = tuple(values["tensor_split"])
    return LoadOptions(**values)


def keep_alive(value: str | float | None) -> str | None:
    """How long the model stays, in the one form that every reader takes.

    Raises:
        BadRequest: it is not a duration.
    """
    if value is None:
        return None
    try:
        seconds = parse_keep_alive(value)
    except ZhibeiError as error:
        raise BadRequest(error.message, hint=error.hint, param="keep_alive", text=value) from None
    return "forever" if seconds is None else f"{seconds:.3f}"
