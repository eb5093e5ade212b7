import platform
import resource
from pathlib import Path

import pytest
import torch
from builders import make_network
from small_runs import finish, processes, train
from torch import nn

from emotion.errors import UserError
from emotion.training.memory import keep_freed_memory

CUDA_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "error",
    [
        CUDA_ERROR,
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000000 bytes."),
        MemoryError(),
    ],
)
@pytest.mark.training
def test_out_of_memory_error_advises_on_the_batch_size(tmp_path, monkeypatch, error):
    def forward(self, images):
        raise error

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    with pytest.raises(UserError, match="out of memory with batch_size=32 and image_size=24: try batch_size=16 "):
        train(tmp_path / "run", "trainer.max_epochs=1")


@pytest.mark.training
def test_other_errors_are_unchanged(tmp_path, monkeypatch):
    def forward(self, images):
        raise RuntimeError("something else")

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    with pytest.raises(RuntimeError, match="something else"):
        train(tmp_path / "run", "trainer.max_epochs=1")


def count_faults(keep: bool, file: Path) -> None:
    """Writes the number of page faults of five steps, after five others."""
    if keep:
        keep_freed_memory()
    network, images = (
        make_network(family="cnn", image_size=48, normalize="unit", blocks=[1, 1]),
        torch.rand(64, 1, 48, 48),
    )

    def steps() -> int:
        for _ in range(5):
            network.zero_grad()
            network(images).sum().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    file.write_text(str(-steps() + steps()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds of malloc")
def test_memory_that_a_step_frees_is_kept_for_the_next(tmp_path):
    faults = []
    for keep in (False, True):
        process = processes.Process(target=count_faults, args=(keep, tmp_path / "faults"))
        process.start()
        assert finish(process) == 0
        faults.append(int((tmp_path / "faults").read_text()))
    assert faults[1] < faults[0] / 5, faults
