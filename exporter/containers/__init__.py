"""Containers that run inference servers: what they are, where they answer, which ROCm and which switches they bring."""
