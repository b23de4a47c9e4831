"""How fast the engine's library multiplies matrices. Run as a program of its own: foreign code may end it.

Arguments: the library's path, then numbers of threads. Prints a JSON list of rows ``kind, num_threads, ops_per_s``.
Uses the standard library alone, so that it runs isolated from everything installed. It calls ggml's public C interface.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from ctypes import c_bool, c_int, c_int64, c_size_t, c_uint8, c_void_p
from typing import Any

# ggml's numbers of its types.
KINDS = {"F16": 1, "Q8_0": 8, "Q4_0": 2}
_F32 = 0
# Weights that stay in no core's own cache, and as many columns as a small prompt has tokens.
_DEPTH, _ROWS, _COLUMNS = 4096, 2048, 128
_OPS = 2 * _DEPTH * _ROWS * _COLUMNS
_SECONDS = 0.35
_HEAP_BYTES = 1 << 20


class _Params(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (c_void_p, [_Params]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_get_device": (c_void_p, [c_void_p]),
    "ggml_backend_dev_backend_reg": (c_void_p, [c_void_p]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, ctypes.c_char_p]),
    "ggml_backend_dev_supports_op": (c_bool, [c_void_p, c_void_p]),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_clear": (None, [c_void_p, c_uint8]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
}


def main(path: str, threads: list[int]) -> list[dict[str, object]]:
    """All kinds with each number of threads."""
    library = ctypes.CDLL(path)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    # All is freed by this program's end.
    backend = library.ggml_backend_cpu_init()
    rows: list[dict[str, object]] = []
    for kind, number in KINDS.items():
        graph = _graph(library, backend, number)
        for count in threads if graph is not None else ():
            library.ggml_backend_cpu_set_n_threads(backend, count)
            seconds = _best_time(lambda graph=graph: library.ggml_backend_graph_compute(backend, graph))
            if seconds is not None:
                rows.append({"kind": kind, "num_threads": count, "ops_per_s": int(_OPS / seconds)})
    return rows


def _graph(library: Any, backend: Any, kind: int) -> Any | None:
    """A graph of one matrix product, its weights in the first place that can multiply them, as the engine puts them."""
    device = library.ggml_backend_get_device(backend)
    for place in (*_special_places(library, device), None):
        weights_heap, heap = (library.ggml_init(_Params(_HEAP_BYTES, None, True)) for _ in range(2))
        weights = library.ggml_new_tensor_2d(weights_heap, kind, _DEPTH, _ROWS)
        product = library.ggml_mul_mat(heap, weights, library.ggml_new_tensor_2d(heap, _F32, _DEPTH, _COLUMNS))
        if place is None:
            placed = library.ggml_backend_alloc_ctx_tensors(weights_heap, backend)
        else:
            placed = library.ggml_backend_alloc_ctx_tensors_from_buft(weights_heap, place)
        if not placed or not library.ggml_backend_dev_supports_op(device, product):
            continue
        graph = library.ggml_new_graph(heap)
        library.ggml_build_forward_expand(graph, product)
        buffer = library.ggml_backend_alloc_ctx_tensors(heap, backend)
        if buffer:
            # Special places keep weights in another order, which setting them brings about.
            size = library.ggml_nbytes(weights)
            library.ggml_backend_tensor_set(weights, ctypes.create_string_buffer(size), 0, size)
            library.ggml_backend_buffer_clear(buffer, 0)
            return graph
    return None


def _special_places(library: Any, device: Any) -> list[Any]:
    """Kinds of memory in which the processor keeps weights in an order of its own."""
    registry = library.ggml_backend_dev_backend_reg(device)
    address = library.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    places = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)(device) if address else None
    found: list[Any] = []
    while places and places[len(found)]:
        found.append(places[len(found)])
    return found


def _best_time(compute: Any) -> float | None:
    if compute() != 0:
        return None
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        if compute() != 0:
            return None
        times.append(time.perf_counter() - start)
    return min(times) or None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], [int(text) for text in sys.argv[2:]])))
