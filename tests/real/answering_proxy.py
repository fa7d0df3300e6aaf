"""A proxy before a real llama-server whose model recalls nothing: the timing and the protocol are the server's, the text is another.

Random weights say random words. The proxy says in their place what a model that recalls would say, or one with a fault. It says
it token by token as the server's own tokens come; with ``as_it_is`` it passes them on.
"""

import http.client
import json
import threading
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.probe.faults import Fault, FaultyServer
from tests.probe.healthy import tokens_of


class AnsweringProxy:
    """Listens on a port of its own while the block runs."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.mind = FaultyServer()
        self.as_it_is = False
        self.prompts: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def use(self, fault: Fault | None) -> None:
        """From the next request on the model has this fault, or none."""
        self.mind.fault = fault

    def words(self, body: dict[str, Any]) -> tuple[str, ...] | None:
        """The tokens to say to a chat; None for what is passed on as it is."""
        prompt = body["messages"][-1]["content"]
        with self._lock:
            self.prompts.append(prompt)
            if self.as_it_is or not body.get("stream"):
                return None
            return tokens_of(self.mind.draw, self.mind.answer(prompt).text)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler_of(proxy: AnsweringProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on(b"")

        def do_POST(self) -> None:
            self._pass_on(self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def send_response(self, code: int, message: str | None = None) -> None:
            self.send_response_only(code, message)  # without a Server header of its own

        def _pass_on(self, body: bytes) -> None:
            words = proxy.words(json.loads(body)) if self.path.startswith("/v1/chat") else None
            upstream = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
            with closing(upstream), suppress(BrokenPipeError, ConnectionResetError):  # the prober has heard enough
                upstream.request(self.command, self.path, body or None, {"Content-Type": "application/json"})
                with upstream.getresponse() as answer:
                    self._relay(answer, words)

        def _relay(self, answer: http.client.HTTPResponse, words: tuple[str, ...] | None) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "connection", "keep-alive"}:
                    self.send_header(name, value)
            self.end_headers()
            if words is None:
                self.wfile.write(answer.read())
            else:
                self._say(answer, list(words))

        def _say(self, answer: http.client.HTTPResponse, words: list[str]) -> None:
            """The server's events, with other words in them; the end comes when these are said."""
            for line in answer:
                if not line.startswith(b"data: {"):
                    self.wfile.write(line)
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                choice: dict[str, Any] = next(iter(event.get("choices") or []), {})
                if choice.get("delta", {}).get("content"):
                    if not words:
                        choice["delta"], choice["finish_reason"] = {}, "stop"
                        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n")
                        return
                    choice["delta"]["content"] = words.pop(0)
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n")
                self.wfile.flush()

    return Handler
