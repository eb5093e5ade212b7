"""Trains as `train.py` does, without batch statistics and dropout, and records the rows of each batch.

Batch statistics and dropout necessarily differ between one process and two; without them the same global batches give
the same weights. Started by test_processes.py, and by Lightning once more for the second process.
"""

import json
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from emotion.data.loader import BatchLoader
from emotion.training import task
from emotion.training.command import main

chunks = BatchLoader._chunks
order = BatchLoader._order


def keep_order(loader, generator):
    loader.drawn = order(loader, generator)
    return loader.drawn


def record(loader):
    for positions, sizes in chunks(loader):
        line = {"train": loader.shuffle, "epoch": loader.epoch, "rows": loader.drawn[positions].tolist()}
        with Path(os.environ["DRAWN"]).open("a") as file:
            file.write(json.dumps(line) + "\n")
        yield positions, sizes


def normalise_with_fixed_statistics(layer, inputs):
    mean, variance = torch.zeros(layer.num_features), torch.ones(layer.num_features)
    return F.batch_norm(inputs, mean, variance, layer.weight, layer.bias)


BatchLoader._order, BatchLoader._chunks = keep_order, record
nn.BatchNorm1d.forward = nn.BatchNorm2d.forward = normalise_with_fixed_statistics
nn.Dropout.forward = lambda layer, inputs: inputs
task.slow_statistics = lambda network, batches: []  # whose estimate would draw the batches once more

if __name__ == "__main__":
    main()
