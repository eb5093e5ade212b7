"""Limits of the HTTP service on the size, duration and number of requests."""

import math
from dataclasses import asdict, dataclass

from emotion.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Upper limits for one request, and for the number of concurrent requests.

    Uploads take at most (uploads + requests) * megabytes of memory, and one upload three times its size while it is
    joined or taken from its form or its JSON.

    Attributes:
        megabytes: size of an upload, in units of 10^6 bytes.
        images: number of images in an upload.
        faces: number of classified faces per image; the largest faces are classified.
        upload_seconds: time for an upload to arrive.
        seconds: time from the last byte of the upload to the answer.
        wait: expected seconds until a thread is free for a request; beyond them it is refused at once.
        uploads: number of uploads that arrive at the same time; a further one is refused at once.
        requests: number of requests that are processed at the same time, after their uploads; a further one is refused
            at once.
        film_megabytes: size of a film, in units of 10^6 bytes; it lies in a temporary file, not in memory.
        film_upload_seconds: time for a film to arrive.

    Raises:
        UserError: a value is negative or not finite.
    """

    megabytes: float = 15
    images: int = 16
    faces: int = 50
    upload_seconds: float = 30
    seconds: float = 10
    wait: float = 1
    uploads: int = 32
    requests: int = 32
    film_megabytes: float = 500
    film_upload_seconds: float = 600

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:  # false for NaN
                raise UserError(f"{name}={value}: a number from 0 on is needed")


OWN_MACHINE = Limits(faces=1000)
"""Limits of `emotion app`: of a photograph of a crowd, its only user wants all faces, as of `emotion predict`."""
