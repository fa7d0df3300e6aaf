"""What the made-up servers of these tests share: a body that is read, an answer in JSON, and no log."""

import json
from http.server import BaseHTTPRequestHandler


class JsonAnswers(BaseHTTPRequestHandler):
    """Sends documents."""

    def read_body(self) -> bytes:
        """What the client sent."""
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def send_json(self, status: int, body: object, *, escaped: bool = True) -> None:
        r"""Answer with a document, its letters beyond ASCII as ``\u…`` or as they are."""
        raw = json.dumps(body, ensure_ascii=escaped).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
