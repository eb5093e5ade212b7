import pytest
import roofline
import torch
from roofline import Work, bytes_per_second, count, flops_per_second


def test_a_matrix_product_reads_two_matrices_and_writes_one() -> None:
    left, right = torch.zeros(2, 3), torch.zeros(3, 5)
    assert count(lambda: left @ right) == Work(2 * 2 * 3 * 5, 4 * (2 * 3 + 3 * 5 + 2 * 5))


def test_views_and_fresh_memory_move_nothing() -> None:
    values = torch.zeros(4, 6)
    assert count(lambda: values.view(6, 4).t()[1:].unsqueeze(0).expand(2, 3, 6)) == Work(0, 0)
    assert count(lambda: (torch.empty_like(values), values.new_empty(5))) == Work(0, 0)


def test_overwritten_tensors_are_not_read() -> None:
    values, others = torch.zeros(100), torch.ones(100)
    assert count(lambda: values.fill_(1)).bytes_moved == 400
    assert count(lambda: values.copy_(others)).bytes_moved == 800
    assert count(lambda: torch.zeros_like(values)).bytes_moved == 400
    assert count(lambda: values.add_(others)).bytes_moved == 1200


def test_backward_passes_count() -> None:
    layer, images = torch.nn.Linear(8, 4), torch.zeros(16, 8)
    forward = count(lambda: layer(images)).flops
    assert forward == 2 * 16 * 8 * 4
    assert count(lambda: layer(images).sum().backward()).flops == 2 * forward


def test_an_optimiser_step_reads_and_writes_parameters_and_averages() -> None:
    layer = torch.nn.Linear(8, 4)
    layer(torch.zeros(16, 8)).sum().backward()
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    optimizer.step()
    # Read and written: parameters, gradients (which a step may scale), two averages, and step counts of a few bytes.
    values = 4 * (8 * 4 + 4) * (4 + 4)
    assert values < count(optimizer.step).bytes_moved <= values + 100


def test_ceilings_follow_from_the_fastest_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SIDE", 64)
    monkeypatch.setattr(roofline, "COPY_BYTES", 4096)
    monkeypatch.setattr(roofline, "seconds", lambda work, repeats: (work(), [2.0, 0.5, 1.0])[1])
    assert flops_per_second(torch.float32) == 2 * 64**3 / 0.5
    assert bytes_per_second() == 2 * 4096 / 0.5


def test_every_repeat_is_timed() -> None:
    calls: list[int] = []
    assert len(roofline.seconds(lambda: calls.append(0), 3)) == len(calls) == 3
