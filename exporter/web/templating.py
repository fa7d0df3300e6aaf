"""The environment of the templates. Jinja is loaded with the first page: a daemon that is only scraped never needs its 2 MB."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def new_environment() -> "Environment":
    """An environment for the templates of this package: everything is escaped, and an unknown name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    return Environment(
        loader=PackageLoader("exporter.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
