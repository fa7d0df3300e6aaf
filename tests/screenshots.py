"""Draw the status page in every state, for a person to look at: ``python -m tests.screenshots FOLDER``.

Each scene as page, board and page with open details, and each state alone on its page; at 360 and 1280 pixels, light and dark.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.real.pages import SCENES, Scene, browser, serving
from tests.states import STATES, publish_states

WIDTHS: Final = (360, 1280)
SCHEMES: Final = ("light", "dark")
OPEN: Final = "for (const each of document.querySelectorAll('details')) each.open = true"


def alone(state: str) -> Scene:
    """A page with one server, in this state."""
    return lambda snapshot: publish_states(snapshot, [state])


def draw(chromium: Any, folder: Path, name: str, scene: Scene) -> Iterator[Path]:
    """Draw one scene in each width and scheme; give the files."""
    with serving(scene) as (_, port):
        for width in WIDTHS:
            for scheme in SCHEMES:
                context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
                page = context.new_page()
                for path, script, view in (("", "", "page"), ("", OPEN, "open"), ("?board", "", "board")):
                    page.goto(f"http://127.0.0.1:{port}/{path}")
                    page.evaluate(script)
                    drawn = folder / f"{name}-{width}-{scheme}-{view}.png"
                    page.screenshot(path=drawn, full_page=True)
                    yield drawn
                context.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what the arguments name, by default all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures are written")
    scenes = {**SCENES, **{f"alone-{state}": alone(state) for state in STATES}}
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=f"any of {', '.join(SCENES)}, alone-STATE")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.scenes) - scenes.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with browser() as chromium:
        for name in chosen.scenes or scenes:
            for drawn in draw(chromium, chosen.folder, name, scenes[name]):
                print(drawn)


if __name__ == "__main__":
    main()
