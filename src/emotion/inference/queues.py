"""Places for requests to the HTTP service; a request that finds none is refused, so that queues stay short."""

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException


class Slots:
    """A fixed number of slots, each held by one request; a request that finds no free slot is refused.

    Args:
        number: number of slots.
        retry: seconds after which a refused request may try again, for the header of its answer.
        reason: why a request is refused, for its answer.
    """

    def __init__(self, number: int, retry: int = 1, reason: str = "too many requests") -> None:
        self.number, self.retry, self.reason, self.taken = number, retry, reason, 0

    async def wait(self, seconds: float) -> None:
        """Waits until a slot is free, or until the seconds are over."""
        end = time.monotonic() + seconds
        while self.taken >= self.number and time.monotonic() < end:
            await asyncio.sleep(0.02)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds a slot until the block ends.

        Raises:
            HTTPException: 503, no slot is free.
        """
        if self.taken >= self.number:
            raise HTTPException(503, f"{self.reason}: try again later", {"Retry-After": str(self.retry)})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Queue:
    """Images that wait for one of several threads; a request that would wait too long is refused.

    The time of an image is estimated from the images before it, as an average that fades.

    Args:
        threads: number of threads.
        seconds: longest expected wait, seconds.

    Attributes:
        images: images that wait or are in a thread.
        seconds_per_image: estimated time of an image in its thread, seconds; 0 before the first one.
    """

    FADING = 0.1
    """Share of the newest image in the estimate."""

    def __init__(self, threads: int, seconds: float) -> None:
        self.threads, self.seconds = threads, seconds
        self.images, self.seconds_per_image = 0, 0.0

    @property
    def wait(self) -> float:
        """Expected seconds until a thread is free for a further image; 0 if one is free now."""
        return max(0, self.images - self.threads + 1) * self.seconds_per_image / self.threads

    @contextmanager
    def hold(self, images: int) -> Iterator[None]:
        """Counts the images of a request until the block ends.

        Raises:
            HTTPException: 503, the wait would be too long.
        """
        if self.wait > self.seconds:
            message = f"too many requests: the wait would be {self.wait:.1f} s, try again later"
            raise HTTPException(503, message, {"Retry-After": str(math.ceil(self.wait))})
        self.images += images
        try:
            yield
        finally:
            self.images -= images

    def observe(self, seconds: float) -> None:
        """Adds the time of an image in its thread to the estimate."""
        share = self.FADING if self.seconds_per_image else 1
        self.seconds_per_image += share * (seconds - self.seconds_per_image)
