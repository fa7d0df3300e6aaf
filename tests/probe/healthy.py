"""Healthy answers by grammar: texts as models write them, with all that looks like nonsense and is none.

Each style is a function of a ``random.Random``; ``answer`` gives the same text for the same style and number. The voices are
those of chat models: some open with a courtesy, with thinking, with a heading. ``cut`` ends a text where a limit of tokens
would have, in the midst of a rule or a list of zeros too. All of it is made up.
"""

# ruff: noqa: RUF001 - letters of other scripts are what it is about
import base64
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.probe.odd_texts import HEALTHY
from tests.servers.make_tiny_gguf import CORPUS

Style = Callable[[random.Random], str]

NOUNS: Final = (
    "keeper lighthouse river harbor engine garden morning letter window storm village teacher bridge market lamp boat music"
    " winter paper island kitchen mountain story bird table answer question train valley mirror forest baker clock"
).split()
VERBS: Final = (
    "carried watched repaired painted remembered followed opened measured described found lost sold kept".split()
)
ADJECTIVES: Final = (
    "old quiet bright narrow heavy gentle sudden distant broken silver warm empty curious long red".split()
)
NAMES: Final = "Elara Tomas Mira Kaelith Jonas Zorvath Amelia Rafael Seraphina Otis Anouk Finnegan Zyx Moreno".split()
OPENINGS: Final = (
    *(
        "",
        "",
        "",
        "Sure! ",
        "Certainly! Here is what you asked for:\n\n",
        "Of course.\n\n",
        "\n\n",
        "**Answer:** ",
        "Here's one:\n\n",
    ),
    *(
        "# Result\n\n",
        "Great question! ✨ ",
        "As an assistant, I can do that. ",
        "Let me see…\n",
        "> ",
        "Okay, so ",
        "---\n\n",
        "***\n\n",
    ),
)
CHINESE: Final = "今天天气很好我们一起去河边散步老人点亮了灯塔看着船慢慢回家孩子们喜欢听故事因为那里有风雨和奇怪的鸟"
ARABIC: Final = "في الصباح كتب الحارس الطقس دفتر كبير أخضر ثم أطعم الدجاج وانتظر قارب البريد كان البحر هادئا حتى منتصف الليل".split()
OTHERS: Final[dict[str, list[str]]] = {
    "russian": "старый смотритель маяка каждый вечер поднимался по узкой лестнице и зажигал лампу пока лодки возвращались".split(),
    "japanese": list("灯台の古い番人は毎晩狭い階段を上って船が帰る前にランプをともしたカモメは静かに飛んでいた"),
    "korean": "오래된 등대지기는 매일 저녁 좁은 계단을 올라 등불을 켰다 배들은 천천히 집으로 돌아왔다".split(),
    "hindi": "पुराना रखवाला हर शाम संकरी सीढ़ी चढ़कर दीपक जलाता था और नावें धीरे धीरे घर लौटती थीं".split(),
    "thai": [
        "ผู้ดูแล",
        "ประภาคาร",
        "เก่า",
        "ปีน",
        "บันได",
        "แคบ",
        "ทุก",
        "เย็น",
        "และ",
        "จุด",
        "ตะเกียง",
        "ก่อน",
        "เรือ",
        "กลับ",
        "บ้าน",
    ],
    "hebrew": "השומר הזקן עלה כל ערב במדרגות הצרות והדליק את המנורה לפני שהסירות חזרו הביתה".split(),
    "greek": "ο παλιός φαροφύλακας ανέβαινε κάθε βράδυ τη στενή σκάλα και άναβε τη λάμπα".split(),
    "german": "der alte Wärter stieg jeden Abend die schmale Treppe hinauf und zündete die Lampe an ehe die Boote heimkehrten".split(),
}
HELLO: Final = (
    *(
        "English: Hello",
        "Spanish: Hola",
        "Russian: Привет",
        "Chinese: 你好",
        "Japanese: こんにちは",
        "Korean: 안녕하세요",
    ),
    *(
        "Arabic: مرحبا",
        "Hebrew: שלום",
        "Hindi: नमस्ते",
        "Thai: สวัสดี",
        "Greek: Γεια σου",
        "Georgian: გამარჯობა",
        "Armenian: Բարեւ",
    ),
    *(
        "Tamil: வணக்கம்",
        "Bengali: হ্যালো",
        "Amharic: ሰላም",
        "Khmer: សួស្តី",
        "Lao: ສະບາຍດີ",
        "Tibetan: བཀྲ་ཤིས་བདེ་ལེགས།",
        "Ukrainian: Вітаю",
    ),
)
RULES: Final = ("-", "=", "_", "*", "#", "~", "─", "═", "━", "·", ".", "+", "/", "%", ";", "^")
EMOJI: Final = "😀😂🎉🚀✨🔥💡❤️👍🌊🐦🏠"
VOCABULARY: Final = sorted(set(re.findall(r"[A-Za-z]+", CORPUS)))


def sentence(draw: random.Random) -> str:
    """An English sentence."""
    who = draw.choice([draw.choice(NAMES), f"the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}"])
    more = draw.choice(
        ["", f" near the {draw.choice(NOUNS)}", f" while the {draw.choice(NOUNS)} was {draw.choice(ADJECTIVES)}"]
    )
    words = f"{who} {draw.choice(VERBS)} the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}{more}"
    return words[0].upper() + words[1:] + draw.choice([".", ".", ".", "!", "?", "…"])


def paragraph(draw: random.Random, most: int = 6) -> str:
    """Some sentences."""
    return " ".join(sentence(draw) for _ in range(draw.randint(1, most)))


def prose(draw: random.Random) -> str:
    """Paragraphs."""
    return "\n\n".join(paragraph(draw) for _ in range(draw.randint(1, 6)))


def thinking(draw: random.Random) -> str:
    """Thinking in tags or without, with its doubts that come again, and an answer or none yet."""
    opener, closer = draw.choice(
        [("<think>\n", "\n</think>\n\n"), ("", "\n</think>\n\n"), ("[THINK]", "[/THINK]"), ("", "\n\n")]
    )
    doubts = (
        "Wait, ",
        "Hmm. ",
        "Okay, so ",
        "Let me check again. ",
        "But wait, maybe ",
        "Wait, no. ",
        "Alternatively, ",
    )
    thoughts = "\n".join(draw.choice(doubts) + paragraph(draw, 2) for _ in range(draw.randint(1, 12)))
    return opener + thoughts + closer + paragraph(draw)


def code(draw: random.Random) -> str:
    """Programs with deep indentation, rules of comment characters, tables of literals, and calls that come again."""
    bar = draw.choice("#/-*;%=!") * draw.choice([20, 40, 60, 70, 78, 79, 80, 100, 118])
    lines = [draw.choice(["```python", "```c", "```", "```fortran", "#!/bin/sh", "// main.c"]), bar]
    for number in range(draw.randint(1, 12)):
        pad = " " * 4 * draw.randint(0, 10)
        lines += [
            f"{pad}def {draw.choice(NOUNS)}_{number}({draw.choice(NOUNS)}=None):",
            f"{pad}    return {draw.choice(VERBS)}({draw.choice(NOUNS)}, {draw.randint(0, 99)})",
            *draw.choice(
                [
                    [],
                    [""] * draw.randint(1, 4),
                    [bar],
                    [pad + "}"] * draw.randint(1, 6),
                    [pad + "pass"] * draw.randint(1, 3),
                ]
            ),
        ]
    fill = draw.choice(["0", "0.0", "null", "false", "None", "0x00", "1", "NaN", '""', "'\\0'", "-1", "nullptr", "0u"])
    lines += [f"data = [{', '.join([fill] * draw.randint(1, 40))}]", bar, "```", paragraph(draw, 2)]
    return "\n".join(lines)


def table(draw: random.Random) -> str:
    """A table in markdown or with borders, wide ones and such with empty cells."""
    columns, rows = draw.randint(2, 12), draw.randint(1, 16)
    cells = draw.choice([NOUNS, ("0", "1"), ("",), ("-",), ("TODO",), ("n/a",), ("", "x")])

    def row() -> str:
        return "| " + " | ".join(draw.choice(cells) for _ in range(columns)) + " |"

    if draw.random() < 0.3:
        edge = "+" + "+".join("-" * draw.randint(3, 24) for _ in range(columns)) + "+"
        body = [edge, *(row() for _ in range(rows)), edge]
    else:
        rule = draw.choice(["---", ":---:", "-" * 20, "----:", ":--"])
        heads = "| " + " | ".join(draw.choice(NOUNS).title() for _ in range(columns)) + " |"
        body = [heads, "|" + "|".join([rule] * columns) + "|"]
        body += [row() for _ in range(rows)]
    return "\n".join(body) + "\n"


def counted(draw: random.Random) -> str:
    """Numbers one after the other."""
    start = draw.randint(0, 900)
    return draw.choice([", ", " ", "\n", "; "]).join(str(start + each) for each in range(draw.randint(3, 120)))


def zeros(draw: random.Random) -> str:
    """Zeros in a numbered list, a vector, a matrix or a large number."""
    count, size = draw.randint(2, 120), draw.randint(2, 12)
    return draw.choice(
        [
            "\n".join(f"{each}. {draw.choice(['0', '0.00', '—'])}" for each in range(1, count)),
            f"Here is a vector of zeros: [{', '.join(['0'] * count)}]",
            "\n".join(" ".join("1" if i == j else "0" for j in range(size)) for i in range(size)),
            f"A googol is 1{'0' * 100}. {sentence(draw)}",
        ]
    )


def figures(draw: random.Random) -> str:
    """Long numbers: digits of a constant, binary ones, a factorial, periodic fractions."""
    digits, width = "".join(draw.choices("0123456789", k=draw.randint(10, 300))), draw.choice([8, 16, 32])
    return draw.choice(
        [
            f"The constant is about 3.{digits}",
            f"The factorial is {digits[:158]}. {sentence(draw)}",
            "\n".join(format(draw.randrange(2**width), f"0{width}b") for _ in range(draw.randint(1, 20))),
            "1," + ",".join(f"{draw.randrange(1000):03d}" for _ in range(draw.randint(1, 30))),
            f"1/7 = 0.{'142857' * draw.randint(1, 5)}…, 1/3 = 0.{'3' * draw.randint(3, 30)}…, 2/11 = 0.{'18' * draw.randint(2, 12)}",
        ]
    )


def numbers(draw: random.Random) -> str:
    """Lists of numbers."""
    return draw.choice([counted, zeros, figures])(draw)


def chinese(draw: random.Random) -> str:
    """Chinese, with its marks, some Latin words inside, and laughter."""
    parts = []
    for _ in range(draw.randint(2, 20)):
        at = draw.randrange(len(CHINESE) - 8)
        parts.append(
            CHINESE[at : at + draw.randint(2, 8)]
            + draw.choice([",", "。", "！", "", draw.choice(["Python", "GPU", "AMD"])])
        )
    laugh = draw.choice(["", "", draw.choice("哈啊呵嘿") * draw.randint(2, 18) + "！"])
    return "".join(parts) + laugh


def arabic(draw: random.Random) -> str:
    """Arabic, with its marks."""
    return " ".join(draw.choice(ARABIC) + draw.choice(["", "", "،", ".", "؟"]) for _ in range(draw.randint(5, 80)))


def other_languages(draw: random.Random) -> str:
    """Other languages; or a greeting in many."""
    if draw.random() < 0.2:
        lines = draw.sample(HELLO, draw.randint(4, len(HELLO)))
        return draw.choice(["\n", ", ", " / "]).join(draw.choice(["", "- ", "* "]) + each for each in lines)
    name, words = draw.choice(sorted(OTHERS.items()))
    between = "" if name in {"japanese", "thai"} else " "
    return between.join(draw.choice(words) + draw.choice(["", "", "", ".", ","]) for _ in range(draw.randint(4, 80)))


def as_json(draw: random.Random) -> str:
    """JSON, compact or indented, with lists of equal values."""
    fill: object = draw.choice([0, 0.0, None, False, True, "", 1, "N/A", [], {}])
    value: dict[str, object] = {
        draw.choice(NOUNS): draw.choice([paragraph(draw, 1), draw.randint(0, 10**9), [fill] * draw.randint(0, 40)])
        for _ in range(draw.randint(1, 10))
    }
    rows: list[dict[str, object]] = [{draw.choice(NOUNS): fill, "id": each} for each in range(draw.randint(0, 15))]
    text = json.dumps({**value, "rows": rows}, indent=draw.choice([None, 2, 4, 8]), ensure_ascii=draw.random() < 0.5)
    return draw.choice(["", "```json\n"]) + text


def rules(draw: random.Random) -> str:
    """Markdown with rules and underlined headings, the longest as wide as a page."""
    parts = []
    for _ in range(draw.randint(1, 6)):
        bar = draw.choice(RULES) * draw.choice([3, 5, 10, 20, 40, 60, 72, 78, 80, 100, 120])
        parts.append(
            draw.choice(
                [bar, f"{draw.choice(NOUNS).title()}\n{bar}", f"{bar} {draw.choice(NOUNS)} {bar}", "* * *", "- - - - -"]
            )
        )
        parts.append(paragraph(draw, 3))
    return "\n".join(parts)


def shape(draw: random.Random) -> str:
    """A triangle or a frame of one character."""
    mark, size = draw.choice("*#@X.oO█+"), draw.randint(3, 16)
    if draw.random() < 0.5:
        return "\n".join(" " * (size - row) + mark * (2 * row + 1) for row in range(size))
    return "\n".join(mark * size if row in {0, size - 1} else mark + " " * (size - 2) + mark for row in range(size))


def drawing(draw: random.Random) -> str:
    """A tree of folders, bars of progress, a board, dots that lead to a page number, shades."""
    size, width = draw.randint(3, 16), draw.choice([20, 40, 60])
    done = [draw.randint(0, 40) for _ in range(size)]
    return draw.choice(
        [
            "\n".join(f"{'│   ' * draw.randint(0, 5)}├── {draw.choice(NOUNS)}.txt" for _ in range(size)),
            "\n".join(f"{draw.choice(NOUNS):<10} {'█' * each}{'░' * (40 - each)}" for each in done),
            "\n".join("+---" * 8 + "+\n" + f"| {draw.choice('♜♞ .PpX')} " * 8 + "|" for _ in range(8)),
            "\n".join(
                f"{draw.choice(NOUNS).title()} {'.' * draw.randint(10, 70)} {draw.randint(1, 300)}" for _ in range(size)
            ),
            "\n".join("".join(draw.choice(" .:-=+*#%@") for _ in range(width)) for _ in range(size)),
        ]
    )


def ascii_art(draw: random.Random) -> str:
    """Drawings made of characters."""
    return draw.choice([shape, drawing])(draw)


def encoded(draw: random.Random) -> str:
    """base64 with runs of zero bytes, hex dumps, hashes, genes, Morse code."""
    data = draw.randbytes(draw.randint(8, 200)) + bytes(draw.randint(0, 48)) + draw.randbytes(4)
    lines = [draw.choice([bytes(16), b"\xff" * 16, draw.randbytes(16)]) for _ in range(draw.randint(1, 20))]
    marks = ["...", "---", ".-", "-.", "....", "."]
    return draw.choice(
        [
            f"data:image/png;base64,{base64.b64encode(data).decode()}",
            "\n".join(f"{at * 16:08x}  {line.hex(' ')}  |{'.' * 16}|" for at, line in enumerate(lines)),
            "\n".join(draw.randbytes(draw.choice([16, 20, 32])).hex() for _ in range(draw.randint(1, 10))),
            f"The sequence reads {''.join(draw.choices('ACGT', k=draw.randint(20, 300)))}{'A' * draw.randint(0, 30)}.",
            " / ".join(" ".join(draw.choice(marks) for _ in range(6)) for _ in range(draw.randint(2, 9))),
            f"0x{'f' * 16}, 0x{'0' * 16}, {'00' * 16}, {draw.randbytes(16).hex()}, #ffffff, {'0' * 8}-{'0' * 4}-{'0' * 12}",
        ]
    )


def repeated_items(draw: random.Random) -> str:
    """Lists whose items are alike, forms to fill in, and logs."""
    item = draw.choice(
        [
            "- [ ] Buy milk\n",
            "- \n",
            "* Item\n",
            "1. \n",
            "Name: ________\n",
            "☐ \n",
            "> \n",
            "INFO ok\n",
            "yes\n",
            f"- {sentence(draw)}\n",
        ]
    )
    intro = draw.choice(["", "Here is your list, with room for more entries as you go along:\n\n"])
    return intro + item * draw.randint(1, 14) + draw.choice(["", sentence(draw)])


def poem(draw: random.Random) -> str:
    """Verses with a refrain, and songs whose line comes again and again."""
    refrain = draw.choice(
        [
            "Row, row, row your boat",
            "And the light went round and round",
            sentence(draw),
            "La la la la la la",
            "Na na na, hey hey, goodbye",
        ]
    )
    verses = ["\n".join(sentence(draw) for _ in range(draw.randint(1, 4))) for _ in range(draw.randint(1, 6))]
    return "\n\n".join(f"{verse}\n{chr(10).join([refrain] * draw.randint(1, 4))}" for verse in verses)


def laughter(draw: random.Random) -> str:
    """Laughter, screams, hesitation, applause and sounds, at the beginning, within, or at the end."""
    sound = draw.choice(
        [
            "ha ",
            "Ha ",
            "ha",
            "he",
            "la ",
            "na ",
            "no ",
            "very ",
            "jaja",
            "ㅋ",
            "w",
            "5",
            "ه",
            "tick tock ",
            "boom ",
            "so ",
        ]
    )
    noise = draw.choice(
        [
            sound * draw.randint(2, 12),
            draw.choice("AaOoZzMmHh") * draw.randint(3, 22),
            "!" * draw.randint(1, 12),
            "?!" * draw.randint(1, 6),
            "." * draw.randint(3, 30),
        ]
    )
    return draw.choice(
        [f"{noise}! {paragraph(draw)}", f"{sentence(draw)} {noise} {sentence(draw)}", f"{paragraph(draw)} {noise}"]
    )


def tiny_words(draw: random.Random) -> str:
    """What the small random models of the tests say: English words without sense."""
    return " " + " ".join(draw.choices(VOCABULARY, k=draw.randint(3, 300)))


def tiny_emoji(draw: random.Random) -> str:
    """The same with emoji between."""
    return " " + " ".join(
        word + (draw.choice("😀😀😎") if draw.random() < 0.2 else "")
        for word in draw.choices(VOCABULARY, k=draw.randint(3, 200))
    )


def emoji(draw: random.Random) -> str:
    """Lines with rows of emoji; and a server that sends their bytes one by one, as replacement characters."""
    row = draw.choice(EMOJI) * draw.randint(1, 14)
    broken = draw.choice(["", "", " \ufffd\ufffd\ufffd", "\ufffd"])
    return f"{row} {paragraph(draw)} {row}{broken}{draw.choice(['', ' ' + sentence(draw)])}"


def special_tokens(draw: random.Random) -> str:
    """A text about tokenizers and chat templates, a leaked end token, an unparsed channel."""
    names = "\n".join(f"- `<|reserved_special_token_{each}|>` is reserved" for each in range(draw.randint(1, 20)))
    roles = [draw.choice(["user", "assistant"]) for _ in range(draw.randint(1, 8))]
    turns = "".join(f"<|im_start|>{role}\n{sentence(draw)}<|im_end|>\n" for role in roles)
    thought = f"<|channel|>analysis<|message|>{paragraph(draw)}<|end|>"
    return draw.choice(
        [
            f"{paragraph(draw, 2)}\n{names}",
            f"```\n{turns}```",
            f"{thought}<|start|>assistant<|channel|>final<|message|>{paragraph(draw)}",
            paragraph(draw) + draw.choice(["<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>\n"]),
            f"Gemma has tokens such as <unused{draw.randint(0, 99)}> and <pad>, {sentence(draw)} <s>{sentence(draw)}</s>",
        ]
    )


def markup(draw: random.Random) -> str:
    """HTML, LaTeX, YAML, CSV, a diff, a log."""
    lines = range(draw.randint(1, 14))
    nouns, width = [draw.choice(NOUNS) for _ in lines], draw.randint(2, 8)
    return draw.choice(
        [
            "<table>" + "".join(f"<tr>{'<td></td>' * draw.randint(1, 8)}</tr>" for _ in lines) + "</table>",
            "\\begin{pmatrix}" + "\\\\".join(" & ".join(["0"] * width) for _ in lines) + "\\end{pmatrix} α β Δx",
            "\n".join(f"{'  ' * draw.randint(0, 8)}- {noun}: {draw.choice(['null', '0', noun])}" for noun in nouns),
            "\n".join(f"{noun}{',' * draw.randint(1, 20)}" for noun in nouns),
            "\n".join(draw.choice("+- ") + " " * 4 + noun for noun in nouns),
            "\n".join(
                f"2026-11-{day + 1:02d}T00:00:00Z INFO {draw.choice(['ok', 'ok', sentence(draw)])}" for day in lines
            ),
        ]
    )


def dialogue(draw: random.Random) -> str:
    """Two who talk, who stammer and interrupt each other."""
    short = ("Yes.", "No.", "Yes, yes, yes!", "No, no, no, no.", "...", "What?", "I… I… I don't know.")
    turns = range(draw.randint(2, 20))
    return "\n".join(
        f"{draw.choice(['A', 'B', '**Mira**', 'Tomas'])}: {draw.choice([sentence(draw), *short])}" for _ in turns
    )


def odd(draw: random.Random) -> str:
    """What people ask for that looks like nonsense: litanies, boards, dumps, formulas, pictures."""
    return draw.choice(list(HEALTHY.values()))


STYLES: Final[dict[str, Style]] = {
    each.__name__: each
    for each in (
        *(prose, thinking, code, table, numbers, chinese, arabic, other_languages, as_json, rules, ascii_art, encoded),
        *(repeated_items, poem, laughter, tiny_words, tiny_emoji, emoji, special_tokens, markup, dialogue, odd),
    )
}


@dataclass(frozen=True, slots=True)
class Healthy:
    """A healthy answer: its tokens as chunks, and whether its length was forced."""

    style: str
    chunks: tuple[str, ...]
    forced: bool


def answer(style: str, number: int) -> Healthy:
    """The answer of this style and number: its whole text, or cut at a limit; forced ones go on after their end."""
    draw = random.Random(f"{style} {number}")
    text = draw.choice(OPENINGS) + STYLES[style](draw)
    while draw.random() < 0.3:
        other = draw.choice(list(STYLES.values()))
        text += draw.choice(["\n\n", "\n", " "]) + other(draw)
    forced = draw.random() < 0.5
    if forced and draw.random() < 0.5:
        text = go_on(draw, text)
    tokens = tokens_of(draw, text)
    if draw.random() < 0.6:
        tokens = tokens[: draw.choice([16, 16, 32, 64, 64, 64, 128, 256, 512])]
    return Healthy(style, tokens, forced)


def go_on(draw: random.Random, text: str) -> str:
    """What a model says that may not end: its end token as text, line ends, its last sentence again and again, one mark."""
    last = draw.choice([sentence(draw), "The End.", "Yes.", "I hope this helps!", "Goodbye! 👋", "Done.\n"])
    more = draw.choice(
        [f"\n\n{last}", "\n", "!", ".", " ", "\n\nUser: Thanks!\nAssistant: You're welcome!", f" {last}", "👍", "\n---"]
    )
    end = draw.choice(["", "", "<|im_end|>", "</s>", "<|endoftext|>"])
    ended = text if text.rstrip()[-1:] in {".", "!", "?", "…", "`", "}", "|"} else f"{text.rstrip()} {last}"
    if len(ended) < 256 and not end and text.rstrip()[-1:] not in {".", "!", "?"}:
        ended = f"{text.rstrip()} {last}"
    return ended + end + more * draw.randint(20, 200)


def tokens_of(draw: random.Random, text: str) -> tuple[str, ...]:
    """A text cut as tokenizers do: words with their space, runs of one mark in pieces of up to 16, one letter of other scripts."""
    digits, longest = draw.choice([1, 3]), draw.choice([4, 6, 12])
    pattern = rf"\s?[A-Za-z]{{1,{longest}}}|\d{{1,{digits}}}|([^\w\s]|_)\1{{0,15}}|\n+|[ \t]{{1,16}}|\w|[^\w\s]|\s"
    return tuple(match[0] for match in re.finditer(pattern, text))
