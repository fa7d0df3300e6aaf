"""LM Studio: ``/api/v0/models`` says of each model its type, its quantization and whether it is in memory."""

from dataclasses import dataclass

from exporter.probe.dialects.dialect import Get
from exporter.probe.dialects.openai import OpenAI, is_owned_by


@dataclass(frozen=True, slots=True)
class LMStudio(OpenAI):
    """The server of LM Studio. What is in memory, and what kind of model it is, stands in ``residency``."""

    name: str = "lm_studio"

    def recognise(self, get: Get) -> bool:
        """Its models are owned by "organization_owner"."""
        return is_owned_by(get, "organization_owner")
