"""The child of ``kernels.py`` that hosts one engine under one Python; standard library only, besides the engine itself.

    python kernel_worker.py ENGINE

First line of standard input: settings, as JSON. Answer: what it is and how long the model took to load, or a problem. An
``xllamacpp`` then serves HTTP and this waits for the end of its input; others answer a job a line. A job: prompts of token
numbers, how many tokens to generate after each, and whether what was read is kept for the next job.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UBATCH = 512


class OneStream:
    """A Python binding of a llama.cpp: reads and generates one text at a time."""

    def __init__(self) -> None:
        self.num_kept = 0

    def clear(self) -> None:
        """Forget what was read."""
        raise NotImplementedError

    def read(self, tokens: list[int], start: int) -> int:
        """Read tokens from this position on; the likeliest next one."""
        raise NotImplementedError

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do a job."""
        (prompt,) = job["prompts"]
        seconds, token = 0.0, prompt[-1]
        if not (job["keeps"] and self.num_kept):
            self.clear()
            begun = time.perf_counter()
            token = self.read(prompt, 0)
            seconds = time.perf_counter() - begun
            self.num_kept = len(prompt)
        begun = time.perf_counter()
        for _ in range(job["num_tokens"]):
            token = self.read([token], self.num_kept)
            self.num_kept += 1
        taken = time.perf_counter() - begun
        if not job["keeps"]:
            self.num_kept = 0
        return {
            "prompt": len(prompt) / seconds if seconds else None,
            "generation": job["num_tokens"] / taken if job["num_tokens"] else None,
        }


class LlamaCppPython(OneStream):
    """llama-cpp-python."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__()
        import llama_cpp  # type: ignore[import-not-found,unused-ignore]

        threads = told["threads"]
        self.llama = llama_cpp.Llama(
            told["model"],
            n_ctx=told["ctx_size"],
            n_batch=2048,
            n_ubatch=UBATCH,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,
            verbose=False,
        )
        self.about = {"version": f"llama-cpp-python {llama_cpp.__version__}", "flash attention": "on"}

    def clear(self) -> None:
        self.llama.reset()

    def read(self, tokens: list[int], start: int) -> int:
        import numpy

        self.llama.n_tokens = start
        self.llama.eval(tokens)
        logits = self.llama._ctx.get_logits()
        return int(numpy.argmax(numpy.ctypeslib.as_array(logits, shape=(self.llama.n_vocab(),))))


class IkLlamaCpp(OneStream):
    """ik_llama.cpp, by its Python package."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__()
        import ik_llama_cpp  # type: ignore[import-not-found,unused-ignore]
        from ik_llama_cpp import _internals

        self.internals = _internals
        plain = _internals.C.llama_model_default_params

        def repacking() -> Any:
            # Its own layouts are what it is fast with; the package leaves them off.
            params = plain()
            params.repack_tensors = told["repacks"]
            return params

        _internals.C.llama_model_default_params = repacking
        self.llama = ik_llama_cpp.IkLlama(told["model"], n_ctx=told["ctx_size"], n_threads=told["threads"], verbose=False)
        flash = "on" if self.llama._has_vnni else "off, as the package does without AVX-VNNI"
        self.about = {"version": f"ik-llama-cpp-python {ik_llama_cpp.__version__}", "flash attention": flash}
        self.num_words = self.llama._model.n_vocab

    def clear(self) -> None:
        self.llama._context.kv_cache_clear()

    def read(self, tokens: list[int], start: int) -> int:
        import numpy

        for first in range(0, len(tokens), UBATCH):
            piece = tokens[first : first + UBATCH]
            batch = self.internals.make_batch_range(piece, pos_start=start + first)
            problem = self.llama._context.decode(batch)
            self.internals.C.llama_batch_free(batch)
            if problem:
                raise RuntimeError(f"llama_decode answers {problem}")
        logits = self.llama._context.get_logits(-1)
        return int(numpy.argmax(numpy.ctypeslib.as_array(logits, shape=(self.num_words,))))


class OpenVino:
    """OpenVINO GenAI: its batching pipeline, stepped by us. Keeps nothing between jobs."""

    def __init__(self, told: dict[str, Any]) -> None:
        import openvino_genai  # type: ignore[import-not-found,unused-ignore]

        settings = openvino_genai.SchedulerConfig()
        settings.enable_prefix_caching = False
        settings.max_num_batched_tokens = max(UBATCH, told["longest"])
        settings.cache_size = 0
        path, threads = told["model"], told["threads"]
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(path, settings, "CPU", {"INFERENCE_NUM_THREADS": threads})
        self.about = {"version": f"openvino-genai {openvino_genai.__version__}", "flash attention": "its own"}
        self.num_asked = 0

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do a job: the prompts' seconds end when all texts have a token, the answers' begin there."""
        import numpy
        import openvino  # type: ignore[import-not-found,unused-ignore]
        import openvino_genai  # type: ignore[import-not-found,unused-ignore]

        wanted = openvino_genai.GenerationConfig()
        wanted.max_new_tokens, wanted.ignore_eos, wanted.do_sample = 1 + job["num_tokens"], True, False
        begun = time.perf_counter()
        handles = []
        for prompt in job["prompts"]:
            tokens = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
            handles.append(self.pipeline.add_request(self.num_asked, tokens, wanted))
            self.num_asked += 1
        started: set[int] = set()
        first, num_later = begun, 0
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            was_complete = len(started) == len(handles)
            for number, handle in enumerate(handles):
                if handle.can_read() and sum(len(output.generated_ids) for output in handle.read().values()):
                    started.add(number)
                    num_later += was_complete
            if not was_complete:
                first = time.perf_counter()
        ended = time.perf_counter()
        num_read = sum(map(len, job["prompts"]))
        return {"prompt": num_read / (first - begun), "generation": num_later / (ended - first) if num_later else None}


def host_xllamacpp(told: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The stock wheel's server, with the kernels in it if there is a library; what it is, and the server."""
    import xllamacpp

    about = {"version": f"xllamacpp {xllamacpp.__version__}", "flash attention": "auto"}
    begun = time.perf_counter()
    if told["library"] is not None:
        library = ctypes.CDLL(told["library"])
        library.zhibei_kernels_level.restype = ctypes.c_char_p
        path = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))
        level = told["level"].encode() if told["level"] else None
        status = library.zhibei_kernels_register(str(path).encode(), level)
        if status:
            raise RuntimeError(f"the kernels refuse: status {status}")
        about["level"] = library.zhibei_kernels_level().decode()
        has_attention = hasattr(library, "zhibei_kernels_attention") and library.zhibei_kernels_attention()
        about["attention"] = "the kernels'" if has_attention else "the wheel's"
    params = xllamacpp.CommonParams()
    params.model.path = told["model"]
    params.n_ctx, params.n_parallel, params.kv_unified = told["ctx_size"] * told["slots"], told["slots"], False
    params.n_batch, params.n_ubatch = 2048, UBATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = told["threads"]
    params.warmup, params.fit_params, params.ui, params.cache_ram_mib = False, False, False, 0
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    about["load_s"] = str(time.perf_counter() - begun)
    return {**about, "address": server.listening_address}, server


ENGINES: dict[str, Callable[[dict[str, Any]], LlamaCppPython | IkLlamaCpp | OpenVino]] = {
    "llama-cpp-python": LlamaCppPython,
    "ik": IkLlamaCpp,
    "openvino": OpenVino,
}


def main() -> None:
    """Load, say so, and work until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print is no answer
    told = json.loads(sys.stdin.readline())

    def answer(said: dict[str, Any]) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    try:
        if sys.argv[1] == "xllamacpp":
            about, server = host_xllamacpp(told)
            answer(about)
            threading.Thread(target=_end_with_input, daemon=True).start()
            threading.Event().wait()
            del server
        begun = time.perf_counter()
        engine = ENGINES[sys.argv[1]](told)
        answer({**engine.about, "load_s": time.perf_counter() - begun})
        for line in sys.stdin:
            answer(engine.run(json.loads(line)))
    except (RuntimeError, ImportError, ValueError, IndexError, OSError, importlib.metadata.PackageNotFoundError) as error:
        answer({"problem": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
    os._exit(0)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
