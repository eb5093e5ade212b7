"""Facial emotion recognition that people can train, trust and use."""

__version__ = "0.1.0"
