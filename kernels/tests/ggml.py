"""ggml inside the pinned wheel, through its exported C functions: tensors, and products of them on its CPU backend.

Run in a process of its own (`Child`): the kernels are registered once per process, with one level.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

F32, F16, I32 = 0, 1, 26
TYPES = {
    "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13,
    "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30,
}  # fmt: skip
CACHE_TYPES = {**TYPES, "F32": F32}


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_POINTER = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_version": (ctypes.c_char_p, []),
    "ggml_init": (_POINTER, [_InitParams]),
    "ggml_free": (None, [_POINTER]),
    "ggml_new_tensor_1d": (_POINTER, [_POINTER, ctypes.c_int, ctypes.c_int64]),
    "ggml_new_tensor_2d": (_POINTER, [_POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
    "ggml_new_tensor_3d": (_POINTER, [_POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]),
    "ggml_mul_mat": (_POINTER, [_POINTER] * 3),
    "ggml_mul_mat_id": (_POINTER, [_POINTER] * 4),
    "ggml_get_rows": (_POINTER, [_POINTER] * 3),
    "ggml_new_tensor_4d": (_POINTER, [_POINTER, ctypes.c_int, *[ctypes.c_int64] * 4]),
    "ggml_permute": (_POINTER, [_POINTER, _POINTER, *[ctypes.c_int] * 4]),
    "ggml_flash_attn_ext": (_POINTER, [*[_POINTER] * 5, *[ctypes.c_float] * 3]),
    "ggml_flash_attn_ext_add_sinks": (None, [_POINTER, _POINTER]),
    "ggml_new_graph": (_POINTER, [_POINTER]),
    "ggml_build_forward_expand": (None, [_POINTER, _POINTER]),
    "ggml_nbytes": (ctypes.c_size_t, [_POINTER]),
    "ggml_row_size": (ctypes.c_size_t, [ctypes.c_int, ctypes.c_int64]),
    "ggml_quantize_chunk": (
        ctypes.c_size_t,
        [ctypes.c_int, _POINTER, _POINTER, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, _POINTER],
    ),
    "ggml_backend_cpu_init": (_POINTER, []),
    "ggml_backend_cpu_set_n_threads": (None, [_POINTER, ctypes.c_int]),
    "ggml_backend_cpu_buffer_type": (_POINTER, []),
    "ggml_backend_buft_name": (ctypes.c_char_p, [_POINTER]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_POINTER, [_POINTER, _POINTER]),
    "ggml_backend_buffer_free": (None, [_POINTER]),
    "ggml_backend_buffer_get_size": (ctypes.c_size_t, [_POINTER]),
    "ggml_backend_tensor_set": (None, [_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_tensor_get": (None, [_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_supports_op": (ctypes.c_bool, [_POINTER, _POINTER]),
    "ggml_backend_graph_compute": (ctypes.c_int, [_POINTER, _POINTER]),
}  # fmt: skip


class Ggml:
    """The wheel's library, with the kernels registered when `level` is given."""

    def __init__(self, kernels: Path, level: str | None) -> None:
        import xllamacpp

        path = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))
        self.path = str(path)
        self._library = ctypes.CDLL(self.path)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._kernels = ctypes.CDLL(str(kernels))
        self._kernels.zhibei_kernels_register.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        self._kernels.zhibei_kernels_attention.restype = ctypes.c_int
        self._kernels.zhibei_kernels_level.restype = ctypes.c_char_p
        self.status = None if level is None else self.register(str(path), level)
        self._backend = self._library.ggml_backend_cpu_init()

    def register(self, path: str, level: str) -> int:
        """The status that a registration answers."""
        return int(self._kernels.zhibei_kernels_register(path.encode(), level.encode()))

    def level(self) -> str | None:
        """The level in use."""
        name = self._kernels.zhibei_kernels_level()
        return name.decode() if name else None

    def attention(self) -> bool:
        """Whether attention is computed by the kernels."""
        return bool(self._kernels.zhibei_kernels_attention())

    def load(self, path: str) -> bool:
        """Load another shared library into the process, for good."""
        self._other = ctypes.CDLL(path)
        return True

    def extra_buffer_types(self) -> list[str]:
        """Names of the buffer types that may take weights before ggml's plain one, first to last."""
        return [self._library.ggml_backend_buft_name(entry).decode() for entry in self._extra_entries()]

    def quantise(self, type_name: str, weights: Floats) -> Bytes:
        """Weights as ggml stores them in that type."""
        kind = TYPES[type_name]
        rows, values = int(np.prod(weights.shape[:-1])), weights.shape[-1]
        weights = np.ascontiguousarray(weights, np.float32)
        stored = np.empty(rows * self._library.ggml_row_size(kind, values), np.uint8)
        self._library.ggml_quantize_chunk(kind, weights.ctypes.data, stored.ctypes.data, 0, rows, values, None)
        return stored

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """One operation: `mul_mat`, `mul_mat_id` or `get_rows`, with the weights in the buffer type of that name, or none at all
        to ask whether it is supported.

        `repeat` times it as often; the answer holds the least processor time.
        """
        lib = self._library
        lib.ggml_backend_cpu_set_n_threads(self._backend, request["threads"])
        weights_context, context = self._context(), self._context()
        shape, kind = request["shape"], TYPES[request["type"]]
        weights = lib.ggml_new_tensor_3d(weights_context, kind, *shape[::-1])
        buft = self._buffer_type(request["buffer"])
        weights_buffer = lib.ggml_backend_alloc_ctx_tensors_from_buft(weights_context, buft)
        stored = request["weights"]
        if stored is not None:
            lib.ggml_backend_tensor_set(weights, stored.ctypes.data, 0, stored.nbytes)
        inputs = [self._tensor(context, array) for array in request["inputs"]]
        result = getattr(lib, f"ggml_{request['op']}")(context, weights, *inputs)
        graph = lib.ggml_new_graph(context)
        lib.ggml_build_forward_expand(graph, result)
        buffer = lib.ggml_backend_alloc_ctx_tensors_from_buft(context, lib.ggml_backend_cpu_buffer_type())
        for tensor, array in zip(inputs, request["inputs"], strict=True):
            lib.ggml_backend_tensor_set(tensor, array.ctypes.data, 0, array.nbytes)
        supported = bool(lib.ggml_backend_supports_op(self._backend, result))
        out = np.empty(lib.ggml_nbytes(result) // 4, np.float32)
        seconds = []
        for _ in range(request.get("repeat", 1) if supported else 0):
            begun = time.process_time()
            assert lib.ggml_backend_graph_compute(self._backend, graph) == 0
            seconds.append(time.process_time() - begun)
        if supported:
            lib.ggml_backend_tensor_get(result, out.ctypes.data, 0, out.nbytes)
        size = lib.ggml_backend_buffer_get_size(weights_buffer)
        for each in (weights_buffer, buffer):
            lib.ggml_backend_buffer_free(each)
        for each in (weights_context, context):
            lib.ggml_free(each)
        return {"out": out, "supported": supported, "buffer_bytes": size, "seconds": min(seconds, default=0.0)}

    def attend(self, request: dict[str, Any]) -> dict[str, Any]:
        """One attention: `queries` (sequence, position, head, value), `keys` and `values` as `quantise` stores them, from
        shapes (sequence, key, head, value), a `mask` of half floats (sequence, head, position, key) or none, `sinks` or none.
        """
        lib = self._library
        lib.ggml_backend_cpu_set_n_threads(self._backend, request["threads"])
        context = self._context()
        queries = self._tensor(context, request["queries"])
        fed = [(queries, request["queries"])]
        caches = []
        for name in ("keys", "values"):
            kind, shape = CACHE_TYPES[request[f"{name}_type"]], request[f"{name}_shape"]
            caches.append(lib.ggml_new_tensor_4d(context, kind, *shape[::-1]))
            fed.append((caches[-1], request[name]))
        mask, sinks = (
            self._tensor(context, array) if array is not None else None for array in (request["mask"], request["sinks"])
        )
        fed += [(tensor, request[name]) for tensor, name in ((mask, "mask"), (sinks, "sinks")) if tensor is not None]
        by_head = [lib.ggml_permute(context, tensor, 0, 2, 1, 3) for tensor in (queries, *caches)]
        result = lib.ggml_flash_attn_ext(context, *by_head, mask, request["scale"], request["bias"], request["softcap"])
        lib.ggml_flash_attn_ext_add_sinks(result, sinks)
        graph = lib.ggml_new_graph(context)
        lib.ggml_build_forward_expand(graph, result)
        buffer = lib.ggml_backend_alloc_ctx_tensors_from_buft(context, lib.ggml_backend_cpu_buffer_type())
        for tensor, array in fed:
            lib.ggml_backend_tensor_set(tensor, array.ctypes.data, 0, array.nbytes)
        out = np.full(lib.ggml_nbytes(result) // 4, np.nan, np.float32)
        seconds = []
        for _ in range(request.get("repeat", 1)):
            begun = time.process_time()
            assert lib.ggml_backend_graph_compute(self._backend, graph) == 0
            seconds.append(time.process_time() - begun)
        lib.ggml_backend_tensor_get(result, out.ctypes.data, 0, out.nbytes)
        lib.ggml_backend_buffer_free(buffer)
        lib.ggml_free(context)
        return {"out": out, "seconds": min(seconds)}

    def _context(self) -> Any:
        return self._library.ggml_init(_InitParams(1 << 20, None, True))

    def _tensor(self, context: Any, array: npt.NDArray[Any]) -> Any:
        kind = {np.dtype(np.int32): I32, np.dtype(np.float16): F16}.get(array.dtype, F32)
        shape = array.shape[::-1]
        return getattr(self._library, f"ggml_new_tensor_{len(shape)}d")(context, kind, *shape)

    def _buffer_type(self, name: str) -> int:
        if name == "CPU":
            return int(self._library.ggml_backend_cpu_buffer_type())
        return next(entry for entry in self._extra_entries() if self._library.ggml_backend_buft_name(entry) == name.encode())

    def _extra_entries(self) -> list[int]:
        # A reference to a std::vector: where its entries begin, and where they end.
        function = self._library._Z39ggml_backend_cpu_get_extra_buffer_typesv
        function.restype = ctypes.POINTER(ctypes.c_uint64 * 2)
        begin, end = function().contents
        return [entry for entry in (ctypes.c_uint64 * ((end - begin) // 8)).from_address(begin) if entry]


class Child:
    """`Ggml` in another process: any call made here is made there."""

    def __init__(self, kernels: Path, level: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, kernels, level), daemon=True)
        self._process.start()
        theirs.close()
        self.status = self.call("status")

    def call(self, name: str, *arguments: Any) -> Any:
        """An attribute's value, or a method's result."""
        self._pipe.send((name, arguments))
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, kernels: Path, level: str | None) -> None:
    ggml = Ggml(kernels, level)
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        value = getattr(ggml, name)
        pipe.send(value(*arguments) if callable(value) else value)
