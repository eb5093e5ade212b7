"""What a run records of the machine."""

import pytest
import torch

from emotion.training.environment import describe_hardware


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [
        ("cpu", 1, "a processor, 16 cores"),
        ("cpu", 2, "a processor, 16 cores"),
        ("cuda", 1, "A"),
        ("cuda:1", 1, "B"),
        ("cuda:0", 2, "2 x A"),
    ],
)
def test_the_hardware_is_that_which_was_used(device, count, expected):
    environment = {"cpu": "a processor", "cores": 16, "gpus": ["A", "B"]}
    assert describe_hardware(environment, torch.device(device), count) == expected
