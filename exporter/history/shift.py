"""What a module's speed did since a change, or since a step that no fact explains."""

from dataclasses import dataclass
from typing import Final, Literal

from exporter.history.ratio import Ratio

Phase = Literal["decode", "prefill"]
DECODE: Final = "decode"
PREFILL: Final = "prefill"


def series_name(module: str, phase: Phase) -> str:
    """The name of a module's series of one phase: that of decode is the module's own."""
    return module if phase == DECODE else f"{module}/{phase}"


@dataclass(frozen=True, slots=True)
class Shift:
    """How one module's figures compare with those before ``since_seconds`` (Unix time).

    ``speed`` is that of ``phase``: decode, or the prefill of long prompts, which may hold while the other falls.
    ``changes`` are the times of the changes that it belongs to: several if too few probes lie between them to tell them
    apart, none for an unexplained step. ``told_at_seconds`` is when the speed was first found to differ beyond the noise,
    ``back_at_seconds`` when it was found to be as before again, ``accepted_at_seconds`` when the new level became the usual one.
    """

    module: str
    since_seconds: float
    changes: tuple[float, ...]
    judged_at_seconds: float
    speed: Ratio
    ttft: Ratio | None = None
    prefill: Ratio | None = None
    told_at_seconds: float | None = None
    back_at_seconds: float | None = None
    accepted_at_seconds: float | None = None
    told_after_seconds: float = 0.0
    """Time under watch when it was reported. Clocks are set; a level counts as accepted after 30 days of watching."""
    phase: Phase = DECODE
    meanwhile: tuple[tuple[str, str, str], ...] = ()
    """What else was different since an unexplained step: name, before, after."""

    @property
    def series(self) -> str:
        """The name of its series."""
        return series_name(self.module, self.phase)

    @property
    def explained(self) -> bool:
        """Whether a watched fact changed at that time."""
        return bool(self.changes)

    @property
    def told(self) -> bool:
        """Whether the speed differs beyond the noise now."""
        return self.told_at_seconds is not None and self.back_at_seconds is None

    @property
    def standing(self) -> bool:
        """Whether it is slower than before, and neither back nor accepted: what an alert is about."""
        return self.told and self.speed.below and self.accepted_at_seconds is None
