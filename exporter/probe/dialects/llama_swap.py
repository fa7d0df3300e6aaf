"""llama-swap: starts a server for the model that a request names; ``/running`` says which run, and when they are stopped."""

from dataclasses import dataclass, replace

from exporter.probe.dialects.dialect import Get, ServerStatus, StatusQuery, json_of, listed, member, text_of
from exporter.probe.dialects.openai import OpenAI, is_owned_by, status_by_models


@dataclass(frozen=True, slots=True)
class LlamaSwap(OpenAI):
    """llama-swap before servers of any kind."""

    name: str = "llama_swap"

    def recognise(self, get: Get) -> bool:
        """Its models are owned by "llama-swap"."""
        return is_owned_by(get, "llama-swap")

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads: the list and ``/running``; one more for the version. A model with a ``ttl`` of 0 is never stopped for
        being idle, so probes change nothing for it.
        """
        status = status_by_models(self.name, query)
        if status.key_refused:
            return status
        last = query.last.identity.backend_version if query.last else None
        version = last or text_of(member(json_of(query.get("/api/version")), "version"))
        unloads = status.unloads and not _stays(query.get, status.model)
        return replace(status, identity=replace(status.identity, backend_version=version), unloads=unloads)


def _stays(get: Get, model: str | None) -> bool:
    """Whether the model runs and has no time after which it is stopped."""
    running = listed(json_of(get("/running")), "running")
    return any(each.get("model") == model and each.get("ttl") == 0 for each in running)
