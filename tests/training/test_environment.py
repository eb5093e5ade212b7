import platform
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    code = """
import resource, torch
from emotion.models.cnn import build_cnn
from emotion.training.environment import keep_freed_memory
{call}
network, images = build_cnn([2, 2, 1, 1], 48, "unit", 7), torch.rand(64, 1, 48, 48)
def steps(count):
    for _ in range(count):
        network.zero_grad()
        network(images).sum().backward()
steps(5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = []
    for call in ("", "keep_freed_memory()"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(call=call)], capture_output=True, text=True, check=True
        )
        faults.append(int(done.stdout))
    assert faults[1] < faults[0] / 5, faults
