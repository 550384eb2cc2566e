"""Measurements of speed, memory and start-up, each a script of its own; see README.md."""
