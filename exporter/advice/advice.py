"""What one piece of advice is, wherever it comes from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that hurts: the condition's id, what to know, and the GPU's address where it is about one.

    The id is stable: alerts, the page and the runbook refer to it. ``remedy`` is what to do, where ``sentence`` does not end
    with it; ``title`` names the condition in a few words, by which a list of servers is grouped. ``since_seconds`` (Unix time)
    is when it began, where that is known.
    """

    condition: str
    sentence: str
    gpu: str = ""
    remedy: str = ""
    title: str = ""
    since_seconds: float | None = None

    @property
    def text(self) -> str:
        """Sentence and remedy as one text."""
        return f"{self.sentence} {self.remedy}".strip()
