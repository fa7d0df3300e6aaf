"""The environment of the templates. Jinja is loaded with the first page: a daemon that is only scraped never needs its 2 MB."""

from typing import TYPE_CHECKING

from exporter.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def _visible(value: object) -> object:
    """What a template shows, without what can't be seen: markup is ours, any other text may come from a server or a file."""
    return printable(value, len(value)) if type(value) is str else value


def new_environment() -> "Environment":
    """An environment for the templates of this package: everything is escaped, and an unknown name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    return Environment(
        loader=PackageLoader("exporter.web"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
