from dataclasses import replace

import pytest
import torch
from contestants import floor, limit
from contestants.floor import Work, bytes_per_second, count, operations_per_second
from workloads import Job

JOB = Job("cnn", "faces", batch_size=64, epochs=2, precision="32-true", workers=0, feature_views=0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "SIDE", 64)
    monkeypatch.setattr(floor, "COPIED", 4096)


def test_a_matrix_product_reads_both_and_writes_one() -> None:
    left, right = torch.zeros(2, 3), torch.zeros(3, 5)
    assert count(lambda: left @ right) == Work(2 * 2 * 3 * 5, 4 * (2 * 3 + 3 * 5 + 2 * 5))


def test_views_and_fresh_memory_move_nothing() -> None:
    values = torch.zeros(4, 6)
    assert count(lambda: values.view(6, 4).t()[1:].unsqueeze(0).expand(2, 3, 6)) == Work(0, 0)
    assert count(lambda: torch.empty_like(values)) == Work(0, 0)


def test_backward_passes_and_lists_of_tensors_count() -> None:
    layer = torch.nn.Linear(8, 4)
    images = torch.zeros(16, 8)
    forward = count(lambda: layer(images))
    both = count(lambda: layer(images).sum().backward())
    assert forward.operations == 2 * 16 * 8 * 4
    assert both.operations == 2 * forward.operations
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    step = count(optimizer.step).traffic
    assert step >= 4 * 36 * (4 + 3)  # parameters, gradients and two averages are read, all but gradients written


def test_seconds_follow_from_work_and_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "operations_per_second", lambda dtype: 1000.0 if dtype == torch.float32 else 4000.0)
    monkeypatch.setattr(limit, "bytes_per_second", lambda: 100.0)
    train, val = Work(operations=3000, traffic=40), Work(operations=1000, traffic=10)
    result = limit.floor(JOB, 640, 128, train, val)
    assert result["floor_seconds"] == pytest.approx((10 * 3000 + 2 * 1000) / 1000)
    assert result["traffic_seconds"] == pytest.approx((10 * 40 + 2 * 10) / 100)
    assert result["work"]["operations"] == 32_000
    mixed = limit.floor(replace(JOB, precision="bf16-mixed"), 640, 128, train, val)
    assert mixed["floor_seconds"] == pytest.approx(32 / 4)


def test_ceilings_are_those_of_this_device() -> None:
    assert operations_per_second(torch.float32) > 1e6
    assert bytes_per_second() > 1e6
