"""A hub on loopback, as far as ``huggingface_hub`` needs one to download; and a fetch of one file that is interrupted."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.cache.build import COMMIT
from tests.server_thread import in_thread

STALL_AFTER = 12 << 20


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve ``ORG/NAME/FILE`` → content. Of a file whose name has ``stall`` in it only the first 12 MiB ever come, more than what the library writes at once."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            repository, _, file = self.path.lstrip("/").partition("/resolve/main/")
            content = files.get(f"{repository}/{file}")
            self.send_response(404 if content is None else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            large = len(content) >= 1000
            git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            etag = hashlib.sha256(content).hexdigest() if large else git
            self.send_header("ETag", f'"{etag}"')
            if large:
                self.send_header("X-Linked-Etag", f'"{etag}"')
                self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body and "stall" in file:
                self.wfile.write(content[:STALL_AFTER])
                stop.wait(60)
            elif with_body:
                self.wfile.write(content)

    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            stop.set()
