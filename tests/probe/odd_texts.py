"""Odd texts: healthy ones that look like nonsense, and nonsense that looks like a text. All of them are made up.

The healthy ones are what people ask models for: verses with refrains, drawings, dumps, logs, litanies, formulas, other scripts. The
nonsense ones are further shapes of the recorded faults of ``tests/probe/faults.py``.
"""

# ruff: noqa: RUF001 - letters of other scripts are what it is about
import base64
import json
import random
from typing import Final

_DRAW: Final = random.Random("odd texts")
_BYTES: Final = _DRAW.randbytes(240)
_SENTENCE: Final = "The keeper lit the lamp before the boats came home."

HEALTHY: Final[dict[str, str]] = {
    "poem with a refrain": "\n\n".join(
        f"The {each} went over the hill,\nand the light went round and round,\nround and round, round and round,\n"
        "and the light went round and round."
        for each in ("keeper", "baker", "ferryman", "teacher", "gull", "moon")
    ),
    "song of one word": "Hallelujah, hallelujah,\nhallelujah, hallelujah,\nhallelujah, hallelujah, halle-lu-jah!\n" * 4,
    "litany": "".join(
        f"Saint {each},\npray for us.\n"
        for each in "Anna Bernard Clare Dominic Elmo Francis George Hilda Ives Jude".split()
    ),
    "kyrie, forty times": "Lord, have mercy.\n" * 40,
    "line of a pupil, fifty times": "I will not talk in class.\n" * 50,
    "mantra, 108 times": "Om mani padme hum\n" * 108,
    "counting": " ".join(map(str, range(1, 400))),
    "counting in words": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    "counting sheep": "".join(f"{each} sheep, " for each in range(1, 80)),
    "bottles": "\n".join(
        f"{n} bottles of beer on the wall, {n} bottles of beer.\nTake one down, pass it around, {n - 1} bottles of beer on the wall."
        for n in range(12, 1, -1)
    ),
    "multiplication table": "\n".join(" ".join(f"{i * j:3d}" for j in range(1, 11)) for i in range(1, 11)),
    "matrix of zeros": "\n".join(" ".join("0" * 8) for _ in range(8)),
    "identity": "\n".join(" ".join("1" if i == j else "0" for j in range(24)) for i in range(24)),
    "board of dots": "\n".join("." * 40 for _ in range(40)),
    "game of life": "\n".join(
        "".join("#" if (i, j) in {(5, 6), (6, 7), (7, 5), (7, 6), (7, 7)} else "." for j in range(32))
        for i in range(32)
    ),
    "chess board": "\n".join(("♖ · " * 4 if row % 2 else "· ♟ " * 4).strip() for row in range(8)),
    "sudoku": "\n".join("+-------+-------+-------+\n| . . . | . . . | . . . |" for _ in range(9)),
    "crossword": "\n".join("■□□□□■□□□□■□□□" for _ in range(14)),
    "ASCII portrait": "Here is the keeper:\n\n```\n"
    + "\n".join(
        ["M" * 60] * 6
        + ["M" * 18 + "NmddhhyyyyhhdddmN" + "M" * 25, "M" * 15 + "mhs+:-..```..-:/oshdN" + "M" * 24]
        + ["M" * 60] * 2
    ),
    "braille picture": "\n".join(
        ["⠀" * 30] * 8 + ["⠀" * 9 + "⢀⣤⣶⣿⣿⣷⣦⡀" + "⠀" * 13, "⠀" * 8 + "⣾⣿⣿⣿⣿⣿⣿⣿⣷" + "⠀" * 13] + ["⠀" * 30] * 3
    ),
    "progress bar": "Downloading " + "█" * 48 + "░" * 12 + " 80 %",
    "banner": "#" * 72 + "\n#" + " " * 70 + "#\n#" + "WELCOME".center(70) + "#\n#" + " " * 70 + "#\n" + "#" * 72,
    "long separators": f"/{'*' * 118}/\nint main(void) {{\n{'/' * 120}\n    return 0;\n{'/' * 120}\n}}\n/{'=' * 118}/",
    "table with rules": "| Name | Wind | Rain |\n|:-----|-----:|:----:|\n"
    + "| Monday | 0 | 0 |\n" * 9
    + "|------|------|------|\n" * 2,
    "table without values": "| | | | | | |\n|---|---|---|---|---|---|\n" + "| | | | | | |\n" * 14,
    "table of ticks": "| Feature | A | B | C |\n|---|---|---|---|\n"
    + "".join(f"| item {each} | ✅ | ✅ | ❌ |\n" for each in range(12)),
    "base64 on request": base64.b64encode(_BYTES).decode(),
    "base64 of zeros": "The base64 of 120 zero bytes is:\n\n```\n" + base64.b64encode(bytes(120)).decode() + "\n```",
    "hex dump": "\n".join(
        f"{16 * at:08x}  {_BYTES[16 * at : 16 * at + 16].hex(' ')}  |................|" for at in range(15)
    ),
    "hex dump of zeros": "\n".join(f"{16 * at:08x}: {'0000 ' * 8} ................" for at in range(12)),
    "zero bytes": "Here are 64 zero bytes in hex:\n\n" + " ".join(["00"] * 64),
    "power of two": f"2^200 = {2**200}",
    "pi": "Here are the first 600 digits of π: 3." + "".join(_DRAW.choices("0123456789", k=600)),
    "factorial": f"1000! begins with 402387260077093773543702433923003985719374864210714632543799910429938512398629 and has {2568} digits.",
    "binary": "The number is 0b" + format(2**127 - 12345, "b"),
    "alternating bits": "Bits: " + "01" * 32,
    "morse": "... --- ... / ... --- ... / ... --- ... / .-.. .. --. .... -",
    "gene": "5'-" + "".join(_DRAW.choices("ACGT", k=180)) + "A" * 40 + "-3'",
    "log": "\n".join(f"2026-11-28T10:{each // 60:02d}:{each % 60:02d}Z INFO healthcheck ok" for each in range(40)),
    "log in colour": "".join(f"\x1b[32mINFO\x1b[0m  worker {each} ready\n" for each in range(12)),
    "CSS": ".a { margin: 0 0 0 0; padding: 0 0 0 0; border: 0; }\n"
    + "".join(f".m-{each} {{ margin: {each}px; }}\n" for each in range(24)),
    "SVG": '<svg><path d="M0 0 L0 0 ' + "L0 0 " * 20 + 'Z"/></svg>',
    "HTML": "<ul>\n" + "  <li></li>\n" * 24 + "</ul>\n" + "<br>" * 14 + "&nbsp;" * 12,
    "YAML": "".join(f"  - name: node-{each}\n    ready: true\n    taints: []\n" for each in range(20)),
    "diff": "--- a/main.c\n+++ b/main.c\n@@ -1,12 +1,12 @@\n" + "-    return 0;\n+    return 1;\n" * 8,
    "assembly": "start:\n" + "    nop\n" * 24 + "    ret\n",
    "closing braces": "function f() {\n" + "".join(" " * (40 - 2 * each) + "}\n" for each in range(20)),
    "brainfuck": "++++++++++[>+++++++>++++++++++>+++>+<<<<-]>++.>+.+++++++..+++.>++.<<+++++++++++++++.>.+++.------.--------.>+.>.",
    "SQL": "INSERT INTO t VALUES\n" + ",\n".join("(NULL, NULL, 0)" for _ in range(28)) + ";",
    "LaTeX": "\\begin{tabular}{" + "c" * 16 + "}\n" + (" & ".join(["0"] * 16) + " \\\\\n") * 8 + "\\end{tabular}",
    "formulas": "Für x ∈ ℝⁿ gilt ‖x‖₂ = √(Σ xᵢ²); der Raum ℓ² ist vollständig, kΩ und µm sind Einheiten, xᵀx ≥ 0, 𝑓: ℂⁿ→ℂ, ℵ₀ < 𝔠, ªº.",
    "phonetics": "θɪŋk /θɪŋk/, ðɪs /ðɪs/, ˈʃiːp /ʃiːp/, tʰɪn, ɡʷ, nʲet, aː, ɐ̃, χaːʁ, βeta, ɔɪ, xʲlʲep, kʼa, ʔa, ǃXóõ",
    "names of languages": "法语bonjour，俄语привет，阿拉伯语مرحبا，希伯来语שלום，泰语สวัสดี，希腊语γεια，韩语안녕，印地语नमस्ते，亚美尼亚语Բարեւ。",
    "thai": "ผู้ดูแลประภาคารเก่าปีนบันไดแคบทุกเย็น และจุดตะเกียงก่อนที่เรือจะกลับบ้าน " * 3 + "5555555555",
    "korean": "오래된 등대지기는 매일 저녁 좁은 계단을 올라 등불을 켰다. ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ 정말요? ㅠㅠㅠㅠㅠㅠㅠㅠ",
    "hindi": "पुराना रखवाला हर शाम सीढ़ी चढ़कर दीपक जलाता था। राम राम राम राम राम राम राम राम राम राम। जय श्री राम, जय श्री राम!",
    "vietnamese": "Người gác hải đăng già leo lên cầu thang hẹp mỗi buổi tối. Ha ha ha ha ha ha! Trời ơi, trời ơi, trời ơi!",
    "russian with Latin words": "Файл main.py импортирует numpy, а GPU-ядро пишет в stdout; ЦПU, ГПU и RAMы пусты. Хахахахахахахаха!",
    "arabic with numbers": "١٢٣٤٥٦٧٨٩ ثم ١٠ ثم ١١، وكتب الحارس: GPU رقم 0، مرحبااااااااااااا!",
    "emoji list": "".join(f"{each} " for each in "😀😂🎉🚀✨🔥💡👍🌊🐦🏠🍎🍌🍒🍓🍉🍇🍍🥝🥑🌽🥕🥔🍞🧀🥚🍗🍔🍟🍕🌭"),
    "hearts": "❤️❤️❤️❤️❤️❤️❤️❤️❤️❤️ Happy birthday! 🎂🎂🎂🎂🎂🎂🎂🎂 🎉🎉🎉🎉🎉🎉🎉🎉",
    "flags": "🇩🇪 🇫🇷 🇮🇹 🇪🇸 🇵🇹 🇳🇱 🇧🇪 🇱🇺 🇦🇹 🇨🇭 🇵🇱 🇨🇿 🇸🇰 🇭🇺 🇸🇮 🇭🇷",
    "cat": "Meow meow meow! " * 5 + "Purrrrrrrrrrrrrrrr… meow, meow, MEOW!",
    "robot": "BEEP BOOP. BEEP BOOP. " * 8 + "SYSTEM READY.",
    "train": "Chugga-chugga-chugga-chugga " * 8 + "choo choo!",
    "tongue": "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo. How much wood would a woodchuck chuck if a woodchuck could?",
    "scream": "AAAAAAAAAAAAAAAAAAAAAH! Nooooooooooooooooooooo!!!!!!!!!!!!!!!!!!!!!",
    "form": "Name: ____________________\nDate: ____________________\nSignature: " + "_" * 60,
    "contents": "\n".join(f"Chapter {each} {'.' * 60} {each * 7}" for each in range(1, 16)),
    "special tokens": "<|im_start|>\n<|im_end|>\n<|endoftext|>\n<|user|>\n<|assistant|>\n<|system|>\n<|tool|>\n<|pad|>",
    "chat template": "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>\n" * 3,
    "icons": "\ue0b0 home \uf015 folder \uf07b git \ue725 python \ue73c linux \uf17c battery \uf240 wifi \uf1eb lock \uf023",
    "sixteen tokens": "Mira went on along the river, and the old lamp turned slowly, as",
    "one word": "Paris",
    "thinking": "<think>\n" + "Wait, no. Let me check again. " * 9 + "\n</think>\n\n4",
    "arrays": "weights = [" + "0.0, " * 60 + "1.0]\nbias = [" + "None, " * 40 + "None]",
    "CSV": "id,a,b,c\n" + "".join(f"{each},,,\n" for each in range(60)),
    "tab": "e|--------------------------------|\nB|--------------------------------|\nG|--0---0---0---0---0---0---0---0-|\n"
    * 4,
    "sestina": "\n".join(
        f"the {a} and the {b}, the {b} and the {a},"
        for a in ("rain", "moon", "sea", "stone")
        for b in ("door", "light", "wind", "sand")
    ),
    "echo": "Hello… hello… hello… hello… hello… hello… hello… hello…",
    "countdown": "\n".join(f"{n}…" for n in range(40, 0, -1)) + "\nLiftoff!",
    "drum": "Boom boom clap. Boom boom clap. " * 12,
    "scales": "do re mi fa sol la ti do " * 8,
    "bell": "DING DONG, DING DONG, DING DONG, DING DONG, DING DONG, DING DONG, DING DONG, DING DONG!",
    "vowels": "aaaaaaaaaa eeeeeeeeee iiiiiiiiii oooooooooo uuuuuuuuuu",
    "stutter": "I-I-I-I-I-I-I d-d-d-d-don't kn-kn-kn-know, he said, w-w-w-waiting.",
    "waves": "~" * 60 + "\n" + " ~~~ " * 12 + "\n" + "~" * 60,
    "snow": "\n".join("* . * . * . * . * . * . * ." for _ in range(12)),
    "maze": "\n".join(("█ " * 20, " █" * 20)[r % 2] for r in range(16)),
    "frame": "╔" + "═" * 60 + "╗\n║" + " " * 60 + "║\n" + "╚" + "═" * 60 + "╝",
    "histogram": "\n".join(f"{h:02d}:00 | {'#' * _DRAW.randint(0, 60)}" for h in range(24)),
    "calendar": "Mo Tu We Th Fr Sa Su\n"
    + "\n".join(" ".join(f"{d:2d}" for d in range(w, w + 7)) for w in range(1, 29, 7)),
    "tic tac toe": " | | \n-+-+-\n | | \n-+-+-\n | | \n" * 4,
    "truth table": "\n".join(f"{a} {b} {c} | {a & b | c}" for a in (0, 1) for b in (0, 1) for c in (0, 1)),
    "octal": " ".join(f"{_DRAW.randrange(512):03o}" for _ in range(60)),
    "uuid list": "\n".join(f"00000000-0000-0000-0000-{n:012d}" for n in range(30)),
    "ipv6": "0000:0000:0000:0000:0000:0000:0000:0001, fe80::1, ff02::2, 0000:0000:0000:0000:0000:0000:0000:0000",
    "mac": "\n".join("ff:ff:ff:ff:ff:ff" for _ in range(10)),
    "cron": "* * * * * /usr/bin/true\n*/5 * * * * /usr/bin/true\n0 0 * * 0 /usr/bin/false\n" * 3,
    "regex": r"^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*)$ \d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}",
    "lisp": "(defun f (x) " + "(if (> x 0) " * 12 + "x" + ")" * 24,
    "xml": "<a><b><c><d><e><f>1</f></e></d></c></b></a>" * 4,
    "json nulls": json.dumps({"rows": [[None] * 8] * 12}),
    "tensor": "tensor([[" + "0.0000, " * 7 + "0.0000],\n        [" + ("0., " * 8) * 3 + "]])",
    "numpy ones": "array([[1., 1., 1., 1., 1.],\n" + "       [1., 1., 1., 1., 1.],\n" * 14 + "])",
    "c array": "static const uint8_t t[64] = {\n"
    + ("    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,\n" * 8)
    + "};",
    "makefile": ".PHONY: all\nall:\n" + "\t@true\n" * 10,
    "html tags": "<p></p>\n" * 14 + "<!-- " + "-" * 60 + " -->",
    "python pass": "class A:\n    pass\n\n\nclass B:\n    pass\n\n\nclass C:\n    pass\n" * 3,
    "git log": "\n".join(f"{_DRAW.getrandbits(28):07x} Fix typo" for _ in range(24)),
    "stack trace": "RecursionError: maximum recursion depth exceeded\n"
    + '  File "a.py", line 3, in f\n    return f()\n' * 14
    + "  [Previous line repeated 980 more times]",
    "top": "\n".join(f"{p:5d} root 20 0 0 0 0 S 0.0 0.0 0:00.00 kworker" for p in range(1, 24)),
    "chemistry": "CH3CH2CH2CH2CH2CH2CH2CH2CH2CH2CH2CH2CH2CH2CH2CH2CH2COOH; -(CH2-CH2)-(CH2-CH2)-(CH2-CH2)-(CH2-CH2)-",
    "protein": "MKTAYIAKQRQISFVKSHFSRQ" + "GGGGSGGGGSGGGGSGGGGS" + "HHHHHHHHHH",
    "knitting": "Row 1: k2, p2, k2, p2, k2, p2, k2, p2, k2, p2, k2, p2, k2, p2.\n" * 6,
    "guitar chords": "| G | G | C | G | G | D | G | G |\n" * 8,
    "ABC music": "X:1\nK:G\n|:GGG GGG|AAA AAA|BBB BBB|GGG GGG:|" * 4,
    "amharic": "ሰላም ለዓለም፣ የመብራት ቤት ጠባቂ ሁልጊዜ ማታ ደረጃውን ይወጣል። " * 3,
    "tamil": "கலங்கரை விளக்கின் காவலர் ஒவ்வொரு மாலையும் படிக்கட்டில் ஏறினார். ஹா ஹா ஹா ஹா ஹா ஹா!",
    "japanese laughter": "それはおもしろいwwwwwwwwwwwwwwww すごい！！！！！！！！！！ ああああああああああ",
    "chinese idioms": "高高兴兴，快快乐乐，干干净净，漂漂亮亮，大大方方，认认真真，红红火火，平平安安，风风雨雨，来来往往，",
    "chinese about alphabets": "希腊字母α、β、γ，西里尔字母а、б、в，希伯来字母א、ב、ג，阿拉伯字母ا、ب、ت，拉丁字母a、b、c",
    "transliteration": "Привет (Privet), שלום (Shalom), مرحبا (Marhaba), γεια (Geia), नमस्ते (Namaste), 안녕 (Annyeong), გამარჯობა (Gamarjoba)",
    "serbian both": "Београд/Beograd, Нови Сад/Novi Sad, Ниш/Niš — ćirilica и latinica",
    "homoglyphs": "The Cyrillic аеорсух look like the Latin aeopcyx: аa, еe, оo, рp, сc, уy, хx; Greek οo, αa, νv.",
    "zalgo light": "h̷e̷l̷l̷o̷ ̷w̷o̷r̷l̷d̷",
    "fancy letters": "𝓗𝓮𝓵𝓵𝓸 𝔀𝓸𝓻𝓵𝓭, 𝕳𝖊𝖑𝖑𝖔, Ⓗⓔⓛⓛⓞ, Ｈｅｌｌｏ, ʜᴇʟʟᴏ, ɥǝllo",
    "emoji story": "👨‍👩‍👧‍👦🚗💨🏖️☀️🌊🏄‍♂️🐚🦀🍦🍦🍦🍦😋🌅🚗💨🏠😴💤💤💤💤💤💤",
    "dice": "⚀⚁⚂⚃⚄⚅ " * 8,
    "cards": "🂡🂢🂣🂤🂥🂦🂧🂨🂩🂪🂫🂭🂮",
    "stars rating": "★★★★★ great\n★★★★☆ good\n★★★☆☆ ok\n★☆☆☆☆ bad\n" * 5,
    "checklist": "- [x] done\n" * 12 + "- [ ] open\n" * 12,
    "empty bullets": "- \n- \n- \n- \n- \n- \n- \n- \n",
    "redacted": "The █████████ met ████████████████ at ██████████████████████████████████ on █████.",
    "censored": "He said **** **** and then ********* ************* again.",
    "dots menu": "Soup" + "." * 90 + "4.50\nFish" + "." * 90 + "12.00\n",
    "yes only": "yes",
    "single number": "42",
    "ok many": "ok\nok\nok\nok\nok\nok\nok\nok\n",
    "translation pairs": "\n".join(f"{w} = {w}" for w in "taxi radio hotel piano opera pizza sofa kiwi".split()),
    "anaphora": "\n".join(
        f"I have a dream that one day {x}."
        for x in "the valley shall rise,the hills be low,the rough be plain,we be free".split(",")
    )
    * 3,
    "rosary": ("Hail Mary, full of grace, the Lord is with thee. " * 10),
    "arabic praise": "سبحان الله\n" * 33,
    "amen": "Amen. " * 12,
    "hare": "Hare Krishna Hare Krishna Krishna Krishna Hare Hare\nHare Rama Hare Rama Rama Rama Hare Hare\n" * 8,
    "sixteen tokens b": "Sure! Here's a haiku about the sea:\n\nWaves fold",
    "mermaid": "graph TD\n" + "".join(f"  A{n}-->A{n + 1}\n" for n in range(24)),
    "dockerfile": "FROM a\n" + "RUN true && \\\n" * 10 + "    true",
    "ini": "".join(f"[s{n}]\nenabled = true\n" for n in range(20)),
    "subtitles": "".join(f"{n}\n00:00:{n:02d},000 --> 00:00:{n:02d},900\n[Music]\n\n" for n in range(1, 20)),
    "whisper": "[Music] [Music] [Applause] [Music] [Laughter] [Music] [Applause] [Music]",
    "bf zeros": "Sum: 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 = 0",
    "series": "1 + 1/2 + 1/4 + 1/8 + 1/16 + 1/32 + 1/64 + 1/128 + 1/256 + 1/512 + …",
    "rep fraction": "1/9 = 0." + "1" * 60 + "…",
    "e": "e = 2." + "718281828459045" + "".join(_DRAW.choices("0123456789", k=500)),
    "mersenne": "2^607 − 1 = " + str(2**607 - 1),
    "primes": ", ".join(str(n) for n in range(2, 400) if all(n % d for d in range(2, int(n**0.5) + 1))),
    "qr": "\n".join("".join(_DRAW.choice("██  ") for _ in range(29)) for _ in range(29)),
    "lorem": "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore. "
    * 3,
}

_LONG_START: Final = "Once upon a time in a village by the river there lived an old keeper who"
_START: Final = "Mira went on along the river, where"


def _of(pieces: str, count: int = 48) -> str:
    """So many of these pieces, in any order."""
    draw = random.Random(pieces)
    return "".join(draw.choices(pieces.split("¦"), k=count))


NONSENSE: Final[dict[str, str]] = {
    # One token, or a few, for all of a probe's 64 tokens.
    "exclamation marks after a line end": "\n\n" + "!" * 64,
    "spaced marks": "! " * 40,
    "marks by lines": "$\n" * 32,
    "zeros": "0" * 64,
    "zeros by words": " 0" * 32,
    "dots and zeros": "0." * 40,
    "full stops": "." * 64,
    "Chinese full stops": "。" * 64,
    "long vowel marks": "ー" * 64,
    "one Chinese word": "的" * 64,
    "one Chinese word, spaced": "的 " * 40,
    "two Chinese words": "你好" * 32,
    "one Thai word": "ครับ" * 24,
    "one Arabic word": "من " * 48,
    "one Russian word": " что" * 48,
    "one Korean word": "있습니다 " * 24,
    "one Hindi word": "है " * 40,
    "one word and a comma": "the, " * 32,
    "one word and a line end": "assistant\n\n" * 28,
    "one word, then another": " the of" * 32,
    "three words": " and the man" * 21,
    "four words": " in the end of" * 16,
    "a word in capitals": "THE THE " * 30,
    "letters": "A " * 40,
    "roles": "Human: " * 24,
    "None": "None " * 48,
    "closing braces": "}\n" * 48,
    "slashes and backslashes": "/\\" * 32,
    "dashes by lines": "- \n" * 32,
    "ideographic spaces": "\u3000" * 40,
    "tabs": "\t" * 48,
    "zero-width spaces": "\u200b \u200b" * 30,
    "byte order marks": "\ufeff" * 48,
    "a heart": "❤️" * 21,
    "an emoji": "😀" * 24,
    "marks of a tokenizer": "▁" * 64,
    "words with the mark of a tokenizer": "Ġthe" * 32,
    "escaped bytes": "\\x00" * 21,
    "escaped line ends": "\\n" * 32,
    "hard spaces of HTML": "&nbsp;" * 21,
    "ends of thinking": "</think>" * 32,
    "tool calls": "<tool_call>\n" * 32,
    # Reserved and template tokens.
    "roles of a template": "<|im_start|>assistant\n" * 16,
    "turns of Gemma": "<start_of_turn>model\n" * 16,
    "instructions of Mistral": "[INST] [/INST] " * 10,
    "padding of Qwen": "[PAD151935]" * 12,
    "images": "<image_soft_token>" * 32,
    "masks of code": "<|fim_prefix|><|fim_suffix|><|fim_middle|>" * 12,
    "unused ones in any order": "".join(f"<unused{random.Random(each).randrange(99)}>" for each in range(48)),
    "Mistral's special ones": "".join(f"<SPECIAL_{each * 7 % 900}>" for each in range(40)),
    "harmony": "<|channel|>analysis<|message|>" * 12,
    # Broken bytes.
    "private use": "".join(chr(0xE000 + each * 37 % 6000) for each in range(48)),
    "replacement characters between words": "the\ufffd\ufffd\ufffd and\ufffd\ufffd" * 9,
    "controls": "\x01\x02\x03\x1c" * 14,
    # Many scripts.
    "soup with spaces": _of(
        " ность¦ lateral¦世¦ the¦ัน¦מר¦ensch¦هم¦된¦ Robb¦াে¦gov¦ция¦של¦ال¦本¦까¦ arrow¦क्ष¦ing¦ოს¦ վերջ¦ தமி"
    ),
    "soup of code": _of("ность¦ lateral¦();¦世¦_tr¦ัน¦מר¦((¦ensch¦هم¦된¦'];¦ Robb¦াে¦gov¦ция¦self¦של¦ال¦本¦까¦->¦क्ष¦ing"),
    # It begins after a healthy start.
    "slashes after a start": f"{_START} {'/' * 130}",
    "a word after a start": _START + " let" * 48,
    "two words after a start": _START + " let the" * 26,
    "unused tokens after a start": _START + "<unused49>" * 48,
    "padding after a start": _START + " <pad>" * 48,
    "letters after a start": f"{_START} {'G' * 64}",
    "roles after a start": _START + "assistant" * 40,
    "mark after long start": _LONG_START + "?" * 110,
    "word after long start": _LONG_START + " the" * 44,
    "token pieces": "ensch" * 24,
    "tooltip": " tooltip" * 30,
    "camel": "ListeningListening" * 14,
    "hash lines": "### \n" * 24,
    "quotes": '"' * 64,
    "double quotes spaced": '" ' * 36,
    "apostrophes": "'" * 64,
    "backticks": "`" * 64,
    "closing": ")" * 64,
    "semicolon": ";\n" * 36,
    "colon": ": " * 40,
    "hyphen": "-" * 64,
    "under": "_" * 64,
    "pipe": "|" * 64,
    "space bar": " | " * 24,
    "star": "*" * 64,
    "spaced star": "* " * 40,
    "dollar": "$" * 64,
    "percent": "%" * 64,
    "plus": "+" * 64,
    "at": "@" * 64,
    "Russian sign": "ь" * 64,
    "Japanese letters": "のの" * 32,
    "Korean particle": "는 " * 40,
    "Arabic letter": "ا" * 64,
    "thai vowel": "า" * 64,
    "vowel sign of Hindi": "ा" * 64,
    "emoji2": "😂" * 32,
    "word bang": "Hello! " * 32,
    "Answer:": "Answer: " * 26,
    "code word": " return" * 40,
    "import": "import " * 40,
    "newline word": "yes\n" * 32,
    "num": "1 " * 40,
    "num2": "2024 " * 26,
    "year": "20" * 32,
    "neg": "-1 " * 32,
    "nan": "nan " * 40,
    "NaN2": "NaN" * 32,
    "undefined": "undefined" * 24,
    "im end": "<|im_end|>\n" * 16,
    "endoftext": "<|endoftext|>" * 24,
    "eot": "<|eot_id|>" * 20,
    "header": "<|start_header_id|>assistant<|end_header_id|>\n\n" * 9,
    "pad ds": "<｜place▁holder▁no▁1｜>" * 12,
    "end of sentence": "<｜end▁of▁sentence｜>" * 12,
    "s": "</s>" * 40,
    "unk": "<unk>" * 32,
    "unk sp": " <unk>" * 32,
    "bytes": "<0xE2><0x80><0x99>" * 12,
    "vision": "<|vision_pad|>" * 20,
    "cls": "[CLS]" * 24,
    "sep": "[SEP]" * 24,
    "mask": "[MASK]" * 24,
    "unk2": "[UNK] " * 24,
    "think open": "<think>\n" * 24,
    "think pair": "<think></think>" * 14,
    "tool": "[TOOL_CALLS]" * 20,
    "img": "[IMG]" * 24,
    "ufffd start": "Mira said: " + "\ufffd" * 60,
    "ufffd words": "\ufffd the \ufffd\ufffd of \ufffd\ufffd\ufffd" * 6,
    "nul": "\x00" * 30,
    "esc": "\x1b\x1b\x1b" * 12,
    "spaces": " " * 64,
    "nbsp": "\xa0" * 64,
    "cr": "\r\n" * 24,
    "zwj": "\u200d" * 40,
    "shy": "\xad" * 40,
    "combining": "\u0301" * 40,
    "rlm": "\u200f" * 40,
    "soup2": "".join(
        _DRAW.choices(
            [" Buddh", "ющ", "ాల", "ிய", "ად", "ուն", "χει", "ِين", "חת", "हरू", " quant", "_id", "ến", "했"], k=44
        )
    ),
    "random digits long": "".join(_DRAW.choices("0123456789", k=160)),
    "digits after word": "7: " + "".join(_DRAW.choices("0123456789", k=420)),
    "replacement characters after a start": f"{_START} {chr(0xFFFD) * 40}",
}

MAY_HAVE_ENDED: Final = frozenset(
    {"mark after long start", "word bang", "Answer:", "newline word", "digits after word"}
)
"""What is excused where the length was forced: a model that may not end says its last word or mark again and again."""
