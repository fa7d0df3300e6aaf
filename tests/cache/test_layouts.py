"""The table of layouts and what the settings take."""

from typing import get_args

from exporter.cache.layouts import LAYOUTS
from exporter.settings import CacheKind


def test_the_settings_take_every_layout_that_may_be_configured() -> None:
    """A layout that the settings don't know would be refused by check-config, whatever the cache room can scan."""
    assert get_args(CacheKind) == tuple(kind for kind, layout in LAYOUTS.items() if layout.configurable)
