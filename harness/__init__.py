"""Rampart's evaluation half: submissions in, per-example records out. Importing it does nothing."""

__version__ = "0.1.0"
