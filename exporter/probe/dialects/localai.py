"""LocalAI: lists all models that it could serve and loads the one that a request names; ``/system`` says what is in memory."""

from dataclasses import dataclass, replace

from exporter.probe.dialects.dialect import Get, ServerStatus, StatusQuery, entries_of, json_of, member, text_of
from exporter.probe.dialects.openai import OpenAI, status_by_models


@dataclass(frozen=True, slots=True)
class LocalAI(OpenAI):
    """LocalAI."""

    name: str = "localai"

    def recognise(self, get: Get) -> bool:
        """Its list names neither an owner nor a date, and its ``/system`` what is loaded."""
        entries = [each for each in entries_of(get("/v1/models"), "data") if text_of(each.get("id"))]
        if not entries or any({"owned_by", "created"} & each.keys() for each in entries):
            return False
        return isinstance(member(json_of(get("/system")), "loaded_models"), list)

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads: the list and ``/system``; one more for the version."""
        status = status_by_models(self.name, query)
        if status.key_refused:
            return status
        last = query.last.identity.backend_version if query.last else None
        version = last or text_of(member(json_of(query.get("/version")), "version"))
        return replace(status, identity=replace(status.identity, backend_version=version))
