"""How much later ``zhibei run MODEL hi`` shows its first text than the engine alone, both from a standing start.

    python bench/first_token.py [--home DIR] [--rounds 7]

The engine alone: a new Python that imports xllamacpp, loads the same file with the same sizes and streams the same chat.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serving import MODEL, pull_model

ALONE = """
import http.client, json, sys, xllamacpp
params = xllamacpp.CommonParams()
options = json.loads(sys.argv[2])
params.model.path, params.n_ctx, params.n_parallel, params.port = sys.argv[1], options["ctx"], 1, 0
params.n_batch = params.n_ubatch = options["batch"]
params.cpuparams.n_threads = options["threads"]
params.fit_params = False
server = xllamacpp.Server(params)
connection = http.client.HTTPConnection(server.listening_address.removeprefix("http://"))
body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 8}
connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
answer = connection.getresponse()
while line := answer.readline():
    if b'"content":"' in line:
        print(line, flush=True)
        break
import os
os._exit(0)
"""


def first_output_s(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        first = child.stdout.read(1)
        taken = time.perf_counter() - start
        child.stdout.read()
    if not first:
        raise RuntimeError(f"no output from {command}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.home or Path(temporary)
        pull_model(home)
        environment = os.environ | {"ZHIBEI_HOME": str(home), "ZHIBEI_PORT": "1"}
        # As installed: compiled once, not at every start.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        shown = subprocess.run(
            [sys.executable, "-m", "zhibei", "show", MODEL, "--json"], env=environment, check=True, capture_output=True
        )
        path = next(file["path"] for file in json.loads(shown.stdout)["files"] if file["role"] == "model")
        options = json.dumps({"ctx": 8192, "batch": 256, "threads": os.cpu_count()})
        run = [sys.executable, "-m", "zhibei", "run", MODEL, "hi", "--max-tokens", "8"]
        alone = [sys.executable, "-c", ALONE, path, options]
        ours, theirs = [], []
        for number in range(args.rounds + 1):
            pair = first_output_s(alone, environment), first_output_s(run, environment)
            if number:
                theirs.append(pair[0])
                ours.append(pair[1])
        added = [our - their for our, their in zip(ours, theirs, strict=True)]
        print(f"engine alone {statistics.median(theirs):.2f} s, zhibei run {statistics.median(ours):.2f} s")
        print(f"added {statistics.median(added):.2f} s (from {min(added):.2f} to {max(added):.2f})")


if __name__ == "__main__":
    main()
