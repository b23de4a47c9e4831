"""llama.cpp inside the wheel, through its exported C functions and in a process of its own: the logits of a model.

The engine's server tells the probabilities of what it generates, not of what it reads; here are all of them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t
_LOAD_MODES = {"read": 0, "map": 1, "lock": 2}
_MEAN = 1


def _structure(name: str, **fields: Any) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_Batch = _structure(
    "_Batch", num=_INT, token=_POINTER, embd=_POINTER, pos=_POINTER, num_ids=_POINTER, ids=_POINTER, logits=_POINTER
)
# By value, so every byte counts: `include/llama.h` of the pinned release. What is not touched here is `rest`.
_ModelParams = _structure("_ModelParams", rest=_INT * 6, load_mode=_INT, more=ctypes.c_uint8 * 52)
_ContextParams = _structure(
    "_ContextParams",
    num_ctx=_INT, num_batch=_INT, num_ubatch=_INT, rest=_INT * 4, num_threads=_INT, num_threads_batch=_INT, kind=_INT,
    rope=_INT, pooling=_INT, more=ctypes.c_uint8 * 88, embeddings=ctypes.c_bool, end=ctypes.c_uint8 * 31,
)  # fmt: skip
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "llama_log_set": (None, [_POINTER, _POINTER]),
    "llama_model_default_params": (_ModelParams, []),
    "llama_context_default_params": (_ContextParams, []),
    "llama_model_load_from_file": (_POINTER, [ctypes.c_char_p, _ModelParams]),
    "llama_model_free": (None, [_POINTER]),
    "llama_init_from_model": (_POINTER, [_POINTER, _ContextParams]),
    "llama_free": (None, [_POINTER]),
    "llama_model_get_vocab": (_POINTER, [_POINTER]),
    "llama_vocab_n_tokens": (_INT, [_POINTER]),
    "llama_model_n_embd": (_INT, [_POINTER]),
    "llama_tokenize": (_INT, [_POINTER, ctypes.c_char_p, _INT, _POINTER, _INT, ctypes.c_bool, ctypes.c_bool]),
    "llama_batch_init": (_Batch, [_INT, _INT, _INT]),
    "llama_batch_free": (None, [_Batch]),
    "llama_decode": (_INT, [_POINTER, _Batch]),
    "llama_encode": (_INT, [_POINTER, _Batch]),
    "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [_POINTER]),
    "llama_get_embeddings_seq": (ctypes.POINTER(ctypes.c_float), [_POINTER, _INT]),
    "llama_adapter_lora_init": (_POINTER, [_POINTER, ctypes.c_char_p]),
    "llama_set_adapters_lora": (_INT, [_POINTER, _POINTER, _SIZE, _POINTER]),
    "ggml_row_size": (_SIZE, [_INT, ctypes.c_int64]),
    "ggml_quantize_chunk": (_SIZE, [_INT, _POINTER, _POINTER, *[ctypes.c_int64] * 3, _POINTER]),
}


_SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _POINTER)(lambda *_: None)


@dataclass(frozen=True, slots=True)
class Reading:
    """A model, and what it reads: batches of tokens, one after another in the same context."""

    path: Path
    batches: tuple[tuple[int, ...], ...]
    adapter: Path | None = None
    load_mode: str = "map"
    pooled: bool = False
    num_threads: int = 1

    @property
    def num_tokens(self) -> int:
        """In all batches."""
        return sum(map(len, self.batches))


class Llama:
    """A process with the wheel's library, and the kernels registered where they are named."""

    def __init__(self, pool: ProcessPoolExecutor, kernels: Path | None) -> None:
        self._pool, self._kernels = pool, kernels

    def logits(self, reading: Reading) -> Floats:
        """(tokens, vocabulary); of a pooled reading one vector."""
        return self._pool.submit(_logits, self._kernels, reading).result()

    def tokens(self, path: Path, text: str) -> tuple[int, ...]:
        """The text as the model's vocabulary cuts it."""
        return self._pool.submit(_tokens, self._kernels, path, text).result()

    def log_probabilities(self, reading: Reading) -> Floats:
        """Of each token of the batches but a batch's first, by what stands before it; each batch in a new context."""
        return self._pool.submit(_log_probabilities, self._kernels, reading).result()

    def greedy(self, reading: Reading, num_tokens: int) -> tuple[tuple[int, ...], float]:
        """The most likely tokens after what is read, and by how much the closest choice was decided."""
        return self._pool.submit(_greedy, self._kernels, reading, num_tokens).result()

    def quantise(self, kind: int, weights: Floats) -> npt.NDArray[np.uint8]:
        """Weights as ggml stores them in the type of that number."""
        return self._pool.submit(_quantise, self._kernels, kind, weights).result()


@contextmanager
def llama(kernels: Path | None) -> Iterator[Llama]:
    """A process of its own: kernels stay registered for as long as it lives."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        yield Llama(pool, kernels)


@cache
def _library(kernels: Path | None) -> Any:
    import xllamacpp

    path = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.llama_log_set(_SILENT, None)
    # Sentinels of the release's own defaults: the fields are where we think they are.
    model, context = library.llama_model_default_params(), library.llama_context_default_params()
    assert (model.load_mode, context.pooling) == (-1, -1)
    assert (context.num_ctx, context.num_batch, context.num_ubatch) == (512, 2048, 512)
    if kernels is not None:
        status = ctypes.CDLL(str(kernels)).zhibei_kernels_register(str(path).encode(), None)
        assert status == 0, status
    return library


@contextmanager
def _model(library: Any, path: Path, load_mode: str = "map") -> Iterator[Any]:
    params = library.llama_model_default_params()
    params.load_mode = _LOAD_MODES[load_mode]
    model = library.llama_model_load_from_file(str(path).encode(), params)
    assert model, path
    yield model
    library.llama_model_free(model)


@contextmanager
def _context(library: Any, model: Any, reading: Reading, num_tokens: int) -> Iterator[Any]:
    params = library.llama_context_default_params()
    params.num_ctx = params.num_batch = params.num_ubatch = max(num_tokens, 64)
    params.num_threads = params.num_threads_batch = reading.num_threads
    if reading.pooled:
        params.embeddings, params.pooling = True, _MEAN
    context = library.llama_init_from_model(model, params)
    assert context
    yield context
    library.llama_free(context)


def _decode(library: Any, context: Any, tokens: tuple[int, ...], start: int, *, pooled: bool = False) -> None:
    batch = library.llama_batch_init(len(tokens), 0, 1)
    batch.num = len(tokens)
    count = len(tokens)
    (_INT * count).from_address(batch.token)[:] = list(tokens)
    (_INT * count).from_address(batch.pos)[:] = list(range(start, start + count))
    (_INT * count).from_address(batch.num_ids)[:] = [1] * count
    for address in (ctypes.c_uint64 * count).from_address(batch.ids):
        _INT.from_address(address).value = 0
    ctypes.memset(batch.logits, 1, count)
    run = library.llama_encode if pooled else library.llama_decode
    assert run(context, batch) == 0
    library.llama_batch_free(batch)


def _taken(library: Any, model: Any, context: Any, num_tokens: int) -> Floats:
    width = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    found: Floats = np.ctypeslib.as_array(library.llama_get_logits(context), (num_tokens, width)).copy()
    return found


def _logits(kernels: Path | None, reading: Reading) -> Floats:
    library = _library(kernels)
    with (
        _model(library, reading.path, reading.load_mode) as model,
        _context(library, model, reading, reading.num_tokens) as context,
    ):
        if reading.adapter is not None:
            adapter = library.llama_adapter_lora_init(model, str(reading.adapter).encode())
            assert adapter
            applied = library.llama_set_adapters_lora(context, ctypes.byref(_POINTER(adapter)), 1, (ctypes.c_float * 1)(1.0))
            assert applied == 0
        parts, start = [], 0
        for tokens in reading.batches:
            _decode(library, context, tokens, start, pooled=reading.pooled)
            start += len(tokens)
            if reading.pooled:
                width = library.llama_model_n_embd(model)
                parts.append(np.ctypeslib.as_array(library.llama_get_embeddings_seq(context, 0), (1, width)).copy())
            else:
                parts.append(_taken(library, model, context, len(tokens)))
    return np.concatenate(parts)


def _log_probabilities(kernels: Path | None, reading: Reading) -> Floats:
    library, parts = _library(kernels), []
    with _model(library, reading.path, reading.load_mode) as model:
        for tokens in reading.batches:
            with _context(library, model, reading, len(tokens)) as context:
                _decode(library, context, tokens, 0)
                found = _taken(library, model, context, len(tokens))[:-1].astype(np.float64)
            highest = found.max(axis=1)
            total = highest + np.log(np.exp(found - highest[:, None]).sum(axis=1))
            parts.append((found[np.arange(len(found)), list(tokens[1:])] - total).astype(np.float32))
    return np.concatenate(parts)


def _greedy(kernels: Path | None, reading: Reading, num_tokens: int) -> tuple[tuple[int, ...], float]:
    library = _library(kernels)
    tokens: list[int] = []
    closest = float("inf")
    with (
        _model(library, reading.path) as model,
        _context(library, model, reading, reading.num_tokens + num_tokens) as context,
    ):
        latest, start = reading.batches[0], 0
        while len(tokens) < num_tokens:
            _decode(library, context, latest, start)
            last = _taken(library, model, context, len(latest))[-1]
            second, first = np.argsort(last)[-2:]
            closest = min(closest, float(last[first] - last[second]))
            tokens.append(int(first))
            start, latest = start + len(latest), (tokens[-1],)
    return tuple(tokens), closest


def _tokens(kernels: Path | None, path: Path, text: str) -> tuple[int, ...]:
    library, raw = _library(kernels), text.encode()
    found = (_INT * (len(raw) + 2))()
    with _model(library, path) as model:
        count = library.llama_tokenize(library.llama_model_get_vocab(model), raw, len(raw), found, len(found), True, False)
    assert count > 0
    return tuple(found[:count])


def _quantise(kernels: Path | None, kind: int, weights: Floats) -> npt.NDArray[np.uint8]:
    library = _library(kernels)
    rows, values = weights.size // weights.shape[-1], weights.shape[-1]
    weights = np.ascontiguousarray(weights, np.float32)
    stored = np.empty(rows * library.ggml_row_size(kind, values), np.uint8)
    library.ggml_quantize_chunk(kind, weights.ctypes.data, stored.ctypes.data, 0, rows, values, None)
    return stored
