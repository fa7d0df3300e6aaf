"""Containers that run inference servers: what they are, where they answer, which ROCm they contain, and with which options they were started."""
