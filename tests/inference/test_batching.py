import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from emotion.inference.batching import Batcher
from emotion.inference.faces import Box

BOX = (0, 0, 1, 1)


class Network:
    """Answers each face with its picture's number and the face's own, once it may."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.may = threading.Event()
        self.may.set()

    def __call__(self, pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[Sequence[Box]]) -> NDArray[np.float32]:
        self.may.wait(10)
        self.calls.append([len(own) for own in boxes])
        if any(picture[0, 0] == 255 for picture in pictures):
            raise ValueError("a bad picture")
        rows = [[picture[0, 0], box[0]] for picture, own in zip(pictures, boxes, strict=True) for box in own]
        return np.array(rows, np.float32).reshape(-1, 2)


def picture(number: int) -> NDArray[np.uint8]:
    return np.full((1, 1), number, np.uint8)


def test_a_lone_request_is_judged_at_once() -> None:
    async def run() -> None:
        answer = await Batcher(network).judge(picture(7), [BOX])
        assert answer.tolist() == [[7, 0]]

    network = Network()
    asyncio.run(run())
    assert network.calls == [[1]]


def test_who_waits_during_a_call_shares_the_next_and_gets_the_own_answer() -> None:
    async def run() -> list[NDArray[np.float32]]:
        batcher = Batcher(network, observe=seen.append)
        network.may.clear()
        asked = [asyncio.create_task(batcher.judge(picture(n), [(k, 0, 1, 1) for k in range(n)])) for n in range(1, 6)]
        await asyncio.sleep(0.05)
        network.may.set()
        return await asyncio.gather(*asked)

    network, seen = Network(), []
    answers = asyncio.run(run())
    for number, answer in enumerate(answers, 1):
        assert answer.tolist() == [[number, face] for face in range(number)]
    assert network.calls == [[1], [2, 3, 4, 5]] or network.calls == [[1, 2, 3, 4, 5]]
    assert sum(seen) == 15


@pytest.mark.parametrize(("most", "calls"), [(4, [[3], [1, 3], [5], [2]]), (1, [[3], [1], [3], [5], [2]])])
def test_calls_hold_so_many_faces_at_most_but_a_request_is_never_divided(most: int, calls: list[list[int]]) -> None:
    async def run() -> None:
        batcher = Batcher(network, most)
        network.may.clear()
        first = asyncio.create_task(batcher.judge(picture(1), [BOX] * 3))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(batcher.judge(picture(2), [BOX] * faces)) for faces in (1, 3, 5, 2)]
        await asyncio.sleep(0.05)
        network.may.set()
        await asyncio.gather(first, *rest)

    network = Network()
    asyncio.run(run())
    assert network.calls == calls


def test_an_error_reaches_those_in_the_call_and_the_next_call_works() -> None:
    async def run() -> None:
        batcher = Batcher(network)
        with pytest.raises(ValueError, match="a bad picture"):
            await batcher.judge(picture(255), [BOX])
        assert (await batcher.judge(picture(3), [BOX])).tolist() == [[3, 0]]

    network = Network()
    asyncio.run(run())


def test_who_gives_up_does_not_disturb_the_others() -> None:
    async def run() -> None:
        batcher = Batcher(network)
        network.may.clear()
        first, lost, kept = (asyncio.create_task(batcher.judge(picture(n), [BOX])) for n in (1, 2, 3))
        await asyncio.sleep(0.05)
        lost.cancel()
        await asyncio.sleep(0)
        network.may.set()
        assert (await first).tolist() == [[1, 0]]
        assert (await kept).tolist() == [[3, 0]]

    network = Network()
    asyncio.run(run())


def test_hundreds_at_once_get_their_own_answers() -> None:
    async def run() -> list[NDArray[np.float32]]:
        batcher = Batcher(network, 16)
        return await asyncio.gather(*(batcher.judge(picture(n % 250), [(n, 0, 1, 1)]) for n in range(500)))

    network = Network()
    answers = asyncio.run(run())
    assert [answer.tolist() for answer in answers] == [[[n % 250, n]] for n in range(500)]
    assert len(network.calls) <= 40
