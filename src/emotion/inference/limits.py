"""Limits of the HTTP service on the size, duration and number of requests."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser


class Limits(BaseModel):
    """Upper limits for one request, and for the number of concurrent requests.

    Uploads take at most (uploads + requests) * megabytes of memory, and one upload twice its size while it is joined or
    taken from its form.

    Attributes:
        megabytes: size of an upload, in units of 10^6 bytes.
        faces: number of classified faces per image; the largest faces are classified.
        upload_seconds: time for an upload to arrive.
        seconds: time from the last byte of the upload to the answer.
        uploads: number of uploads that arrive at the same time; a further one is refused at once.
        requests: number of requests that are processed at the same time, after their uploads; a further one is refused
            at once.
    """

    megabytes: float = 15
    faces: int = 50
    upload_seconds: float = 30
    seconds: float = 10
    uploads: int = 32
    requests: int = 32


class Slots:
    """A fixed number of slots, each held by one request; a request that finds no free slot is refused, not queued."""

    def __init__(self, number: int) -> None:
        self.number, self.taken = number, 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds a slot until the block ends.

        Raises:
            HTTPException: 503, no slot is free.
        """
        if self.taken >= self.number:
            raise HTTPException(503, "too many requests: try again later", {"Retry-After": "1"})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


async def read_upload(request: Request, limits: Limits) -> bytes:
    """Returns the image of a request, from its body or from the field `image` of a form.

    Raises:
        HTTPException: 400, the form is malformed; 408, the upload takes too long; 413, the upload is too large; 415,
            the content type is neither an image nor a form; 422, the form has no image.
    """
    kind = request.headers.get("content-type", "").lower()
    try:
        async with asyncio.timeout(limits.upload_seconds):
            if kind.startswith("image/"):
                return b"".join([chunk async for chunk in _body(request, limits.megabytes)])
            if kind.startswith("multipart/form-data"):
                return await _form_image(request, limits.megabytes)
    except TimeoutError:
        raise HTTPException(408, f"upload: not complete after {limits.upload_seconds:g} s") from None
    raise HTTPException(415, "an image is needed, as the body (image/...) or as the field `image` of a form")


async def _body(request: Request, megabytes: float) -> AsyncGenerator[bytes, None]:
    """Yields the body in chunks; a body whose stated length is too large is refused before it arrives."""
    remaining = round(megabytes * 1e6)
    stated = request.headers.get("content-length", "0")
    refusal = HTTPException(413, f"image: more than {megabytes:g} MB")
    if not stated.isdecimal() or int(stated) > remaining:
        raise refusal
    async for chunk in request.stream():
        remaining -= len(chunk)
        if remaining < 0:
            raise refusal
        yield chunk


class _FormInMemory(MultiPartParser):
    """Starlette's parser with uploads in memory; by default it writes files of more than a megabyte to the disk."""

    spool_max_size = sys.maxsize


async def _form_image(request: Request, megabytes: float) -> bytes:
    try:
        form = await _FormInMemory(request.headers, _body(request, megabytes), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise HTTPException(422, "form: no file in the field `image`")
    return await image.read()
