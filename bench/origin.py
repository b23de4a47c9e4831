"""The place that files are pulled from: a model file of any size, and servers for it. Used by ``pull.py``.

nginx where it is installed, else the server of this file, which can also count, go slowly, and cut all connections when told.
All answer to ``/REPOSITORY/resolve/main/NAME`` with the headers that huggingface_hub asks for.

    python bench/origin.py DIRECTORY PORT SHA256
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY, COMMIT = "bench/model", "0123456789abcdef0123456789abcdef01234567"
_PIECE_BYTES = 1 << 20
_F32, _TEXT, _U32 = 0, 8, 4


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file to be pulled: random bytes behind a header that says GGUF."""

    path: Path
    size_bytes: int
    sha256: str

    @property
    def url_path(self) -> str:
        """Where every server here has it."""
        return f"/{REPOSITORY}/resolve/main/{self.path.name}"


def write_model(directory: Path, size_bytes: int) -> ModelFile:
    """Random bytes as one tensor of a valid GGUF file. All are written: a sparse file would be read for nothing."""
    head = _head(0)
    num_values = (size_bytes - len(head)) // 4
    if num_values < 1:
        raise ValueError(f"a model needs more than {len(head)} bytes")
    path = directory / "model.gguf"
    sha256 = hashlib.sha256()
    with path.open("wb") as out:
        left = num_values * 4
        piece = _head(num_values)
        while piece:
            out.write(piece)
            sha256.update(piece)
            piece = os.urandom(min(left, 4 * _PIECE_BYTES))
            left -= len(piece)
        out.flush()
        os.fsync(out.fileno())
    return ModelFile(path, path.stat().st_size, sha256.hexdigest())


def _head(num_values: int) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entries = [("general.architecture", _TEXT, text("llama")), ("general.name", _TEXT, text("bench"))]
    numbers = {"block_count": 1, "context_length": 128, "embedding_length": 32, "feed_forward_length": 64}
    numbers["attention.head_count"] = 4
    entries += [(f"llama.{key}", _U32, struct.pack("<I", value)) for key, value in numbers.items()]
    raw = b"GGUF" + struct.pack("<IQQ", 3, 1, len(entries))
    raw += b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in entries)
    raw += text("token_embd.weight") + struct.pack("<IQIQ", 1, num_values, _F32, 0)
    return raw + bytes(-len(raw) % 32)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serving(model: ModelFile, workspace: Path, port: int, prefix: tuple[str, ...] = ()) -> Iterator[str]:
    """Run nginx, or else this file, behind a command prefix such as one that enters a namespace; give the server's name."""
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx:
        configuration = workspace / "nginx.conf"
        configuration.write_text(_nginx_configuration(model, workspace, port))
        command = [nginx, "-p", str(workspace), "-e", str(workspace / "nginx-error.log"), "-c", str(configuration)]
    else:
        command = [sys.executable, __file__, str(model.path.parent), str(port), model.sha256]
    with subprocess.Popen([*prefix, *command], stderr=subprocess.DEVNULL, start_new_session=True) as server:
        try:
            _await_server(port, prefix, server)
            yield "nginx" if nginx else "origin.py"
        finally:
            # Its workers too: the group is of this server alone.
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def _await_server(port: int, prefix: tuple[str, ...], server: subprocess.Popen[bytes]) -> None:
    probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
    for _ in range(100):
        if server.poll() is not None:
            break
        if subprocess.run([*prefix, sys.executable, "-c", probe], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.1)
    raise RuntimeError(f"no server on port {port}")


def _nginx_configuration(model: ModelFile, workspace: Path, port: int) -> str:
    user = "user root;" if os.geteuid() == 0 else ""
    scratch = "\n".join(
        f"    {what}_temp_path {workspace}/nginx-{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}
daemon off;
worker_processes 2;
pid {workspace}/nginx.pid;
events {{ worker_connections 512; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    default_type application/octet-stream;
{scratch}
    server {{
        listen {port} backlog=512;
        location /{REPOSITORY}/resolve/main/ {{
            alias {model.path.parent}/;
            add_header X-Repo-Commit {COMMIT};
            add_header X-Linked-Etag '"{model.sha256}"';
            add_header X-Linked-Size {model.size_bytes};
        }}
    }}
}}
"""


class CountingServer(ThreadingHTTPServer):
    """A server that counts what it has sent and can be told to go slowly or to cut.

    ``bytes_per_s`` holds for each connection: with small buffers little is under way when something is cut. ``cut_at``: all
    connections are reset once so many bytes have been sent, and the next ones are served as if nothing had been.
    """

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, model: ModelFile, address: tuple[str, int], bytes_per_s: int | None = None) -> None:
        super().__init__(address, _Handler)
        self.model = model
        self.bytes_per_s = bytes_per_s
        self.cut_at: int | None = None
        self.num_sent_bytes = 0
        self.num_requests = 0
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()

    def track(self, connection: socket.socket, *, is_open: bool) -> None:
        """Know of a connection, or no longer."""
        with self._guard:
            (self._open.add if is_open else self._open.discard)(connection)

    @property
    def num_open(self) -> int:
        """Connections at this moment."""
        return len(self._open)

    def count(self, num_bytes: int) -> None:
        """Count what went out; cut if it is time."""
        with self._guard:
            self.num_sent_bytes += num_bytes
            if self.cut_at is None or self.num_sent_bytes < self.cut_at:
                return
            self.cut_at = None
            for connection in self._open:
                with suppress(OSError):
                    # Lingering for no time makes the close a reset.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CountingServer

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.server.bytes_per_s:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        self.server.track(self.connection, is_open=True)

    def finish(self) -> None:
        self.server.track(self.connection, is_open=False)
        super().finish()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        span = self._answer()
        if span is not None:
            self._send(*span)

    def _answer(self) -> tuple[int, int] | None:
        model = self.server.model
        if self.path != model.url_path:
            self.send_error(404)
            return None
        self.server.num_requests += 1
        tag = f'"{model.sha256}"'
        wanted = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", self.headers.get("Range", ""))
        first, last = 0, model.size_bytes - 1
        is_part = wanted is not None and self.headers.get("If-Range", tag) == tag
        if wanted is not None and is_part:
            first, last = int(wanted[1]), min(last, int(wanted[2] or last))
        if first > last:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{model.size_bytes}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{model.size_bytes}")
        headers = {"Content-Length": last + 1 - first, "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        hub = {"ETag": tag, "X-Repo-Commit": COMMIT, "X-Linked-Etag": tag, "X-Linked-Size": model.size_bytes}
        for key, value in (headers | hub).items():
            self.send_header(key, str(value))
        self.end_headers()
        return first, last + 1

    def _send(self, offset: int, end: int) -> None:
        self.wfile.flush()
        rate = self.server.bytes_per_s
        piece_bytes = 64 * 1024 if rate else _PIECE_BYTES
        start, begin = time.monotonic(), offset
        with self.server.model.path.open("rb") as file:
            while offset < end:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), offset, min(piece_bytes, end - offset))
                if not sent:
                    raise ConnectionError("nothing sent")
                offset += sent
                self.server.count(sent)
                if rate:
                    time.sleep(max(0.0, start + (offset - begin) / rate - time.monotonic()))

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


if __name__ == "__main__":
    where = Path(sys.argv[1]) / "model.gguf"
    CountingServer(ModelFile(where, where.stat().st_size, sys.argv[3]), ("", int(sys.argv[2]))).serve_forever()
