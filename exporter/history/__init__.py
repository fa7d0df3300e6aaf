"""What changed, and what it cost: the ledger of one target's facts and speeds, and the file that keeps it over restarts.

``change`` turns facts and samples into changes with their effects, by the test in ``ratio``. ``steps`` finds what no fact
explains. ``record`` keeps counters, histograms and the newest probes. ``store`` keeps the rest in SQLite. ``compare`` answers
``TARGET@TIME``. All but ``store`` is pure: time comes in.
"""
