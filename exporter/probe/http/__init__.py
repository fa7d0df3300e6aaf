"""The HTTP connection of a probe: httpx on an httpcore network backend whose socket gives the kernel's arrival times."""
