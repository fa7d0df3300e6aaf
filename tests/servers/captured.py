"""A server that answers with recorded answers: the GETs of a folder of captures, and a POST as a test wants it."""

import re
from collections.abc import Callable
from pathlib import Path

from tests.servers.simulated import ReceivedRequest, ServerAnswer, Simulated

STREAMS = Path(__file__).parent.parent / "fixtures" / "streams"
# These belong to the connection, not to the answer.
HOP_HEADERS = {"content-length", "transfer-encoding", "connection", "keep-alive", "content-type", "server"}


def load(name: str) -> ServerAnswer:
    """A recorded answer, like ``vllm/get-health``."""
    head, body = re.split(rb"\r?\n\r?\n", (STREAMS / f"{name}.txt").read_bytes(), maxsplit=1)
    lines = head.decode().splitlines()
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
    kept = {key: value for key, value in headers.items() if key not in HOP_HEADERS}
    return ServerAnswer(int(lines[0].split()[1]), body, headers.get("content-type", ""), kept)


def server_of(name: str) -> str:
    """The Server header of a recorded answer."""
    match = re.search(rb"(?im)^server: *([^\r\n]*)", (STREAMS / f"{name}.txt").read_bytes())
    return match[1].decode() if match else ""


class Captured(Simulated):
    """Answers GET of a path by the capture that ``gets`` names for it, else by ``missing``."""

    def __init__(
        self, gets: dict[str, str], missing: str, post: Callable[[ReceivedRequest], ServerAnswer] | None = None
    ) -> None:
        super().__init__()
        self.name = server_of(missing)
        self._gets = gets
        self._missing = missing
        self._post = post

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """The recorded answer."""
        if request.method == "POST" and self._post:
            return self._post(request)
        return load(self._gets.get(request.path, self._missing))


def llama_server(folder: str = "llama-server") -> dict[str, str]:
    """The paths of a folder of captures of llama-server."""
    found = {}
    for path in sorted((STREAMS / folder).glob("get-*.txt")):
        found["/" + path.stem.removeprefix("get-").replace("v1-", "v1/").replace("api-", "api/")] = (
            f"{folder}/{path.stem}"
        )
    return found
