"""KoboldCpp: ``/api/extra/perf`` says who runs and who waits, and counts the answers.

Its list of models begins with the one in memory; as a router it loads another one that a request names.
"""

from dataclasses import dataclass, replace
from typing import Final

from exporter.probe.dialects.dialect import Get, ServerStatus, StatusQuery, json_of, member, size_of, text_of
from exporter.probe.dialects.openai import OpenAI, is_owned_by, status_by_models

VERSION: Final = "/api/extra/version"
CONTEXT: Final = "/api/extra/true_max_context_length"


@dataclass(frozen=True, slots=True)
class KoboldCpp(OpenAI):
    """KoboldCpp, alone or as a router."""

    name: str = "koboldcpp"

    def recognise(self, get: Get) -> bool:
        """Its models are owned by "koboldcpp"."""
        return is_owned_by(get, "koboldcpp")

    def status(self, query: StatusQuery) -> ServerStatus:
        """Two reads: the list and ``/api/extra/perf``; two more for the version and the context of a new model."""
        status = status_by_models(self.name, query)
        if status.key_refused:
            return status
        known = query.last.identity if query.last and query.last.model == status.model else None
        if known is None:
            context = size_of(member(json_of(query.get(CONTEXT)), "value"))
            known = replace(status.identity, context_length=context, backend_version=_version_of(query.get))
        return replace(status, identity=known)


def _version_of(get: Get) -> str | None:
    return text_of(member(json_of(get(VERSION)), "version"))
