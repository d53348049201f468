"""A hub on this machine, as far as huggingface_hub asks it for a model: which files there are, and their bytes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "5" * 40


@dataclass
class Hub:
    """Serves the files of `folder` as the model `acme/lamp`."""

    folder: Path
    address: str = ""
    sent: list[str] = field(default_factory=list)
    """Names of the files whose bytes were asked for."""
    commit: str = COMMIT
    """Of its main branch, which is the only one that it tells of."""
    gated: bool = False
    """It is given to nobody."""

    def environment(self, cache: Path, *, offline: bool = False) -> dict[str, str]:
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1" if offline else "0"}


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """The hub, on a free port of this machine alone."""
    served = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body: bytes, kind: str, **headers: str) -> None:
            self.send_response(200)
            for name, value in {"Content-Length": str(len(body)), "Content-Type": kind, **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if served.gated:
                self.send_response(403)
                self.send_header("X-Error-Code", "GatedRepo")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            files = {file.name: file.read_bytes() for file in sorted(served.folder.iterdir())}
            if path.startswith("/api/models/acme/lamp/tree/"):
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324
                    for name, data in files.items()
                ]
                self.answer(json.dumps(entries).encode(), "application/json")
            elif path.startswith("/api/models/acme/lamp"):
                self.answer(
                    json.dumps(
                        {
                            "id": "acme/lamp",
                            "sha": path.rpartition("/revision/")[2] if path.count("/revision/5") else served.commit,
                        }
                    ).encode(),
                    "application/json",
                )
            elif path.startswith("/acme/lamp/resolve/") and (name := path.rpartition("/")[2]) in files:
                if self.command == "GET":
                    served.sent.append(name)
                tag = hashlib.sha1(files[name]).hexdigest()  # noqa: S324
                self.answer(files[name], "application/octet-stream", ETag=f'"{tag}"', X_Repo_Commit=path.split("/")[4])
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        served.address = f"http://127.0.0.1:{server.server_port}"
        yield served
        server.shutdown()
        thread.join()
