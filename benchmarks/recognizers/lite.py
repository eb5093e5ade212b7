"""Counts the parameters of a TensorFlow Lite file; only environments with TensorFlow import this module."""

from math import prod
from pathlib import Path


def lite_parameters(path: Path) -> int:
    """Counts the constants of a network, of any precision; batch normalisation is part of the convolutions there.

    Integers of 32 and 64 bits are counted only if they are biases, that is, have a scale; others are shapes and axes.
    """
    from tensorflow.lite.python.schema_py_generated import Model, TensorType

    model = Model.GetRootAs(path.read_bytes())
    whole = {TensorType.INT32, TensorType.INT64, TensorType.BOOL}
    count, seen = 0, set()
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            stored = model.Buffers(tensor.Buffer()).DataLength() > 0 and tensor.Buffer() not in seen
            scaled = tensor.Quantization() is not None and tensor.Quantization().ScaleLength() > 0
            if stored and (tensor.Type() not in whole or scaled):
                seen.add(tensor.Buffer())
                count += prod(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else 1
    return count
