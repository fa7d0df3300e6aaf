"""Services of a home that are no inference servers but answer at the same ports: made up after what routers, NAS and receivers say.

Costs: ``stranger posted to`` (a POST went to something that never said what it is).
"""

from typing import Literal

from tests.servers.simulated import ReceivedRequest, ServerAnswer, Simulated

Kind = Literal["router", "nas", "airplay", "torrent", "page"]
ANSWERS: dict[Kind, tuple[str, int, str, bytes, dict[str, str]]] = {
    "router": (
        "micro_httpd",
        401,
        "text/html",
        b"<html><head><title>401 Unauthorized</title></head><body>Authorization required.</body></html>",
        {"WWW-Authenticate": 'Basic realm="router"'},
    ),
    "nas": ("nginx", 401, "application/json", b'{"error":{"code":119},"success":false}', {}),
    "airplay": ("AirTunes/775.3.1", 403, "", b"", {}),
    "torrent": ("", 403, "text/plain; charset=UTF-8", b"Forbidden", {}),
    "page": ("lighttpd", 200, "text/html", b"<!DOCTYPE html><html><body>Welcome</body></html>", {}),
}


class SimulatedNobody(Simulated):
    """Answers every path alike."""

    def __init__(self, kind: Kind = "router") -> None:
        super().__init__()
        self.name, self.status, self.kind, self.body, self.headers = ANSWERS[kind]

    def answer(self, request: ReceivedRequest) -> ServerAnswer:
        """No."""
        if request.method == "POST":
            self.cost("stranger posted to")
        return ServerAnswer(self.status, self.body, self.kind, self.headers)
