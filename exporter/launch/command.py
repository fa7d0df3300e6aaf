"""Command lines of servers: words out of shell scripts, options out of words. Pure; nothing here is kept or logged."""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename
from typing import Final

SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "zsh", "fish", "busybox"})
_SHELL_SCRIPT_FLAG = re.compile(r"-[A-Za-z]*c[A-Za-z]*")
_OPERATORS: Final = frozenset("();<>|&\n")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_VARIABLE = re.compile(r"\$(?:(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?::?-(?P<default>[^}]*))?\})")
_NESTED_SHELLS: Final = 3


def commands_in(words: Sequence[str], depth: int = 0) -> Iterator[tuple[str, ...]]:
    """The simple commands that ``words`` run: those of a shell's ``-c`` script, at any reasonable depth, else ``words``.

    A script that is not valid shell is split at its blanks.
    """
    script = _script(words)
    if script is None or depth >= _NESTED_SHELLS:
        yield tuple(words)
        return
    for command in _split_script(script):
        yield from commands_in(command, depth + 1)


def _script(words: Sequence[str]) -> str | None:
    """The script of the first shell in ``words`` that is given one with ``-c`` (``bash -eo pipefail -c "…"``)."""
    shell = next((at for at, word in enumerate(words) if basename(word) in SHELLS), None)
    rest = [] if shell is None else list(words[shell + 1 :])
    while len(rest) > 1:
        flag = rest.pop(0)
        if _SHELL_SCRIPT_FLAG.fullmatch(flag):
            return rest[0]
        if re.fullmatch(r"[-+][A-Za-z]*o", flag):
            rest.pop(0)
        elif not flag.startswith(("-", "+")) and flag not in SHELLS:
            return None
    return None


def _split_script(script: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(script.replace("\\\n", " "), posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        words = script.split()
    command: list[str] = []
    for word in [*words, ";"]:
        if word and _OPERATORS.issuperset(word):
            if command and not command[0].startswith("#"):
                yield tuple(command)
            command = []
        else:
            command.append(word)


def assignments(commands: Sequence[Sequence[str]], names: re.Pattern[str]) -> dict[str, str]:
    """Variables that the commands set for themselves or export (``A=1 vllm serve``), only those whose name matches."""
    found = {}
    for command in commands:
        for word in command:
            if _ASSIGNMENT.match(word):
                name, _, value = word.partition("=")
                if names.fullmatch(name):
                    found[name] = value
            elif basename(word) not in {"export", "env", "exec"}:
                break
    return found


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of a server as options and positionals; names without dashes, with ``-`` for ``_``.

    Holds every argument, keys included: read it, don't keep it.
    """

    named: tuple[tuple[str, str], ...] = ()
    flags: frozenset[str] = frozenset()
    positional: tuple[str, ...] = ()

    def values(self, *names: str) -> tuple[str, ...]:
        """The values of the options that bear one of ``names``, in their order."""
        return tuple(value for name, value in self.named if name in names)

    def value(self, *names: str) -> str | None:
        """The value of the option that bears one of ``names``, the last one given as in argparse; None without one."""
        values = self.values(*names)
        return values[-1] if values else None

    def has(self, *names: str) -> bool:
        """Whether one of ``names`` is given, with a value or without."""
        return not self.flags.isdisjoint(names) or any(name in names for name, _ in self.named)


def parse_options(words: Sequence[str], flags: Collection[str] = (), single: Collection[str] = ()) -> Options:
    """Read ``--name value``, ``--name=value``, ``--na_me`` and ``-n value``.

    A word after an option is its value unless it begins with a dash or the option is a flag: one of ``flags``, or one that
    begins with ``enable-``, ``disable-`` or ``no-``. The servers have hundreds of options, and most take a value. A word is a
    positional argument only if no option can claim it: first, after another, after a flag, or after the value of one of
    ``single``. What follows ``--api-key A`` may be a second key.
    """
    named: list[tuple[str, str]] = []
    given: set[str] = set()
    positional: list[str] = []
    rest = list(words)
    sure = True
    while rest:
        word = rest.pop(0)
        if not re.match(r"--?[A-Za-z]", word):
            if sure:
                positional.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("_", "-")
        takes_none = _is_flag(name, flags)
        if equals:
            named.append((name, value))
            sure = True
        elif rest and not re.match(r"--?[A-Za-z]", rest[0]) and not takes_none:
            named.append((name, rest.pop(0)))
            sure = name in single
        else:
            given.add(name)
            sure = takes_none
    return Options(tuple(named), frozenset(given), tuple(positional))


def _is_flag(name: str, flags: Collection[str]) -> bool:
    return name in flags or name.startswith(("enable-", "disable-", "no-"))


def expand(text: str | None, environment: Mapping[str, str]) -> str | None:
    """``$NAME``, ``${NAME}`` and ``${NAME:-default}`` replaced from ``environment``; None if one is not known."""
    if text is None:
        return None
    unknown = False

    def value(found: re.Match[str]) -> str:
        nonlocal unknown
        known = environment.get(found["bare"] or found["braced"]) or found["default"]
        unknown = unknown or known is None
        return known or ""

    expanded = _VARIABLE.sub(value, text).strip()
    return None if unknown or not expanded else expanded
