"""The networks that are part of the package: a card, weights for PyTorch, and the whole function as ONNX."""

from pathlib import Path

SHIPPED = Path(__file__).parent
"""The folder of their files."""
