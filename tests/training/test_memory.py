import platform
import subprocess
import sys

import pytest
import torch
from small_runs import train
from torch import nn

from emotion.errors import UserError

CUDA_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "error",
    [
        CUDA_ERROR,
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000000 bytes."),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_names_what_decides_on_it(tmp_path, monkeypatch, error):
    def forward(self, images):
        raise error

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    with pytest.raises(UserError, match="out of memory with batch_size=32 and image_size=48: try batch_size=16 "):
        train(tmp_path / "run", "trainer.max_epochs=1")


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    def forward(self, images):
        raise RuntimeError("something else")

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    with pytest.raises(RuntimeError, match="something else"):
        train(tmp_path / "run", "trainer.max_epochs=1")


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds of malloc")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    code = """
import resource, torch
from emotion.models.cnn import build_cnn
from emotion.training.memory import keep_freed_memory
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
