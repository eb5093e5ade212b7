import asyncio
import threading
from collections.abc import Sequence

import pytest

from emotion.inference.batching import Batcher
from emotion.inference.faces import Detection
from emotion.inference.recognizer import DetectedFaces, Face

BAD = (255, 0, 1, 1)


class Network:
    """Answers each face with its own box, once it may."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.may = threading.Event()
        self.may.set()

    def __call__(self, found: Sequence[DetectedFaces]) -> list[list[Face]]:
        self.may.wait(10)
        self.calls.append([len(own) for own in found])
        if any(detection.box == BAD for own in found for detection in own.detections):
            raise ValueError("a bad picture")
        return [[Face(detection.box, "", {}) for detection in own.detections] for own in found]


def found(number: int, faces: int = 1) -> DetectedFaces:
    return DetectedFaces([Detection((number, face, 1, 1), None) for face in range(faces)], {})


def answered(number: int, faces: int = 1) -> list[Face]:
    return [Face((number, face, 1, 1), "", {}) for face in range(faces)]


def test_a_lone_request_is_judged_at_once() -> None:
    async def run() -> None:
        assert await Batcher(network).classify(found(7)) == answered(7)

    network = Network()
    asyncio.run(run())
    assert network.calls == [[1]]


def test_who_waits_during_a_call_shares_the_next_and_gets_the_own_answer() -> None:
    async def run() -> list[list[Face]]:
        batcher = Batcher(network, observe=seen.append)
        network.may.clear()
        asked = [asyncio.create_task(batcher.classify(found(n, n))) for n in range(1, 6)]
        await asyncio.sleep(0.05)
        network.may.set()
        return await asyncio.gather(*asked)

    network, seen = Network(), []
    answers = asyncio.run(run())
    for number, answer in enumerate(answers, 1):
        assert answer == answered(number, number)
    assert network.calls == [[1], [2, 3, 4, 5]] or network.calls == [[1, 2, 3, 4, 5]]
    assert sum(seen) == 15


@pytest.mark.parametrize(("most", "calls"), [(4, [[3], [1, 3], [5], [2]]), (1, [[3], [1], [3], [5], [2]])])
def test_calls_hold_so_many_faces_at_most_but_a_request_is_never_divided(most: int, calls: list[list[int]]) -> None:
    async def run() -> None:
        batcher = Batcher(network, most)
        network.may.clear()
        first = asyncio.create_task(batcher.classify(found(1, 3)))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(batcher.classify(found(2, faces))) for faces in (1, 3, 5, 2)]
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
            await batcher.classify(found(255))
        assert await batcher.classify(found(3)) == answered(3)

    network = Network()
    asyncio.run(run())


def test_who_gives_up_does_not_disturb_the_others() -> None:
    async def run() -> None:
        batcher = Batcher(network)
        network.may.clear()
        first, lost, kept = (asyncio.create_task(batcher.classify(found(n))) for n in (1, 2, 3))
        await asyncio.sleep(0.05)
        lost.cancel()
        await asyncio.sleep(0)
        network.may.set()
        assert await first == answered(1)
        assert await kept == answered(3)

    network = Network()
    asyncio.run(run())


def test_hundreds_at_once_get_their_own_answers() -> None:
    async def run() -> list[list[Face]]:
        batcher = Batcher(network, 16)
        return await asyncio.gather(*(batcher.classify(found(1000 + n)) for n in range(500)))

    network = Network()
    answers = asyncio.run(run())
    assert answers == [answered(1000 + n) for n in range(500)]
    assert len(network.calls) <= 40
