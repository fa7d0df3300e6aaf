"""How fast the model that is served decoded last, by module: the next probe is as short as its precision allows."""

from collections.abc import Mapping

from exporter.probe.result import Identity, ProbeResult


class Speeds:
    """The last decode speeds of one model, tokens per second by module. Another model begins without any.

    ``kept`` are those of a model before a restart. A model is another one if its name, its backend or its quantization
    differs; a quantization that is not known is that of before.
    """

    def __init__(self, kept: Mapping[str, float] | None = None, model: Identity | None = None) -> None:
        self._model = model
        self._known = dict(kept or {})

    @classmethod
    def of_result(cls, result: ProbeResult | None) -> "Speeds":
        """What an earlier probe showed."""
        speed = result.measurements.tokens_per_second if result else None
        identity = result.state.identity if result and result.state else None
        return cls({result.module: speed} if result and speed else None, identity)

    def of(self, module: str, model: Identity) -> float | None:
        """The speed of a module, or the slowest of the others; None of a model that was never measured."""
        if self._model is None or not _is_same(self._model, model):
            return None
        return self._known.get(module) or min(self._known.values(), default=None)

    def note(self, module: str, model: Identity, speed: float) -> None:
        """Keep the speed that a probe has measured."""
        if self._model is None or not _is_same(self._model, model):
            self._known = {}
        self._model = model
        self._known[module] = speed


def _is_same(one: Identity, other: Identity) -> bool:
    named = (one.backend, one.model) == (other.backend, other.model)
    return named and (None in {one.quantization, other.quantization} or one.quantization == other.quantization)
