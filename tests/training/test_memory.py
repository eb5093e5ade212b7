import platform
import resource
from pathlib import Path

import pytest
import torch
from small_runs import SMALL, finish, processes, train
from torch import nn

from emotion.config import compose
from emotion.errors import UserError
from emotion.models.registry import build_network
from emotion.training import run as training
from emotion.training.folder import RunFolder, read_json
from emotion.training.memory import fitting_batch_size, keep_freed_memory, training_step

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


@pytest.mark.parametrize(("most", "expected"), [(8, 8), (100, 64), (511, 256), (10**6, 1024)])
def test_the_largest_batch_that_fits_is_found(most, expected):
    tried = []

    def step(size):
        tried.append(size)
        if size > most:
            raise CUDA_ERROR

    assert fitting_batch_size(step) == expected
    assert tried == [size for size in (8, 16, 32, 64, 128, 256, 512, 1024) if size <= 2 * expected]


def test_where_nothing_fits_a_sentence_says_so():
    def step(size):
        raise CUDA_ERROR

    with pytest.raises(UserError, match="not even 8 images fit"):
        fitting_batch_size(step)


def test_other_errors_of_a_step_stay_what_they_are():
    def step(size):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fitting_batch_size(step)


def test_what_is_tried_is_a_step_of_training():
    network = build_network(family="cnn", image_size=48, normalize="unit", blocks=[1, 1])
    before = [parameter.clone() for parameter in network.parameters()]
    step = training_step(network, torch.device("cpu"))
    sizes = []
    network.register_forward_hook(lambda module, inputs, outputs: sizes.append(tuple(inputs[0].shape)))
    for size in (8, 16):
        step(size)
    assert sizes == [(8, 1, 48, 48), (16, 1, 48, 48)]
    assert any(not torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True))


def test_auto_stands_for_the_number_that_was_found(tmp_path, monkeypatch):
    """The number is written down, so that the same command goes on with it wherever it runs next."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(training, "training_step", lambda network, device: (network, device))
    found = []
    monkeypatch.setattr(training, "fitting_batch_size", lambda step: found.append(step) or 16)
    words = [*SMALL[:3], "batch_size=auto"]
    configs = [compose(*words) for _ in range(2)]
    folder = RunFolder(tmp_path)
    training._resolve_batch_size(configs[0], folder)
    assert configs[0].batch_size == 16
    ((network, device),) = found
    assert device == torch.device("cuda", 0)
    assert network.count_parameters().total == 1_276_295
    folder.claim(configs[0], {}, 0)
    training._resolve_batch_size(configs[1], folder)
    assert (configs[1].batch_size, len(found)) == (16, 1)
    folder.claim(configs[1], {}, 0)
    assert read_json(folder.environment) == {}


def test_auto_needs_a_gpu(tmp_path):
    with pytest.raises(UserError, match="batch_size=auto: only the memory of a GPU can be tried"):
        train(tmp_path, "batch_size=auto", "trainer.max_epochs=1")


def count_faults(keep: bool, file: Path) -> None:
    """Writes how often five steps asked the system for memory, after five others."""
    if keep:
        keep_freed_memory()
    network, images = (
        build_network(family="cnn", image_size=48, normalize="unit", blocks=[1, 1]),
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
