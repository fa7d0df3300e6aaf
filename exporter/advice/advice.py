"""One piece of advice: the record that both tables of conditions give."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """A condition that holds: its id, the sentence about it, and the address of the GPU if it is about one.

    The id is stable: alerts, the page and the runbook refer to it. ``remedy`` is what to do, if ``sentence`` does not end
    with it; ``title`` names the condition in a few words, by which a list of servers is grouped. ``since_seconds`` (Unix time)
    is when it began, if that is known.
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
