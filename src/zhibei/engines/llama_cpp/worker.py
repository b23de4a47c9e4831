"""The child: hosts ``xllamacpp.Server`` on a socket of its owner's, or a loopback port, that only the parent's key opens.

Reads its order from standard input, answers there with its address on standard output, and ends when standard input
closes or the parent dies. Whatever native code prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from zhibei.engines.llama_cpp import kernels_loading, order
from zhibei.i18n import N_
from zhibei.plans import EngineSpec

_PR_SET_PDEATHSIG = 1
_GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
_POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
_ALL_LAYERS = 999
# Guesses at once: most of what longer ones save, and little lost when they are wrong.
_NUM_GUESSED = 16
# The service needs little of a core, and that at once. Other programs are in other sessions, which are weighed as wholes.
_NICENESS = 10


def main() -> None:
    """Run until told to stop."""
    # What it writes is what people said to a model.
    os.umask(0o077)
    parent = os.getppid()
    _die_with_parent(parent)
    _lead_group()
    _spare_others()
    _give_way()
    answers = _claim_stdout()
    told = order.decode(sys.stdin.buffer.readline())
    try:
        import xllamacpp
    except ImportError as error:
        _answer(answers, missing_library(str(error)))
        return
    kernels = kernels_loading.use(xllamacpp) if told.spec.kernels else None
    try:
        server = xllamacpp.Server(parameters(xllamacpp, told))
    except RuntimeError as error:
        _answer(answers, {"problem": str(error)})
        return
    watcher = threading.Thread(target=_end_with_stdin, daemon=True)
    watcher.start()
    _answer(answers, {"address": server.listening_address, "kernels": kernels})
    while True:
        signal.pause() if hasattr(signal, "pause") else watcher.join()


def missing_library(problem: str) -> dict[str, Any]:
    """The answer to an import that failed: what is missing and how to get it."""
    if "libgomp" in problem:
        return {
            "missing": N_("llama.cpp needs the system library libgomp, which is not installed."),
            "hint": N_(
                "Install it: apt install libgomp1 (Debian, Ubuntu), dnf install libgomp (Fedora), apk add libgomp (Alpine)."
            ),
        }
    return {
        "missing": N_("The engine llama.cpp cannot be loaded: {problem}"),
        "hint": N_("Install it again: pip install --force-reinstall xllamacpp"),
        "values": {"problem": problem},
    }


def parameters(xllamacpp: Any, told: order.Order) -> Any:
    """``CommonParams`` for an order: every field of its spec, and nothing left open that could be reached from outside."""
    spec, params = told.spec, xllamacpp.CommonParams()
    params.model.path = spec.model_path
    params.model_alias = {spec.model_name}
    _set_service(params, told)
    if told.prompts is not None:
        params.slot_save_path = os.path.join(told.prompts, "")  # noqa: PTH118  it appends names as they are
    params.n_ctx = spec.ctx_size * spec.num_slots
    params.n_parallel = spec.num_slots
    params.kv_unified = False
    params.n_batch = spec.batch_size
    params.n_ubatch = spec.ubatch_size
    if spec.threads is not None:
        params.cpuparams.n_threads = spec.threads
    params.cpuparams_batch.n_threads = spec.threads_batch or spec.threads or -1
    params.cache_type_k = xllamacpp.ggml_type(_GGML_TYPES[spec.cache_type_k])
    params.cache_type_v = xllamacpp.ggml_type(_GGML_TYPES[spec.cache_type_v])
    params.flash_attn_type = xllamacpp.llama_flash_attn_type({"auto": -1, "off": 0, "on": 1}[spec.flash_attn])
    params.cache_ram_mib = spec.prompt_cache_bytes >> 20
    params.load_mode = xllamacpp.llama_load_mode(_load_mode(spec))
    # The engine may only move layers by itself where the plan left their number to it; it never changes the context.
    params.fit_params = spec.gpu_layers is None
    params.n_gpu_layers = -1 if spec.gpu_layers is None else min(spec.gpu_layers, _ALL_LAYERS)
    _set_placement(params, spec)
    if spec.rope_freq_base is not None:
        params.rope_freq_base = spec.rope_freq_base
    if spec.rope_freq_scale is not None:
        params.rope_freq_scale = spec.rope_freq_scale
    _set_extras(xllamacpp, params, spec)
    _set_task(xllamacpp, params, spec)
    return params


def _set_placement(params: Any, spec: EngineSpec) -> None:
    params.main_gpu = spec.main_gpu
    if spec.tensor_split:
        # It takes a list as long as its own, with nothing for devices that are not there.
        length = len(params.tensor_split)
        params.tensor_split = [*spec.tensor_split[:length], *(0.0,) * (length - len(spec.tensor_split))]
    params.no_kv_offload = not spec.kv_offload
    if spec.n_cpu_moe:
        layers = "|".join(map(str, range(spec.n_cpu_moe)))
        params.tensor_buft_overrides = rf"blk\.({layers})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"
    if spec.n_ctx_checkpoints is not None:
        params.n_ctx_checkpoints = spec.n_ctx_checkpoints


def _set_service(params: Any, told: order.Order) -> None:
    # A name that ends in .sock is a socket's.
    params.hostnames = [told.socket or "127.0.0.1"]
    params.port = 0
    params.api_keys = [told.key]
    # No page may read an answer: an origin that no page has.
    params.cors_origins = "null.invalid"
    params.cors_credentials = False
    params.ui = False
    params.endpoint_props = True
    params.endpoint_slots = True
    params.endpoint_metrics = False
    params.use_jinja = True
    params.ctx_shift = False


def _set_extras(xllamacpp: Any, params: Any, spec: EngineSpec) -> None:
    if spec.lora:
        params.lora_adapters = [_adapter(xllamacpp, path, scale) for path, scale in spec.lora]
    if spec.mmproj_path is not None:
        params.mmproj.path = spec.mmproj_path
    if spec.draft_model_path is not None:
        params.speculative.draft.mparams.path = spec.draft_model_path
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    elif guesses_ahead(spec):
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_MAP_K]
        params.speculative.ngram_map_k.size_m = _NUM_GUESSED
    if spec.chat_template is not None:
        params.chat_template = spec.chat_template
    params.enable_reasoning = {"auto": -1, "off": 0, "on": 1}[spec.reasoning]


def guesses_ahead(spec: EngineSpec) -> bool:
    """Whether next words are guessed from earlier ones.

    By itself only for one conversation at a time: several keep the processor busy together, and each needs room for the
    scores of all its guesses, which the plan does not count. Models that cannot take a token back would have to be rewound.
    """
    if spec.task != "generate" or spec.speculation == "off" or spec.batch_size <= _NUM_GUESSED * spec.num_slots:
        return False
    is_plain = spec.n_ctx_checkpoints is None and spec.mmproj_path is None
    return spec.speculation == "ngram" or (spec.num_slots == 1 and is_plain)


def _adapter(xllamacpp: Any, path: str, scale: float) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, scale
    return adapter


def _set_task(xllamacpp: Any, params: Any, spec: EngineSpec) -> None:
    if spec.task == "generate":
        return
    params.embedding = True
    pooling = spec.pooling or ("rank" if spec.task == "rerank" else None)
    if pooling is not None:
        params.pooling_type = xllamacpp.llama_pooling_type(_POOLING[pooling])


def _load_mode(spec: EngineSpec) -> int:
    return {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}[(spec.mmap, spec.mlock)]


def _claim_stdout() -> int:
    """Keep standard output for answers alone; what native code prints there goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _answer(answers: int, answer: dict[str, Any]) -> None:
    os.write(answers, json.dumps(answer).encode("utf-8") + b"\n")


def _die_with_parent(parent: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _lead_group() -> None:
    """A group of its own, so that Ctrl-C in a terminal is not its to hear, and whatever it starts ends with it."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def _spare_others() -> None:
    """Where memory runs out, this process goes first; and it leaves no image of its memory, which holds what people said."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _give_way() -> None:
    """Whoever answers goes before what computes: a refusal, or the first token of another, must not wait for a batch."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)


def _end_with_stdin() -> None:
    while sys.stdin.buffer.read(4096):
        continue
    os._exit(0)


if __name__ == "__main__":
    main()
