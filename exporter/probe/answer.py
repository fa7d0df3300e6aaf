"""The text of an answer → whether it is a text, or nonsense that a broken server sent at full speed.

Nonsense is one thing repeated to the end, reserved tokens, characters that stand for broken bytes, white space alone, or letters
of many scripts in one word. A false alarm is worse than a miss, so each limit lies above what healthy answers were seen to hold
(``tests/bench/answers.py``): rules of tables, laughter, zeros, base64, screams. Pure: the same text gives the same verdict,
however it was cut into chunks.
"""

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

AnswerVerdict = Literal["right", "wrong", "degenerate", "foreign", "undecided"]
AnswerFault = Literal[
    "repeated_character",
    "repeated_word",
    "repeated_line",
    "repeated_phrase",
    "reserved_tokens",
    "broken_characters",
    "white_space",
    "mixed_scripts",
    "endless_digits",
    "name_of_another_request",
    "fact_of_another_request",
    "fact_not_recalled",
    "pattern_not_matched",
]
"""What is wrong with an answer, as a name that holds no text of it: for labels and logs."""
FAULTS: Final[dict[AnswerFault, str]] = {
    "repeated_character": "the answer repeats one character to its end",
    "repeated_word": "the answer repeats one word to its end",
    "repeated_line": "the answer repeats the same lines to its end",
    "repeated_phrase": "the answer repeats a phrase to its end",
    "reserved_tokens": "the answer is made of reserved tokens",
    "broken_characters": "the answer is made of broken characters",
    "white_space": "the answer is white space",
    "mixed_scripts": "the answer mixes scripts within words",
    "endless_digits": "the answer is an endless run of digits",
    "name_of_another_request": "the answer holds a name from another request of this exporter: requests are mixed up",
    "fact_of_another_request": "the answer belongs to another request of this exporter: requests are mixed up",
    "fact_not_recalled": "the model does not recall the start of a long prompt, though it does of a short one",
    "pattern_not_matched": "the answer does not match the pattern that its module expects",
}
"""Each in a clause that holds no text of the answer either."""

NAME_LIMIT: Final = 40
FORCED_CHARACTERS: Final = 256
"""How much of an answer of forced length is judged: about 64 tokens. A model that may not end repeats itself later on."""

_LONGEST_PERIOD: Final = 48
_SHORTEST_RUN: Final = 16
_JUDGED_CHARACTERS: Final = 8192
# From how much on a text is blank: the first tokens of a healthy answer may be line ends.
_BLANK_CHARACTERS, _BLANK_LINES = 8, 64
_RESERVED_WINDOW, _RESERVED_TOKENS, _RESERVED_REST = 600, 6, 0.05
# So many in a row at the end are nonsense, whatever stands before.
_RESERVED_ROW: Final = 12
_REPLACED_CHARACTERS, _REPLACED_SHARE = 8, 0.3
_MIXED_WINDOW, _MIXED_PAIRS, _MIXED_SPACED = 600, 4, 2
# Digits without anything else: a whole answer, or the end of one. The factorial of 100 has 158.
_DIGITS_ALONE, _DIGITS_AT_END = 48, 400
# What may stand before a run that counts as being there from the start.
_EARLY_CHARACTERS: Final = 40
# An answer of so many tokens that is one character is nonsense, whatever the character.
_SURE_TOKENS: Final = 16

_RESERVED: Final = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<\uff5c[^\uff5c<>\n]{1,40}\uff5c>|<\|?(?:unused|reserved|extra_id|dummy|placeholder|special|token)[_-]?\w{0,24}\|?>"
    r"|\[(?:unused|control|pad|special)[_-]?\d*\]|</?s>|<(?:pad|unk|bos|eos|mask)>|\[(?:PAD|UNK|MASK|EOS|/?INST)\]|<0x[0-9A-F]{2}>"
    r"|<(?:start|end)_of_\w{1,16}>|<\w{1,16}_soft_token>|</?(?:think|tool_call|tool_response)>",
    re.IGNORECASE,
)
_END: Final = re.compile(
    r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|end|return|endofturn|END_OF_TURN_TOKEN|user|observation|eos)\|>"
    r"|<\uff5cend▁of▁sentence\uff5c>|<end_of_turn>|<turn\|>|</s>|<eos>|\[EOS\]",
    re.IGNORECASE,
)
_END_AT_LAST: Final = re.compile(rf"\s*(?:{_END.pattern})\Z", re.IGNORECASE)
_JUDGED_END: Final = 64
_OPENING: Final = re.compile(
    r"\s*(?:<[a-z:]{0,8}th(?:ink(?:ing)?|ought)>|<reasoning>|\[THINK\]|◁think▷)?\s*", re.IGNORECASE
)
_RESERVED_END: Final = re.compile(rf"(?:(?:{_RESERVED.pattern})\s*){{{_RESERVED_ROW},}}\Z", re.IGNORECASE)
# The private areas hold no letters: icons of some fonts, or what a broken tokenizer gives.
_UNREADABLE: Final = re.compile("[\ufffd\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ue000-\uf8ff\U000f0000-\U0010fffd]")
_GAP: Final = re.compile(rf"\s{{{_BLANK_LINES},}}")
_DECIMAL: Final = re.compile(r"\d[.,]\Z")
# What a cut leaves of a token in brackets.
_CUT_TOKEN: Final = re.compile(r"\A[^<>\[\]]{0,40}[>\]]|[<\[][^<>\[\]]{0,40}\Z")
# Words that fill arrays, boards and tables in healthy data, as zeros do.
_FILLERS: Final = frozenset("null none nil true false nan undefined na n a x o f t la ha".split())
# What separates the values of arrays, tables and programs.
_DATA_MARKS: Final = frozenset(",;|&=()[]{}<>")
# A row of a board or a picture is at least so long; a model draws at most so many that are alike.
_ROW, _ROWS = 8, 100
# What stands alone where a template of chat went wrong.
_ROLES: Final = frozenset("assistant user human system model".split())
# One letter or mark and white space between is nonsense, unless it is one that shapes and boards are drawn with.
_ONE_CHARACTER: Final = 48
_SPACES: Final = frozenset(" \n\t\r")
_DRAWN: Final = frozenset("xXoO0123456789.,:;'`-=_*#~+|/\\^%@<>()[]{}·•─━═│┃█▓▒░■□▪▫●○◆◇★☆")
# Characters that nobody draws a line with, unless it is a line of its own.
_NO_RULES: Final = frozenset("!?@$&")
_BLANK_BRAILLE: Final = "\u2800"
# What ends a sentence, and what else an answer may end with.
_FULL_STOPS: Final = frozenset(".!?\u2026\u3002\uff01\uff1f")
_ENDS: Final = frozenset(".!?:;\"')]}`*\n")
# Of what changes the look of the sign before it.
_LOOKS: Final = frozenset({"Mn", "Me", "Cf", "Sk"})
_ENDING_CATEGORIES: Final = frozenset({"Po", "Pf", "Pe", "So"})
_NEIGHBOURS: Final = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")
# Written without spaces, so that foreign words stand right beside their letters.
_SPACELESS: Final = frozenset({"EAST ASIAN", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"})
# Greek letters stand in formulas.
_BESIDE_LATIN: Final = _SPACELESS | {"GREEK"}
# Letters of no script here (superscripts, units, letterlike and phonetic signs) stand beside any.
_SCRIPTS: Final = _SPACELESS.union(
    (
        "LATIN GREEK CYRILLIC ARMENIAN GEORGIAN HEBREW ARABIC SYRIAC ETHIOPIC DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU"
        " KANNADA MALAYALAM SINHALA MONGOLIAN CHEROKEE"
    ).split()
)


@dataclass(frozen=True, slots=True)
class Nonsense:
    """What is wrong with a text, and what repeats or stands there, at most 40 printable characters."""

    fault: AnswerFault
    what: str

    @property
    def message(self) -> str:
        """A clause for results and the page."""
        clause = FAULTS[self.fault]
        return clause if self.fault == "white_space" else f'{clause}: "{self.what}"'


@dataclass(frozen=True, slots=True)
class AnswerJudgement:
    """A verdict on an answer, its reason in a clause, and what is wrong if something is."""

    verdict: AnswerVerdict
    reason: str = ""
    fault: AnswerFault | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    """The end of a text that repeats a unit: the text before it, its length, and whether a line begins with it."""

    before: str
    unit: str
    length: int
    begins_line: bool

    @property
    def repeats(self) -> float:
        return (self.length + 1) / len(self.unit)  # the space between two words is missing after the last

    @property
    def whole(self) -> bool:
        return not self.before

    @property
    def early(self) -> bool:
        return len(self.before) <= min(_EARLY_CHARACTERS, self.length)

    @property
    def fenced(self) -> bool:
        """Whether it is a line of a block of code, where pictures and data stand."""
        return self.begins_line and self.before.count("```") % 2 == 1


def judge_text(
    chunks: Iterable[str], *, forced: bool = False, tokens: int | None = None, ended: bool = False
) -> Nonsense | None:
    """What is wrong with the text that these chunks make up, or None.

    ``forced``: the length was forced (``ignore_eos``), so only what comes before the model's own end is judged, and of that the
    first ``FORCED_CHARACTERS``. ``tokens``: how many tokens the text has, if the server counted them. ``ended``: the model ended
    by itself, so that digits alone are a number.
    """
    text = "".join(chunks)
    text = _before_end(text)[:FORCED_CHARACTERS] if forced else text[-_JUDGED_CHARACTERS:]
    if not text or (ended and text.strip().isdecimal()):
        return None
    return (
        _blank(text, forced=forced)
        or _reserved(text, forced=forced)
        or _replaced(text)
        or _digits(text)
        or _repeated(text, forced=forced, tokens=tokens)
        or _mixed(text)
    )


def printable(text: str) -> str:
    """A text as one line of at most 40 characters, each of them printable."""
    line = " ".join(text.split())[:NAME_LIMIT] or text[:4]
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)[:NAME_LIMIT]


def _before_end(text: str) -> str:
    """What the model said before it would have ended, had it been allowed to; all of it if it ends at once."""
    end = _END.search(text)
    return text[: end.start()] if end and text[: end.start()].strip() else text


def _blank(text: str, *, forced: bool) -> Nonsense | None:
    if text.isspace():
        return Nonsense("white_space", printable(text)) if len(text) >= _BLANK_CHARACTERS else None
    gaps = () if forced else _GAP.findall(text)
    return Nonsense("white_space", "\\n") if any(each.count("\n") >= _BLANK_LINES for each in gaps) else None


def _reserved(text: str, *, forced: bool) -> Nonsense | None:
    end = _CUT_TOKEN.sub("", text[-_RESERVED_WINDOW:])
    found = _RESERVED.findall(end)
    if len(found) < _RESERVED_TOKENS:
        return None
    if row := _RESERVED_END.search(end):
        before = end[: row.start()].rstrip()
        if not (forced and before and _ends(before[-1])) and not _is_list(found, end):
            return Nonsense("reserved_tokens", printable(_RESERVED.findall(row[0])[0]))
    rest = "".join(_RESERVED.sub("", end).split())
    if len(rest) > _RESERVED_REST * len(end) or _is_list(found, end):
        return None
    return Nonsense("reserved_tokens", printable(found[0]))


def _is_list(found: list[str], text: str) -> bool:
    """Whether tokens are listed: each once, and on a line of its own."""
    return len(set(found)) == len(found) <= text.count("\n") + 1


def _replaced(text: str) -> Nonsense | None:
    found = _UNREADABLE.findall(text)
    if len(found) < _REPLACED_CHARACTERS or len(found) < _REPLACED_SHARE * len("".join(text.split())):
        return None
    return Nonsense("broken_characters", printable(found[0]))


def _digits(text: str) -> Nonsense | None:
    body = text.strip()
    digits = len(body) - len(body.rstrip("0123456789"))
    if _DECIMAL.search(body[: len(body) - digits]):
        return None  # of pi, any number of digits may have been asked for
    least = _DIGITS_ALONE if digits == len(body) else _DIGITS_AT_END
    return Nonsense("endless_digits", printable(body[-digits:])) if digits >= least else None


def _repeated(text: str, *, forced: bool, tokens: int | None) -> Nonsense | None:
    body = text.rstrip().rstrip("\ufffd")
    if end := _END_AT_LAST.search(body[-_JUDGED_END:]):
        body = body[: -len(end[0])]
    opening = _OPENING.match(body)
    since = opening.end() if opening else 0
    marks = set(body[since:]) - _SPACES
    if len(marks) == 1 and not _is_drawn(mark := marks.pop()) and body.count(mark) >= _ONE_CHARACTER:
        return Nonsense("repeated_character", printable(mark))
    for period in range(1, min(_LONGEST_PERIOD, len(body)) + 1):
        at = len(body) - period
        while at > since and body[at - 1] == body[at - 1 + period]:
            at -= 1
        unit = body[at : at + period]
        if len(body) - at < max(_SHORTEST_RUN, 2 * period) or unit in (2 * unit)[1:-1]:
            continue  # too short, or a shorter unit has been judged
        before = body[since:at]
        begins_line = not before.rstrip(" \t") or before.rstrip(" \t").endswith("\n")
        run = _Run(before.rstrip(), unit, len(body) - at, begins_line)
        if _is_endless(run, tokens) and not (forced and _may_have_ended(run)):
            return Nonsense(_fault_of(run), printable(_from_its_beginning(run)))
    return None


def _fault_of(run: _Run) -> AnswerFault:
    """What is repeated: reserved tokens, one character, lines, one word (signs without white space too), or more than that."""
    if not _RESERVED.sub("", _CUT_TOKEN.sub("", 3 * run.unit)).strip():
        return "reserved_tokens"
    if _is_one_character("".join(run.unit.split())):
        return "repeated_character"
    if "\n" in run.unit:
        return "repeated_line"
    return "repeated_word" if _spaces_in(run.unit) <= 1 else "repeated_phrase"


def _is_drawn(mark: str) -> bool:
    return mark in _DRAWN or unicodedata.name(mark, "").startswith("BRAILLE PATTERN")


def _is_endless(run: _Run, tokens: int | None) -> bool:
    """Whether a thing is repeated so often that no healthy answer does it."""
    if _is_one_character(run.unit):
        return _is_endless_character(run, tokens)
    repeats, characters = _limits_of(run)
    return run.repeats >= repeats and run.length >= characters


def _limits_of(run: _Run) -> tuple[float, int]:
    """From how many repeats, and from how many characters on, it is nonsense."""
    words = re.findall(r"[^\W\d_]+", run.unit)
    spaces = _spaces_in(run.unit)
    data = any(map(str.isdigit, run.unit)) or bool(_DATA_MARKS.intersection(run.unit))
    if _holds_reserved(run):
        return 5 if run.whole else 16, 0
    if words and spaces >= 2 and any(map(_ends, run.unit)):
        return math.inf, 0  # a sentence or a verse, merely said again
    if data or all(each.lower() in _FILLERS for each in words):
        rows = not words and len(run.unit) >= _ROW and "\n" in run.unit
        return _ROWS if rows or not run.whole else 20, 48
    if run.whole and spaces <= 4:
        return 24 if run.unit.isalnum() else 15, 32
    if run.early and spaces <= 2 and "\n" not in run.unit:
        return 20, 60
    return 40 if spaces <= 1 else math.inf, 0


def _spaces_in(unit: str) -> int:
    """How often white space follows something while the unit is repeated."""
    return len(re.findall(r"\S\s", unit + unit[0]))


def _is_one_character(unit: str) -> bool:
    """Whether it is seen as one: an emoji may be followed by what changes its look."""
    more = unit[1:]
    return not more or (
        unicodedata.category(unit[0]) == "So" and all(unicodedata.category(each) in _LOOKS for each in more)
    )


def _holds_reserved(run: _Run) -> bool:
    return _RESERVED.search(2 * run.unit) is not None


def _is_endless_character(run: _Run, tokens: int | None) -> bool:
    count, mark = run.length // len(run.unit), run.unit[0]
    if run.whole and tokens is not None and tokens >= _SURE_TOKENS <= count and mark != _BLANK_BRAILLE:
        return True
    if run.fenced:
        return count >= 400
    if mark.isalpha() or (mark in _NO_RULES and not run.begins_line):
        return count >= (24 if run.whole else 32 if run.early else 100)
    return count >= (48 if run.whole else 130 if run.early else 400)


def _may_have_ended(run: _Run) -> bool:
    """Whether a model that may not end may have said all that it had to say before, or says it again and again."""
    if run.before and (_ends(run.before[-1]) or _ends(run.unit[0])):
        return True
    if _holds_reserved(run) or (run.whole and _says_nothing(run.unit)):
        return False
    return any(map(str.isalpha, run.unit)) and any(map(_ends, run.unit))


def _says_nothing(unit: str) -> bool:
    """Whether it is no sentence, though an end may be in it: a role of a chat, or signs and letters without a space."""
    return unit.strip(" \n:").casefold() in _ROLES or not any(each.isspace() or each in _FULL_STOPS for each in unit)


def _ends(character: str) -> bool:
    """Whether a sentence, a quotation, a block or a friendly line may end with this character."""
    return character in _ENDS or (not character.isascii() and unicodedata.category(character) in _ENDING_CATEGORIES)


def _from_its_beginning(run: _Run) -> str:
    """The unit, begun at a word if it was found from within one."""
    at = next((at for at, each in enumerate(run.unit) if each.isspace()), None)
    return run.unit if run.whole or at is None else run.unit[at:] + run.unit[:at]


def _mixed(text: str) -> Nonsense | None:
    """Letters of different scripts side by side, in so many combinations that no text in several languages has them."""
    if text.isascii():
        return None
    end = "".join(each for each in text[-_MIXED_WINDOW:] if not unicodedata.category(each).startswith("M"))
    scripts = [_script(each) for each in end]
    pairs = {
        frozenset(pair): at
        for at, pair in enumerate(pairwise(scripts))
        if all(pair) and pair[0] != pair[1] and not ("LATIN" in pair and _BESIDE_LATIN.intersection(pair))
    }
    if len(pairs) < _MIXED_PAIRS or sum(not _SPACELESS & pair for pair in pairs) < _MIXED_SPACED:
        return None
    at = min(pairs.values())
    return Nonsense("mixed_scripts", printable(end[max(0, at - 8) : at + 12]))


def _script(character: str) -> str:
    """The script of a letter; empty for anything else. East Asian scripts are one: a sentence holds several."""
    if not character.isalpha():
        return ""
    script = unicodedata.name(character, "").partition(" ")[0]
    return "EAST ASIAN" if script.startswith(_NEIGHBOURS) else script if script in _SCRIPTS else ""
