"""Where ``ruptures``, a library that searches a whole series offline, sees the level of speeds change."""

from collections.abc import Sequence
from typing import Final

LEAST: Final = 5
"""Probes between two changes of level."""
GAMMA: Final = 0.05
"""Of the kernel, for residuals in standard deviations: an outlier of ten counts little more than one of five."""
PENALTY: Final = 8.0
"""What one more change of level must gain. By simulation: none found in 1,000 series of the usual noise, see the bench."""
FARTHEST: Final = 60.0


def level_changes(speeds: Sequence[float]) -> list[int]:
    """The numbers of the first probes at a new level, by an exact search with a Gaussian kernel, which outliers do not bend."""
    import numpy as np  # here, since with scipy it takes a second, and each worker reads this file
    import ruptures

    logarithms = np.log(np.array(speeds))
    steps = np.diff(logarithms)  # of which a change of level is one: their scatter is that of the noise
    scatter = 1.4826 * np.median(np.abs(steps - np.median(steps)))
    signal = np.clip((logarithms - np.median(logarithms)) / scatter, -FARTHEST, FARTHEST).reshape(-1, 1)
    search = ruptures.KernelCPD(kernel="rbf", params={"gamma": GAMMA}, min_size=LEAST).fit(signal)
    return [int(each) for each in search.predict(pen=PENALTY)[:-1]]
