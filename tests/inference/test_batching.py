import asyncio
import threading
from collections.abc import Sequence

import pytest

from emotion.inference.batching import Batcher
from emotion.inference.faces import Detection
from emotion.inference.recognizer import DetectedFaces, Face

BAD = (255, 0, 1, 1)


class Network:
    """Returns for each face a face with the same box, once `ready` is set."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.ready = threading.Event()
        self.ready.set()

    def __call__(self, images: Sequence[DetectedFaces]) -> list[list[Face]]:
        self.ready.wait(10)
        self.calls.append([len(image) for image in images])
        if any(detection.box == BAD for image in images for detection in image.detections):
            raise ValueError("a bad image")
        return [[Face(detection.box, "", {}) for detection in image.detections] for image in images]


def detected(number: int, faces: int = 1) -> DetectedFaces:
    return DetectedFaces([Detection((number, face, 1, 1), None) for face in range(faces)], {})


def expected(number: int, faces: int = 1) -> list[Face]:
    return [Face((number, face, 1, 1), "", {}) for face in range(faces)]


def test_a_single_request_is_classified_at_once() -> None:
    async def run() -> None:
        assert await Batcher(network).classify(detected(7)) == expected(7)

    network = Network()
    asyncio.run(run())
    assert network.calls == [[1]]


def test_requests_during_a_call_share_the_next_and_get_their_own_answers() -> None:
    async def run() -> list[list[Face]]:
        batcher = Batcher(network, observe=sizes.append)
        network.ready.clear()
        asked = [asyncio.create_task(batcher.classify(detected(n, n))) for n in range(1, 6)]
        await asyncio.sleep(0.05)
        network.ready.set()
        return await asyncio.gather(*asked)

    network, sizes = Network(), []
    answers = asyncio.run(run())
    for number, answer in enumerate(answers, 1):
        assert answer == expected(number, number)
    assert network.calls == [[1], [2, 3, 4, 5]] or network.calls == [[1, 2, 3, 4, 5]]
    assert sum(sizes) == 15


@pytest.mark.parametrize(("max_faces", "calls"), [(4, [[3], [1, 3], [5], [2]]), (1, [[3], [1], [3], [5], [2]])])
def test_calls_are_limited_but_a_request_is_never_split(max_faces: int, calls: list[list[int]]) -> None:
    async def run() -> None:
        batcher = Batcher(network, max_faces)
        network.ready.clear()
        first = asyncio.create_task(batcher.classify(detected(1, 3)))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(batcher.classify(detected(2, faces))) for faces in (1, 3, 5, 2)]
        await asyncio.sleep(0.05)
        network.ready.set()
        await asyncio.gather(first, *rest)

    network = Network()
    asyncio.run(run())
    assert network.calls == calls


def test_an_error_reaches_the_requests_of_its_call_and_the_next_call_works() -> None:
    async def run() -> None:
        batcher = Batcher(network)
        with pytest.raises(ValueError, match="a bad image"):
            await batcher.classify(detected(255))
        assert await batcher.classify(detected(3)) == expected(3)

    network = Network()
    asyncio.run(run())


def test_a_cancelled_request_does_not_disturb_the_others() -> None:
    async def run() -> None:
        batcher = Batcher(network)
        network.ready.clear()
        first, cancelled, kept = (asyncio.create_task(batcher.classify(detected(n))) for n in (1, 2, 3))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await asyncio.sleep(0)
        network.ready.set()
        assert await first == expected(1)
        assert await kept == expected(3)

    network = Network()
    asyncio.run(run())


def test_hundreds_of_concurrent_requests_get_their_own_answers() -> None:
    async def run() -> list[list[Face]]:
        batcher = Batcher(network, 16)
        return await asyncio.gather(*(batcher.classify(detected(1000 + n)) for n in range(500)))

    network = Network()
    answers = asyncio.run(run())
    assert answers == [expected(1000 + n) for n in range(500)]
    assert len(network.calls) <= 40
