"""Power while a probe decodes: sampled from the GPU's sensor, averaged over exactly that time."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from exporter.host.gpu import find_cards
from exporter.host.pci import is_suspended
from exporter.host.sensors import find_power_files, read_watts

INTERVAL: Final = 0.1
"""Seconds between readings; the firmware itself averages over about as long."""
LONGEST: Final = 600.0
"""Seconds after which a meter that nobody stopped stops by itself."""
GAP_NS: Final = 1_000_000_000
"""Two readings further apart than this say nothing of the time between them."""
COVERED: Final = 0.9
"""Share of the time asked about that must lie between readings."""


def mean_watts(samples: Sequence[tuple[int, float]], start_ns: int, end_ns: int) -> float | None:
    """Average power over a stretch of time; between two readings it is taken to change evenly.

    ``samples`` are (monotonic ns, watts) in the order of time. ``None`` if readings cover too little of the stretch.
    """
    joules_ns, covered = 0.0, 0
    for (at, watts), (next_at, next_watts) in pairwise(samples):
        first, last = max(at, start_ns), min(next_at, end_ns)
        if first < last and next_at - at <= GAP_NS:
            slope = (next_watts - watts) / (next_at - at)
            joules_ns += (watts + slope * ((first + last) / 2 - at)) * (last - first)
            covered += last - first
    return joules_ns / covered if covered and covered >= COVERED * (end_ns - start_ns) else None


class PowerMeter:
    """Samples one GPU's power in a thread between ``start`` and ``stop``, or for a ``with`` block.

    A GPU without a power sensor, or an unknown address, gives no samples. A sensor whose read hangs costs the thread
    that reads, not the caller.
    """

    def __init__(self, sysfs: Path, address: str, interval: float = INTERVAL, longest: float = LONGEST) -> None:
        """``address`` is the GPU's PCI address as in ``GpuFacts``; times are in seconds."""
        self._sysfs = sysfs
        self._address = address
        self._interval = interval
        self._longest = longest
        self._stopped = threading.Event()
        self._samples: deque[tuple[int, float]] = deque()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to sample; a second call starts again."""
        self.stop()
        # A thread that hangs in a read keeps the old ones, should it ever come back.
        self._stopped = threading.Event()
        self._samples = deque(maxlen=int(self._longest / self._interval) + 2)
        self._thread = threading.Thread(
            target=self._run, args=(self._stopped, self._samples), name=f"power {self._address}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the sampling with one last reading. Waits for it, but not for one that hangs."""
        self._stopped.set()
        if self._thread:
            self._thread.join(timeout=1.0)
            self._thread = None

    def mean_watts(self, start_ns: int, end_ns: int) -> float | None:
        """Average power between two instants of ``time.monotonic_ns()``; ``None`` if it wasn't measured."""
        return mean_watts(tuple(self._samples), start_ns, end_ns)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _run(self, stopped: threading.Event, samples: deque[tuple[int, float]]) -> None:
        device = find_cards(self._sysfs, []).get(self._address)
        files = find_power_files(device) if device and not is_suspended(device) else ()
        end = time.monotonic() + self._longest
        last = not files
        while not last:
            last = stopped.is_set() or time.monotonic() > end
            watts = read_watts(files)
            if watts is not None:
                samples.append((time.monotonic_ns(), watts))
            stopped.wait(self._interval)
