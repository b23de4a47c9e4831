"""Tokens per second of one model file in the stock wheel and in the same wheel with the kernels, turn by turn.

    python side_by_side.py MODEL.gguf --library libzhibei_kernels.so [--level avx2] [--rounds 3]

Each side loads the model in a process of its own and answers the same requests in turns, so that whatever else the machine
does meets both. Prints every round, then medians and ratios; and the greedy texts, when they differ.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_WORDS = "the river keeps its own counsel while the town counts lamps and the mill turns slowly under rain ".split()


@dataclass(frozen=True, slots=True)
class Side:
    """A process with a model."""

    name: str
    pipe: Connection

    def ask(self, prompt: str, num_tokens: int) -> dict[str, Any]:
        """The answer and its timings."""
        self.pipe.send((prompt, num_tokens))
        answer: dict[str, Any] = self.pipe.recv()
        return answer


def _serve(pipe: Connection, model: str, library: str | None, level: str, threads: int) -> None:
    import xllamacpp

    status = 0
    if library is not None:
        path = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))
        status = ctypes.CDLL(library).zhibei_kernels_register(str(path).encode(), level.encode())
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.n_ubatch, params.n_batch = 4096, 1, 512, 2048
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup, params.fit_params, params.hostnames, params.port = False, False, ["127.0.0.1"], 0
    begun = time.perf_counter()
    server = xllamacpp.Server(params)
    pipe.send({"status": status, "load_s": time.perf_counter() - begun, "resident_bytes": _resident_bytes()})
    while True:
        try:
            prompt, num_tokens = pipe.recv()
        except EOFError:
            return
        request = {
            "prompt": prompt,
            "max_tokens": num_tokens,
            "temperature": 0,
            "seed": 1,
            "cache_prompt": False,
            "ignore_eos": True,
        }
        answer = server.handle_completions(request)
        pipe.send({"text": answer["choices"][0]["text"], **answer["timings"]})


def _resident_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def _start(name: str, options: argparse.Namespace, library: str | None) -> Side:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, options.model, library, options.level, options.threads)
    context.Process(target=_serve, args=arguments, daemon=True).start()
    theirs.close()
    hello = ours.recv()
    resident_mib = hello["resident_bytes"] / 2**20
    print(f"{name}: status {hello['status']}, loaded in {hello['load_s']:.2f} s, {resident_mib:.0f} MiB of its own")
    return Side(name, ours)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--library", required=True)
    parser.add_argument("--level", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-words", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    sides = (_start("stock", options, None), _start("kernels", options, options.library))
    prompt = " ".join(_WORDS[i % len(_WORDS)] for i in range(options.prompt_words))
    seen: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
    texts: dict[str, str] = {}
    for number in range(options.rounds):
        for side in sides:
            # The number first: nothing of an earlier prompt may be reused.
            answer = side.ask(f"{number} {prompt}", options.tokens)
            seen[side.name].append((answer["prompt_per_second"], answer["predicted_per_second"]))
            texts[side.name] = answer["text"]
            read, written = seen[side.name][-1]
            print(f"  {side.name:8} prompt {answer['prompt_n']} at {read:7.1f}/s, generation {written:6.1f}/s")
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in seen.items()}
    for at, what in enumerate(("prompt", "generation")):
        stock, kernels = medians["stock"][at], medians["kernels"][at]
        print(f"{what:10} stock {stock:7.1f}  kernels {kernels:7.1f}  ratio {kernels / stock:.2f}")
    print(
        "greedy text: "
        + ("the same" if texts["stock"] == texts["kernels"] else f"differs\n{texts['stock']!r}\n{texts['kernels']!r}")
    )


if __name__ == "__main__":
    main()
