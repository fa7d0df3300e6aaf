"""One probe as the history keeps it, and many of them packed.

Packed, because a thousand targets each keep a few hundred: as objects they would be most of those that a full garbage
collection visits.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_PACKED: Final = struct.Struct("<dfffB")
_OK, _COLD, _SHARED = 1, 2, 4
_LARGEST: Final = 3e38
"""Beyond it a 32-bit float has no finite value."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One probe that ran: Unix time, tokens per second and seconds; ``None`` if it was not measured.

    ``cold_start`` is a probe that waited for the model to load, ``beside_users`` one that shared the server with others.
    """

    at_seconds: float
    tokens_per_second: float | None = None
    ttft_seconds: float | None = None
    prefill_tokens_per_second: float | None = None
    ok: bool = True
    cold_start: bool = False
    beside_users: bool = False

    @property
    def counts(self) -> bool:
        """Whether its speed says how fast the target is: of a good probe, alone on the server, of a warm model."""
        return (
            self.ok and not self.cold_start and not self.beside_users and positive(self.tokens_per_second) is not None
        )


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples in the order in which they came. Figures keep six significant digits."""

    packed: bytes = b""

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Samples":
        return cls(b"".join(map(_pack, samples)))

    def __len__(self) -> int:
        return len(self.packed) // _PACKED.size

    def __iter__(self) -> Iterator[Sample]:
        for at_seconds, speed, ttft, prefill, flags in _PACKED.iter_unpack(self.packed):
            figures = (_figure(speed), _figure(ttft), _figure(prefill))
            yield Sample(at_seconds, *figures, bool(flags & _OK), bool(flags & _COLD), bool(flags & _SHARED))

    def followed_by(self, sample: Sample, most: int) -> "Samples":
        """With one more, the oldest left out beyond ``most``."""
        return Samples(self.packed[-(most - 1) * _PACKED.size :] + _pack(sample))

    def joined(self, other: "Samples", most: int) -> "Samples":
        """These and then the others, the oldest left out beyond ``most``."""
        return Samples(self.packed + other.packed).newest(most)

    def newest(self, count: int) -> "Samples":
        """The last ``count``."""
        return Samples(self.packed[-count * _PACKED.size :]) if count > 0 else Samples()

    def without_newest(self, count: int) -> "Samples":
        """All but the last ``count``."""
        return Samples(self.packed[: max(0, len(self) - count) * _PACKED.size])

    def speeds(self) -> list[float]:
        """Their decode speeds, of those that have one."""
        return [speed for _, speed, *_ in _PACKED.iter_unpack(self.packed) if speed > 0]

    def column(self, name: str) -> list[float]:
        """One figure by its name in ``Sample``, of those that have it."""
        return [value for each in self if (value := positive(getattr(each, name))) is not None]


def positive(value: float | None) -> float | None:
    """A figure that can have been measured; None for nothing, NaN, infinities, zero and less."""
    return value if value is not None and 0 < value < _LARGEST else None


def is_whole(packed: bytes) -> bool:
    """Whether bytes that were read back are a whole number of samples."""
    return len(packed) % _PACKED.size == 0


def _pack(sample: Sample) -> bytes:
    speed, ttft, prefill = (
        positive(value) or math.nan
        for value in (sample.tokens_per_second, sample.ttft_seconds, sample.prefill_tokens_per_second)
    )
    flags = _OK * sample.ok | _COLD * sample.cold_start | _SHARED * sample.beside_users
    return _PACKED.pack(sample.at_seconds, speed, ttft, prefill, flags)


def _figure(value: float) -> float | None:
    # A 32-bit float holds six digits; those that it has beyond them are the conversion's.
    return float(f"{value:.6g}") if value > 0 else None
