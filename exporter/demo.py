"""A simulated inference server that says that it is one, by ``owned_by: llm-probe-exporter``. Its answers have no meaning.

It serves the streaming chat API at a given pace, so that metrics, status page and dashboards have data on any machine:
``llm-probe-exporter demo`` starts three of them, ``python -m exporter.demo`` one alone.
"""

import argparse
import asyncio
import json
import math
import random
import re
import socket
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

OWNER: Final = "llm-probe-exporter"
WORDS: Final = tuple(
    "the lamp turned slowly over dark water while a small boat came home with nets full of light".split()
)
MOST_TOKENS: Final = 4096
PREFILL_TOKENS_PER_SECOND: Final = 1200.0
_TOLD: Final = re.compile(r"\w+ keeps an? [\w ]+ in the cellar\.")
"""The fact that a canary asks for."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """How one simulated server behaves: tokens per second, seconds to the first token, and how much both vary (ratio)."""

    name: str
    model: str
    tokens_per_second: float
    ttft_seconds: float
    scenario: str
    wavers: float = 0.03


SIMULATIONS: Final = (
    Simulation("vllm-fp16", "Qwen2.5-14B-Instruct", 6.4, 0.9, "vllm-fp16"),
    Simulation("vllm-fp16-aiter", "Qwen2.5-14B-Instruct", 16.2, 0.45, "vllm-fp16-aiter"),
    Simulation("llamacpp-q4", "Qwen2.5-14B-Instruct-Q4_K_M", 24.0, 0.3, "llamacpp-q4"),
)


def build_app(simulation: Simulation) -> Starlette:
    """The ASGI application of one simulated server: /health, /v1/models and /v1/chat/completions."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "simulated": True})

    async def models(_: Request) -> Response:
        model = {"id": simulation.model, "object": "model", "created": 0, "owned_by": OWNER}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(request: Request) -> Response:
        try:
            body = json.loads(await request.body())
            prompt = "".join(str(message["content"]) for message in body["messages"])
            wanted = min(max(int(body.get("max_tokens") or 64), 1), MOST_TOKENS)
        except (ValueError, KeyError, TypeError) as exc:
            error = {"message": f"the request can't be read: {exc}", "type": "invalid_request_error"}
            return JSONResponse({"error": error}, status_code=400)
        if not body.get("stream"):
            error = {"message": "this simulated server only streams", "type": "invalid_request_error"}
            return JSONResponse({"error": error}, status_code=400)
        return StreamingResponse(_stream(simulation, prompt, wanted), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )


def pace_at(simulation: Simulation, seconds: float) -> float:
    """The tokens per second at a Unix time: a slow wave around the nominal speed, as a machine's day has."""
    return simulation.tokens_per_second * (1 + simulation.wavers * math.sin(seconds / 300))


def tokens_for(prompt: str, wanted: int) -> tuple[str, ...]:
    """The answer: the fact that the prompt states, if it asks for that, else that many words without meaning."""
    told = _TOLD.search(prompt)
    tokens = re.findall(r"\S{1,5}\s?", told[0]) if told else [f"{WORDS[each % len(WORDS)]} " for each in range(wanted)]
    return tuple(tokens[:wanted])


async def _stream(simulation: Simulation, prompt: str, wanted: int) -> AsyncIterator[bytes]:
    prompt_tokens, tokens = len(prompt.split()), tokens_for(prompt, wanted)
    pace = pace_at(simulation, time.time()) * random.uniform(1 - simulation.wavers / 3, 1 + simulation.wavers / 3)
    clock = asyncio.get_running_loop().time
    prefill = prompt_tokens / PREFILL_TOKENS_PER_SECOND
    due = clock() + prefill + simulation.ttft_seconds * random.uniform(0.95, 1.05)
    yield _event(simulation, [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    for number, token in enumerate(tokens):
        await asyncio.sleep(due - clock())
        due += 1 / pace
        delta = {"content": token}
        yield _event(
            simulation, [{"index": 0, "delta": delta, "finish_reason": None}], _usage(prompt_tokens, number + 1)
        )
    yield _event(
        simulation, [{"index": 0, "delta": {}, "finish_reason": "length" if len(tokens) == wanted else "stop"}]
    )
    yield _event(simulation, [], _usage(prompt_tokens, len(tokens)))
    yield b"data: [DONE]\n\n"


def _usage(prompt_tokens: int, output_tokens: int) -> dict[str, int]:
    total = prompt_tokens + output_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens, "total_tokens": total}


def _event(simulation: Simulation, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    chunk: dict[str, Any] = {"object": "chat.completion.chunk", "model": simulation.model, "choices": choices}
    if usage is not None:
        chunk["usage"] = usage
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class SimulatedServers:
    """The simulated servers of the demo, each on a free loopback port, in one thread; a context manager."""

    def __init__(self, simulations: tuple[Simulation, ...] = SIMULATIONS) -> None:
        self._sockets = [(simulation, _bound("127.0.0.1", 0)) for simulation in simulations]
        self._servers = [_server(build_app(simulation)) for simulation in simulations]
        self._thread = threading.Thread(target=self._run, name="simulated-servers", daemon=True)

    @property
    def urls(self) -> tuple[tuple[Simulation, str], ...]:
        """Each simulation with the URL on which it answers."""
        return tuple((each, f"http://127.0.0.1:{sock.getsockname()[1]}") for each, sock in self._sockets)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.should_exit = True
            server.force_exit = True
        self._thread.join(timeout=2)
        for _simulation, sock in self._sockets:
            sock.close()

    def _run(self) -> None:
        async def serve_all() -> None:
            pairs = zip(self._servers, self._sockets, strict=True)
            await asyncio.gather(*(server.serve(sockets=[sock]) for server, (_, sock) in pairs))

        asyncio.run(serve_all())


def _server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    return uvicorn.Server(config)


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def main() -> None:
    """Run one simulated server until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m exporter.demo", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tokens-per-second", type=float, default=24.0)
    parser.add_argument("--ttft", type=float, default=0.3, help="seconds to the first token")
    parser.add_argument("--model", default="simulated-14b")
    options = parser.parse_args()
    simulation = Simulation("simulated", options.model, options.tokens_per_second, options.ttft, "")
    with _bound(options.host, options.port) as sock:
        asyncio.run(_server(build_app(simulation)).serve(sockets=[sock]))


if __name__ == "__main__":
    main()
