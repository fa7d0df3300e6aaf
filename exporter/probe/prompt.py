"""The text that a probe sends: ordinary English of about so many tokens, which begins with a marker and fresh random words.

It is ordinary, because tokenizers and speculative decoding are made for that. It is fresh at its beginning, because a server
keeps what it computed for a prompt and answers the same beginning from memory. The request names the marker (a made-up name),
so that the answer holds it too: in the answer to another request it shows that requests mix. Pure: the same number gives the
same text.
"""

import random
import re
from typing import Final

from exporter.probe.marker import marker_of

OPENING_WORDS: Final = 6
# Common words, so that nearly every tokenizer has one token for each.
_WORDS: Final = (
    "apple autumn basket bridge bottle brother butter camera candle carpet castle church circle city coffee corner cotton"
    " country dinner doctor door dream engine evening family farm father field finger fire flower forest friend garden"
    " glass gold hand harbor heart hill horse hotel house island kitchen lake lamp leaf letter light machine market meadow"
    " metal milk mirror money moon morning mother mountain music night ocean office orange paper park pencil picture plane"
    " planet plate pocket pool rain river road rock room rope salt school sea season shadow ship shoe silver sister sky"
    " snow song spring stone storm story street sugar summer sun table teacher tower town train tree valley village voice"
    " wall water wheat wheel wind window winter wood yard year"
).split()
_WHO: Final = (
    "the baker",
    "a young engineer",
    "the ferry captain",
    "an old teacher",
    "the night nurse",
    "a quiet farmer",
    "the town clerk",
    "a travelling musician",
    "the gardener",
    "my neighbour",
)
_DID: Final = (
    "carried",
    "painted",
    "borrowed",
    "found",
    "repaired",
    "described",
    "photographed",
    "remembered",
    "sold",
    "measured",
)
_WHERE: Final = (
    "near the station",
    "behind the school",
    "on the way to work",
    "before the rain came",
    "at the end of the street",
    "in the small hours",
    "across the river",
    "during the long meeting",
    "after the last train had left",
    "while the others were asleep",
)
_REQUEST: Final = "Please tell me what happened next to {marker}, in one long and calm story."


def compose(tokens: int, seed: int) -> str:
    """A prompt of about so many tokens by ``estimate`` (at least some 25: the opening and the request)."""
    draw = random.Random(seed)
    marker = marker_of(seed)
    opening = ", ".join((marker, *draw.sample(_WORDS, OPENING_WORDS))) + "."
    sentences = [opening, _REQUEST.format(marker=marker)]
    left = tokens - sum(map(estimate, sentences))
    while left > 1:
        words = _sentence(draw).split()[: left - 1]
        sentences.insert(-1, " ".join(words).removesuffix(".") + ".")
        left -= len(words) + 1
    return " ".join(sentences)


def estimate(text: str) -> int:
    """About how many tokens a text has: one for each word and each mark, true within some 10 % for this English."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def _sentence(draw: random.Random) -> str:
    thing, other = draw.sample(_WORDS, 2)
    who, did, where = draw.choice(_WHO), draw.choice(_DID), draw.choice(_WHERE)
    sentence = f"{who} {did} the {thing} and the {other} {where}."
    return sentence[0].upper() + sentence[1:]
