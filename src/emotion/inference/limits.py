"""What the HTTP service may be asked to do at the same time."""

from fastapi import HTTPException
from pydantic import BaseModel


class Limits(BaseModel):
    """What a request may cost, and all of them together.

    Attributes:
        megabytes: of an upload.
        faces: of a picture; the largest are judged.
        upload_seconds: for an upload to arrive.
        seconds: from the last byte of the request to the answer.
        requests: at the same time, whose uploads have arrived; more are turned away at once, as are more of the next.
        uploads: that arrive at the same time.
        megabytes_in_all: of the uploads that arrive and of those that wait for their answers.
    """

    megabytes: float = 15
    faces: int = 50
    upload_seconds: float = 30
    seconds: float = 10
    requests: int = 32
    uploads: int = 256
    megabytes_in_all: float = 256


class Places:
    """What may be taken at the same time; who comes when nothing is left is turned away."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    def take(self, number: int = 1) -> None:
        """Takes so many.

        Raises:
            HTTPException: 503, there are not so many left.
        """
        if self.taken + number > self.most:
            raise HTTPException(503, "too many requests at the moment", {"Retry-After": "1"})
        self.taken += number

    def free(self, number: int = 1) -> None:
        """Gives so many back."""
        self.taken -= number
