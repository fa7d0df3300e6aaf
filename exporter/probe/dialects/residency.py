"""Which models are in memory, on servers of the OpenAI API that load on request and say so at a path of their own.

Each path is read only if the list of models is that server's: the same path may cost something on another.

- llama-swap: ``/running``, with what is starting.
- LM Studio: ``/api/v0/models``.
- Lemonade: ``/v1/health``, with whether a model is busy and when it was used last; models of a cloud are listed too, and are never
  in memory here.
- Docker Model Runner: ``/api/ps``, whose ``expires_at`` moves with each use.
- LocalAI: ``/system``, which doesn't say when a model was used. Its list names neither owner nor date.
- KoboldCpp: the first in its list; ``/api/extra/perf`` gives its queue and counts its answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from exporter.probe.dialects.dialect import Get, count_of, json_of, listed, member, number_of, text_of

Entries = list[dict[str, Any]]
KOBOLD_PERF: Final = "/api/extra/perf"
_KOBOLD_EMPTY: Final = "koboldcpp/inactive"


@dataclass(frozen=True, slots=True)
class ModelResidency:
    """The models in memory by name, each with what the server says of it; ``remote`` are those of a cloud.

    ``running`` and ``waiting`` are requests, ``activity`` a text that is another one after a request; None if unknown.
    ``uses`` are such texts by model, if each model has its own. ``crowded`` says that several are in memory, of which the server evicts the one that was not used for longest, ``recent`` which of
    them was used last; None if unknown.
    """

    models: Mapping[str, Mapping[str, Any]]
    remote: frozenset[str] = field(default_factory=frozenset)
    running: float | None = None
    waiting: float | None = None
    activity: str | None = None
    uses: Mapping[str, str] = field(default_factory=dict)
    recent: str | None = None
    crowded: bool = False


def residency_of(get: Get, entries: Entries) -> ModelResidency | None:
    """What is in memory, by the list of models and one more read; None if the server can't tell."""
    owners = {text_of(each.get("owned_by")) for each in entries}
    for owner, read in _BY_OWNER.items():
        if owner in owners:
            return read(get, entries)
    if entries and not any({"owned_by", "created"} & each.keys() for each in entries):
        return _local_ai(get)
    states = {each["id"]: text_of(member(each, "status", "value")) for each in entries}
    if any(states.values()):
        return ModelResidency({each["id"]: each for each in entries if states[each["id"]] == "loaded"})
    return None


def _llama_swap(get: Get, _: Entries) -> ModelResidency | None:
    return _named(json_of(get("/running")), "running", "model", "ready")


def _lm_studio(get: Get, _: Entries) -> ModelResidency | None:
    return _named(json_of(get("/api/v0/models")), "data", "id", "loaded")


def _named(value: Any, key: str, name: str, state: str) -> ModelResidency | None:
    if member(value, key) is None:
        return None
    found = [each for each in listed(value, key) if each.get("state") == state and text_of(each.get(name))]
    return ModelResidency({each[name]: each for each in found})


def _lemonade(get: Get, entries: Entries) -> ModelResidency | None:
    health = json_of(get("/v1/health"))
    remote = frozenset(each["id"] for each in entries if each.get("recipe") == "cloud" or each.get("cloud_provider"))
    if not isinstance(member(health, "all_models_loaded"), list):
        return None
    found = {
        each["model_name"]: each
        for each in listed(health, "all_models_loaded")
        if text_of(each.get("model_name")) and each.get("recipe") != "cloud" and each["model_name"] not in remote
    }
    busy = [each.get("is_busy") for each in found.values()]
    told = all(isinstance(each, bool) for each in busy)
    times = {name: number_of(each.get("last_use")) for name, each in found.items() if each.get("type") in {None, "llm"}}
    return ModelResidency(
        found,
        remote,
        running=float(sum(map(bool, busy))) if told else None,
        recent=_used_last(times),
        crowded=len(times) > 1,
    )


def _used_last(times: Mapping[str, float | None]) -> str | None:
    """Of several models the one with the newest time of use; None if one has none."""
    if len(times) < 2 or None in times.values():
        return None
    return max(times, key=lambda name: times[name] or 0.0)


def _docker(get: Get, _: Entries) -> ModelResidency | None:
    running = json_of(get("/api/ps"))
    if not isinstance(member(running, "models"), list):
        return None
    found = {each["name"]: each for each in listed(running, "models") if text_of(each.get("name"))}
    return ModelResidency(found, uses={name: str(each.get("expires_at")) for name, each in found.items()})


def _local_ai(get: Get) -> ModelResidency | None:
    state = json_of(get("/system"))
    if not isinstance(member(state, "loaded_models"), list):
        return None
    found = {each["id"]: each for each in listed(state, "loaded_models") if text_of(each.get("id"))}
    return ModelResidency(found, crowded=len(found) > 1)


def _koboldcpp(get: Get, entries: Entries) -> ModelResidency | None:
    current = entries[0]["id"]
    perf = json_of(get(KOBOLD_PERF))
    running, waiting = kobold_load(perf)
    answers = count_of(member(perf, "total_gens"))
    return ModelResidency(
        {} if current == _KOBOLD_EMPTY else {current: entries[0]},
        running=running,
        waiting=waiting,
        activity=None if answers is None else f"{answers} answers",
    )


def kobold_load(perf: Any) -> tuple[float | None, float | None]:
    """Requests that run and that wait, by KoboldCpp's ``/api/extra/perf``; None if it doesn't say."""
    idle, waiting = count_of(member(perf, "idle")), count_of(member(perf, "queue"))
    return (None, None) if idle is None or waiting is None else (float(not idle), float(waiting))


_BY_OWNER: Final = {
    "llama-swap": _llama_swap,
    "organization_owner": _lm_studio,
    "lemonade": _lemonade,
    "docker": _docker,
    "koboldcpp": _koboldcpp,
}
