"""The verdict on a text: nonsense of real faults is found and named, healthy answers never are, however they are cut."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.probe.answer import FORCED_CHARACTERS, NAME_LIMIT, Nonsense, judge_text, printable
from exporter.probe.dialects.openai import read_chat
from exporter.probe.stream import Event, SseDecoder
from tests.probe.faults import FAULTS, Fault, FaultyServer, stream_of
from tests.probe.healthy import STYLES, answer, prose, tokens_of
from tests.probe.odd_texts import HEALTHY as HEALTHY_TEXTS
from tests.probe.odd_texts import MAY_HAVE_ENDED, NONSENSE
from tests.probe.test_recorded_streams import LIMIT, RECORDED, STREAMS, read
from tests.test_architecture import CLOCKS_AND_THREADS, ROOT, imports_of

REAL: Final = Path(__file__).parent.parent / "fixtures" / "answers"
LOOP: Final = "ha ha ha ha ha"
"""A prompt that a base model goes on with for ever: its answer is what a fault looks like."""
HEALTHY: Final = 4000
BY_TEXT: Final = [each for each in FAULTS if "text" in each.detectors]
# Texts with periods, marks, tokens and letters of many kinds in them.
PIECES: Final = st.sampled_from(
    [
        "a",
        "G",
        "!",
        "/",
        "0",
        " ",
        "\n",
        "the ",
        " word",
        "<unused49>",
        "<|im_end|>",
        "\ufffd",
        "世",
        "я",
        "ש",
        "م",
        "ก",
        "😀",
        "\x00",
    ]
)
TEXTS: Final = st.lists(st.tuples(PIECES | st.text(max_size=8), st.integers(1, 90)), max_size=4).map(
    lambda parts: "".join(piece * times for piece, times in parts)
)


def cut(text: str, cuts: list[int]) -> list[str]:
    """The text in pieces."""
    bounds = sorted({0, len(text), *(min(each, len(text)) for each in cuts)})
    return [text[a:b] for a, b in pairwise(bounds)]


def texts_of(raw: bytes) -> list[str]:
    """The chunks of text of a chat completion's stream."""
    decoder = SseDecoder(1 << 20)
    events = [*decoder.feed(raw), *decoder.close()]
    return [delta.answer or delta.reasoning for delta in map(read_chat, events) if delta.answer or delta.reasoning]


def broken(fault: Fault, prompt_words: int) -> list[str]:
    """The chunks that a server with this fault streams as the answer to a prompt of so many words."""
    said = FaultyServer(fault).answer("Once, " + "word " * prompt_words).text
    return texts_of(stream_of(said, random.Random(3)))


def lines_of(name: str) -> list[dict[str, Any]]:
    """Recorded answers of a real model, each with its chunks and the server's count of tokens."""
    return [json.loads(line) for line in (REAL / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("fault", BY_TEXT, ids=lambda each: each.name)
def test_a_fault_that_the_text_shows_is_found_in_its_stream(fault: Fault, *, forced: bool) -> None:
    """Found in 48, 64 and all tokens of the stream, whether or not the length was forced, with a name that can be printed."""
    chunks = broken(fault, fault.begins)
    for tokens in (48, 64, len(chunks)):
        found = judge_text(chunks[:tokens], forced=forced, tokens=min(tokens, len(chunks)))
        assert found is not None, (fault.thread, tokens)
        assert 0 < len(found.what) <= NAME_LIMIT
        assert found.what.isprintable()


@pytest.mark.parametrize("fault", BY_TEXT, ids=lambda each: each.name)
def test_a_fault_that_begins_with_the_length_of_the_prompt_is_not_found_before(fault: Fault) -> None:
    """A prompt that is shorter than where the fault begins gets a healthy answer, and no alarm."""
    if fault.begins:
        assert judge_text(broken(fault, 20)) is None


@pytest.mark.parametrize("unit", ["!", "/", "G", "?"])
def test_the_shortest_probe_finds_one_character(unit: str) -> None:
    """Sixteen tokens of one character are enough where the server counted them: a probe of prefill asks for no more."""
    assert judge_text([unit] * 16, forced=True, tokens=16) == Nonsense("repeated_character", unit)


@pytest.mark.parametrize("times", [16, 64])
def test_the_shortest_probe_finds_one_word_and_reserved_tokens(times: int) -> None:
    """The same of one word, and of ``<unused49>``."""
    assert judge_text([" the"] * times, forced=True) == Nonsense("repeated_word", "the")
    assert judge_text(["<unused49>"] * times, forced=True) == Nonsense("reserved_tokens", "<unused49>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!" * 64, Nonsense("repeated_character", "!")),
        ("Once upon a time there was GGGG" + "G" * 60, Nonsense("repeated_character", "G")),
        ("nette" * 40, Nonsense("repeated_word", "nette")),
        ("The story goes on, and let let let" + " let" * 70, Nonsense("repeated_word", "let")),
        (" the cat" * 20, Nonsense("repeated_phrase", "the cat")),
        ("()" * 40, Nonsense("repeated_word", "()")),
        ("value\n" * 40, Nonsense("repeated_line", "value")),
        ("<unused49>" * 5, Nonsense("reserved_tokens", "<unused49>")),
        ("!!!!!!!!\n!!!!! !!!!!!!\n" * 3, Nonsense("repeated_character", "!")),
        ("GGGG GGG\nGGGGGG " * 5, Nonsense("repeated_character", "G")),
        ("/" * 64 + "\n<|im_end|>", Nonsense("repeated_character", "/")),
        ("<think>\n" + "????" * 20, Nonsense("repeated_character", "?")),
        (
            "<|reserved_special_token_7|><|reserved_special_token_9|>" * 9,
            Nonsense("reserved_tokens", "<|reserved_special_token_7|>"),
        ),
        ("[control_17]" * 8, Nonsense("reserved_tokens", "[control_17]")),
        ("<0x00><0xFF>" * 10, Nonsense("reserved_tokens", "<0x00>")),
        ("word\ufffd\ufffd\ufffd" * 5, Nonsense("broken_characters", "\ufffd")),
        ("\x00" * 40, Nonsense("broken_characters", "\\x00")),
        ("\n" * 16, Nonsense("white_space", "\\n\\n\\n\\n")),
        ("It is" + "\n" * 80 + "so", Nonsense("white_space", "\\n")),
        ("\u200b" * 60, Nonsense("repeated_character", "\\u200b")),
        ("3141592653" * 6, Nonsense("endless_digits", "3141592653314159265331415926533141592653")),
    ],
)
def test_nonsense_is_named_by_what_it_is_made_of(text: str, expected: Nonsense) -> None:
    """Each kind, with the thing itself, begun at a word and without control characters."""
    assert judge_text([text]) == expected
    assert expected.what in expected.message or expected.fault == "white_space"


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n\n", "Yes.", "Ha ha ha ha ha ha ha ha ha!", "哈" * 18 + "。", "Nooooooooooooooooooooooo!", "🎉" * 14),
        *("| a | b |\n|---|---|\n", "Title\n" + "=" * 80, "-" * 40 + "\nText", "1. 0\n2. 0\n3. 0\n", "[" + "0, " * 60),
        *(
            "data:;base64," + "A" * 64 + "==",
            "AAAA" * 16 + "BBBB",
            "A googol is 1" + "0" * 100,
            "row, row, row your boat\n" * 8,
        ),
        *(
            "100! = " + "9332621544" * 15 + "93326215",
            "Привет, 世界, שלום, مرحبا, สวัสดี, नमस्ते",
            "使用Python编写的程序",
            "Δx = π的值",
        ),
    ],
)
def test_what_only_looks_like_nonsense_is_none(text: str) -> None:
    """Laughter, rules, zeros, base64, refrains, long numbers and many scripts, each cut where a limit might end them."""
    assert judge_text([text]) is None
    assert judge_text([text], forced=True) is None


@pytest.mark.parametrize("style", STYLES)
def test_no_healthy_answer_is_called_nonsense(style: str) -> None:
    """Not one of some thousands over all styles; 100,000 of them are judged by ``tests/bench/answers.py``."""
    for number in range(HEALTHY // len(STYLES)):
        healthy = answer(style, number)
        found = judge_text(healthy.chunks, forced=healthy.forced, tokens=len(healthy.chunks))
        assert found is None, (number, found, "".join(healthy.chunks)[-200:])


def recorded() -> dict[str, list[str]]:
    """The chunks of text of every answer of the fixtures: streams, whole answers, the shapes that gateways send; empty for errors."""
    found = {name: [each.answer or each.reasoning for each in read(name, LIMIT)] for name in RECORDED}
    for path in STREAMS.glob("*/*-nostream.txt"):
        body = json.loads(re.split(rb"\r?\n\r?\n", path.read_bytes(), maxsplit=1)[1])
        found[f"{path.parent.name}/{path.stem}"] = [choice["text"] for choice in body["choices"]]
    for path in STREAMS.glob("odd/*.txt"):
        found[f"odd/{path.stem}"] = texts_of(path.read_bytes())
    for number, each in enumerate(lines_of("completions")):
        if each["prompt"] != LOOP:
            found[f"gemma-3-270m/{number}"] = each["chunks"]
    return found


ANSWERS: Final = recorded()
SPEAKING: Final = [name for name, chunks in ANSWERS.items() if "".join(chunks).strip()]


@pytest.mark.parametrize("name", SPEAKING)
def test_no_recorded_answer_is_called_nonsense(name: str) -> None:
    """Every answer that was recorded is a text, whole or cut: those of random models, and of a real one that comes into loops."""
    for length in (16, 32, 48, 64, len(ANSWERS[name])):
        chunks = ANSWERS[name][:length]
        for forced in (False, True):
            assert judge_text(chunks, forced=forced, tokens=len(chunks)) is None, length


def test_which_recorded_answers_are_judged() -> None:
    """Some of each real server; what holds no text is an error's stream."""
    servers = {name.partition("/")[0] for name in SPEAKING}
    assert servers > {"llama-server", "llama-server-router", "vllm", "transformers-serve", "litellm", "gemma-3-270m"}
    assert set(ANSWERS) - set(SPEAKING) == {"odd/error-in-a-field-named-error"}


def test_a_loop_that_was_asked_for_is_found_all_the_same() -> None:
    """The verdict is on the text: one token for ever is nonsense, also where a prompt began it."""
    (each,) = [each for each in lines_of("completions") if each["prompt"] == LOOP]
    assert judge_text(each["chunks"], tokens=each["tokens"]) == Nonsense("repeated_word", "ha")


def test_a_model_without_a_template_of_chat_is_told_by_what_it_says() -> None:
    """A real base model, asked by the chat API, says nothing but markers of a template that isn't its own, or goes on with the question."""
    verdicts = set()
    for each in lines_of("chat-without-template"):
        said = "".join(each["chunks"])
        bare = not re.sub(r"<\|im_(?:start|end)\|>|\s|<[|a-z_]*\Z", "", said)
        found = judge_text([said], forced=each.get("ignore_eos", False), tokens=each["tokens"])
        assert found == (Nonsense("reserved_tokens", "<|im_end|>") if bare else None), said
        verdicts.add(bare)
    assert verdicts == {True, False}


@pytest.mark.parametrize("name", HEALTHY_TEXTS)
def test_a_text_that_looks_like_nonsense_is_healthy(name: str) -> None:
    """Verses, drawings, dumps, logs and formulas, whole and cut where a limit of tokens might end them."""
    for seed in range(4):
        tokens = tokens_of(random.Random(seed), HEALTHY_TEXTS[name])
        for length in (16, 32, 48, 64, 96, 128, 256, 512, len(tokens)):
            for forced in (False, True):
                for counted in (None, min(length, len(tokens))):
                    assert judge_text(tokens[:length], forced=forced, tokens=counted) is None, length


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_of_any_shape_is_found(name: str, *, forced: bool) -> None:
    """What one probe of 64 tokens gets of it; where its length was forced, what a model may say after its end is excused."""
    found = judge_text([NONSENSE[name]], forced=forced, tokens=64)
    if forced and name in MAY_HAVE_ENDED:
        assert found is None
    else:
        assert found is not None
        assert found.what.isprintable()


@pytest.mark.parametrize("number", [str(2**200), "01" * 32, format(2**63, "b")])
def test_a_number_alone_is_an_answer_where_the_model_ended_by_itself(number: str) -> None:
    """Digits without end are nonsense; those of a model that ended are what it was asked for."""
    assert judge_text([number], ended=True) is None
    assert judge_text([number]) == Nonsense("endless_digits", number[:NAME_LIMIT])


@pytest.mark.parametrize("more", ["\n", "!", ".", " The end.", "\n\nUser: Thanks!\nAssistant: You're welcome!", " Yes"])
@pytest.mark.parametrize("end", ["<|im_end|>", "</s>", "<end_of_turn>", ""])
def test_what_comes_after_a_models_own_end_is_not_judged(more: str, end: str) -> None:
    """A model that may not end repeats itself; whether its end token is a text or not, only what came before counts."""
    said = prose(random.Random(5))[:120].rpartition(" ")[0] + "."
    assert judge_text([said, end, more * 200], forced=True) is None
    late = "The keeper lit the lamp and the boats came home before the storm reached the harbor, " * 4
    assert judge_text([late[:FORCED_CHARACTERS], more * 200], forced=True) is None


def test_an_answer_that_ends_at_once_is_judged_whole() -> None:
    """End tokens alone are no answer that has ended: nothing was said before."""
    assert judge_text(["<|endoftext|>"] * 64, forced=True) == Nonsense("reserved_tokens", "<|endoftext|>")


@settings(deadline=None, max_examples=300)
@given(
    text=TEXTS,
    cuts=st.lists(st.integers(0, 400), max_size=12),
    forced=st.booleans(),
    tokens=st.none() | st.integers(0, 500),
)
def test_a_verdict_does_not_depend_on_the_chunks(
    *, text: str, cuts: list[int], forced: bool, tokens: int | None
) -> None:
    """Cut anywhere, a text gets the same verdict, which can be printed and sent."""
    found = judge_text([text], forced=forced, tokens=tokens)
    assert judge_text(cut(text, cuts), forced=forced, tokens=tokens) == found
    if found:
        assert found.what.isprintable()
        assert 0 < len(found.what) <= NAME_LIMIT
        assert found.message.encode()


@given(text=st.text(alphabet=st.characters(exclude_categories=()), max_size=300))
def test_any_text_has_a_printable_line(text: str) -> None:
    """One line of at most 40 characters, lone surrogates and control characters written out."""
    line = printable(text)
    assert len(line) <= NAME_LIMIT
    assert line.isprintable()
    assert line == line.encode().decode()


def test_half_characters_of_a_stream_do_not_make_a_fault() -> None:
    """Surrogates that a server cut apart, and a character that the limit cut, are not what the text is made of."""
    halves = [json.loads('"\\ud83d"'), json.loads('"\\ude00"')] * 4
    assert judge_text([*halves, " the lamp turned slowly", "\ufffd"]) is None


def test_a_token_of_any_tokenizer_stands_in_some_chunk() -> None:
    """The tokens of the made-up streams are the text that they were cut from, so that nothing was lost on the way."""
    for number in range(50):
        text = prose(random.Random(number))
        assert "".join(tokens_of(random.Random(number), text)) == text
        assert "".join(texts_of(stream_of(text, random.Random(number)))) == text


def test_events_without_text_are_no_text() -> None:
    """The role, the finish and the end of a stream bring no chunk."""
    assert read_chat(Event(b"[DONE]")).answer == ""
    assert texts_of(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\ndata: [DONE]\n\n') == []


@pytest.mark.parametrize("name", ["answer", "marker", "canary", "fingerprint"])
def test_verdicts_use_no_clock_thread_or_socket(name: str) -> None:
    """What judges answers is arithmetic on texts and numbers, so that any answer can be tried on it."""
    imported = {module.split(".")[0] for module, _ in imports_of(ROOT / "probe" / f"{name}.py")}
    assert imported.isdisjoint(CLOCKS_AND_THREADS)
