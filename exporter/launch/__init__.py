"""How inference servers are started: command lines and environments → what a server runs, where, and how fast it can be.

Pure, and a leaf: containers and processes are read by the same parser.
"""
