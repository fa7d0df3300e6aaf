"""Model caches on disk → frozen facts (``facts``): sizes, completeness, waste, and what a roofline needs of the weights.

``folders.find_caches`` says where they are, ``scanner.Scanner`` scans one without holding anything up, ``verify``
hashes. A new layout is one module with a ``scan``, one row in ``layouts`` and its name in the settings.
"""
