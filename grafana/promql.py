"""PromQL as it is written in the sources here, and what it becomes.

Sources write ``@module`` and ``@target`` for the labels that tell one probe, or one server, from another. Durations in ranges,
offsets and ``<10m>`` (a number of seconds inside an expression) are those of a probe every minute, and are multiplied by the
time scale.
"""

import re
from collections.abc import Iterator
from typing import Final

import promql_parser

MODULE: Final = "job, instance, target, module"
TARGET: Final = "job, instance, target"
_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"(\d+)(ms|s|m|h|d)")
_SCALED: Final = re.compile(r"(?P<before>\[|offset |<)(?P<duration>(?:\d+(?:ms|s|m|h|d))+)(?P<after>\]|>|\b)")


def milliseconds(duration: str) -> int:
    """A Prometheus duration such as ``1h30m`` in milliseconds."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f"not a duration: {duration!r}")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def scaled(duration: str, scale: float) -> str:
    """The duration times the scale, in whole milliseconds, never below one second unless it already was."""
    whole = milliseconds(duration)
    left = max(round(whole * scale), min(whole, 1000))
    text = ""
    for unit, size in sorted(_UNITS.items(), key=lambda item: -item[1]):
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def expand(source: str, scale: float = 1.0) -> str:
    """The expression with its labels written out and its durations scaled."""

    def replace(match: re.Match[str]) -> str:
        if match["before"] == "<":
            return f"{milliseconds(scaled(match['duration'], scale)) / 1000:g}"
        return match["before"] + scaled(match["duration"], scale) + match["after"]

    return _SCALED.sub(replace, source.replace("@module", MODULE).replace("@target", TARGET))


def fill(expression: str) -> str:
    """The expression with dashboard variables and intervals replaced by something that parses."""
    expression = re.sub(r"(\[|offset )\$\w+", r"\g<1>5m", expression)
    expression = re.sub(r"((?:top|bottom)k\()\$\w+", r"\g<1>5", expression)
    return re.sub(r"\$\{?\w+\}?", "x", expression)


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    """Every vector selector of the expression, in no particular order. Raises ``ValueError`` if it does not parse."""
    try:
        tree = promql_parser.parse(fill(expression))
    except ValueError as error:
        raise ValueError(f"{error}: {expression}") from error
    yield from _selectors(tree)


def _selectors(node: object) -> Iterator[promql_parser.VectorSelector]:
    match node:
        case promql_parser.VectorSelector():
            yield node
        case promql_parser.MatrixSelector():
            yield from _selectors(node.vector_selector)
        case promql_parser.BinaryExpr():
            yield from _selectors(node.lhs)
            yield from _selectors(node.rhs)
        case promql_parser.Call():
            for argument in node.args:
                yield from _selectors(argument)
        case (
            promql_parser.AggregateExpr()
            | promql_parser.ParenExpr()
            | promql_parser.UnaryExpr()
            | promql_parser.SubqueryExpr()
        ):
            yield from _selectors(node.expr)


def metrics(expression: str) -> set[str]:
    """Names of the series that the expression reads, as it reads them (``…_bucket`` stays ``…_bucket``)."""
    return {selector.name for selector in selectors(expression) if selector.name}
