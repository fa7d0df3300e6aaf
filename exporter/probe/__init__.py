"""Probing: what a client of an inference server sees.

Importing httpx imports its command line too, if click and rich are installed as they are here: rich and Pygments, 4 MB that
the daemon never uses. None in ``sys.modules`` makes that import fail, and httpx then works without it. It must
stand here, since every file that imports httpx is in this package.
"""

import sys

sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None is allowed, whatever typeshed says
