import os
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from emotion.data.storage import READ_AHEAD, Resident, Streamed, place

CPU = torch.device("cpu")


@pytest.fixture
def mapped(tmp_path) -> np.memmap:
    """Numbers 0..999 in rows of ten, mapped from disk behind a header."""
    path = tmp_path / "numbers.npy"
    np.save(path, np.arange(1000, dtype=np.int32).reshape(100, 10))
    return np.load(path, mmap_mode="c")


@pytest.mark.parametrize("kind", [Resident, Streamed])
@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_come_chunk_by_chunk_in_the_requested_order(mapped, kind, in_memory):
    array = np.array(mapped) if in_memory else mapped
    chunks = [torch.tensor(rows, dtype=torch.int64) for rows in ([5, 1, 99], [0], [], [7, 7, 3], [2], [50, 49])]
    values = list(kind(array, CPU).gather(iter(chunks)))
    assert len(values) == len(chunks)
    for rows, got in zip(chunks, values, strict=True):
        assert torch.equal(got, torch.from_numpy(np.array(mapped))[rows])


def test_slice_of_a_mapped_array_is_read_at_its_offset(mapped):
    (values,) = Streamed(mapped[40:], CPU).gather([torch.tensor([0, 3])])
    assert values[:, 0].tolist() == [400, 430]


def test_small_arrays_are_resident_and_larger_ones_streamed(mapped, caplog):
    caplog.set_level("INFO")
    assert isinstance(place(mapped, CPU), Resident)
    assert isinstance(place(mapped, CPU, budget=1), Resident)
    assert not caplog.messages
    assert isinstance(place(mapped, CPU, budget=0), Streamed)
    assert "memory_budget" in caplog.text


def test_half_of_the_free_memory_is_allowed(mapped, monkeypatch):
    for free, kind in ((2 * mapped.nbytes, Resident), (2 * mapped.nbytes - 1, Streamed)):
        monkeypatch.setattr("emotion.data.storage.free_memory", lambda device, free=free: free)
        assert isinstance(place(mapped, CPU), kind)


def test_streaming_reads_only_a_little_ahead(mapped):
    read = []

    def chunks():
        for number in range(50):
            read.append(number)
            yield torch.tensor([number])

    values = Streamed(mapped, CPU).gather(chunks())
    for number in range(20):
        assert next(values)[0, 0] == 10 * number
        assert len(read) <= number + 1 + READ_AHEAD
    values.close()
    assert not [thread for thread in threading.enumerate() if "read-ahead" in thread.name]


def test_errors_while_reading_ahead_reach_the_consumer(mapped):
    with pytest.raises(IndexError):
        list(Streamed(mapped, CPU).gather([torch.tensor([100])]))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_streaming_leaves_no_pages_in_memory(tmp_path):
    size = 256 * 2**20
    path = tmp_path / "large.u8"
    path.touch()
    os.truncate(path, size)
    array = np.memmap(path, np.uint8, "c", shape=(size // 4096, 4096))
    before = psutil.Process().memory_info().rss
    grown = {}
    for kind in (Streamed, Resident):
        for values in kind(array, CPU).gather(torch.arange(len(array)).split(512)):
            assert not values.any()
        grown[kind] = psutil.Process().memory_info().rss - before
    assert grown[Streamed] < size / 8
    assert grown[Resident] > size / 2


def test_streaming_goes_on_when_the_file_is_replaced(mapped):
    stored, expected = Streamed(mapped, CPU), torch.from_numpy(np.array(mapped))[[99, 3]]
    Path(mapped.filename).unlink()
    Path(mapped.filename).write_bytes(bytes(mapped.nbytes))
    (values,) = stored.gather([torch.tensor([99, 3])])
    assert torch.equal(values, expected)
