"""Plain HTTP for the tests of the simulated servers: without anything of the exporter."""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from tests.servers.simulated import Simulated

# One client for all, without TLS: making its certificates known takes longer than a request.
CLIENT = httpx.Client(verify=False, trust_env=False, timeout=60)  # loopback


def get(server: Simulated, path: str, **headers: str) -> httpx.Response:
    """The answer to a GET."""
    return CLIENT.get(server.url + path, headers=headers)


def read(server: Simulated, path: str) -> Any:
    """The JSON that a GET gives."""
    return get(server, path).json()


def post(server: Simulated, path: str, body: Any) -> httpx.Response:
    """The answer to a POST, read to its end."""
    return CLIENT.post(server.url + path, json=body)


def chat(text: str = "one two three", tokens: int = 4, **more: Any) -> dict[str, Any]:
    """The body of a chat that isn't streamed."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}


def events(response: httpx.Response) -> list[Any]:
    """The JSON of a stream's events or lines."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.strip()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def spent(server: Simulated, doing: Callable[[], object]) -> Counter[str]:
    """The costs that something adds."""
    before = server.costs.copy()
    doing()
    return server.costs - before


def wait_for(done: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until that is true; fails where it never is."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.005)
