"""Bounds on the requests that the HTTP service takes: size, time and number."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser


class Limits(BaseModel):
    """The most that one request may cost, and the number of requests at the same time.

    Uploads take at most (uploads + requests) * megabytes of memory, and a second time that of an upload that is read
    from a form.

    Attributes:
        megabytes: size of an upload, 10^6 bytes each.
        faces: classified per image; the largest are taken.
        upload_seconds: for an upload to arrive.
        seconds: from the last byte of the request to the answer.
        uploads: arriving at the same time; further ones are refused at once.
        requests: waiting for an answer at the same time, after their uploads; further ones are refused at once.
    """

    megabytes: float = 15
    faces: int = 50
    upload_seconds: float = 30
    seconds: float = 10
    uploads: int = 32
    requests: int = 32


class Slots:
    """A number of slots, of which each request holds one; nobody waits for a free one."""

    def __init__(self, number: int) -> None:
        self.number, self.taken = number, 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds a slot.

        Raises:
            HTTPException: 503, none is free.
        """
        if self.taken >= self.number:
            raise HTTPException(503, "too many requests at the moment", {"Retry-After": "1"})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


async def read_upload(request: Request, limits: Limits) -> bytes:
    """Returns the image of a request, from its body or from the field `image` of a form.

    Raises:
        HTTPException: 400, the form is malformed; 408, the upload is too slow; 413, it is too large; 415, it is neither
            an image nor a form; 422, the form has no image.
    """
    kind = request.headers.get("content-type", "").lower()
    try:
        async with asyncio.timeout(limits.upload_seconds):
            if kind.startswith("image/"):
                return b"".join([chunk async for chunk in _body(request, limits.megabytes)])
            if kind.startswith("multipart/form-data"):
                return await _form_image(request, limits.megabytes)
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {limits.upload_seconds:g} s") from None
    raise HTTPException(415, "an image is needed, as the body (image/...) or as the field `image` of a form")


async def _body(request: Request, megabytes: float) -> AsyncGenerator[bytes, None]:
    """Yields the body as it arrives; one that says it is too large is refused before it arrives."""
    left = round(megabytes * 1e6)
    stated = request.headers.get("content-length", "0")
    refusal = HTTPException(413, f"image: more than {megabytes:g} MB")
    if not stated.isdecimal() or int(stated) > left:
        raise refusal
    async for chunk in request.stream():
        left -= len(chunk)
        if left < 0:
            raise refusal
        yield chunk


class _FormInMemory(MultiPartParser):
    """Starlette's parser, which otherwise writes files of more than a megabyte to the disk."""

    spool_max_size = sys.maxsize


async def _form_image(request: Request, megabytes: float) -> bytes:
    try:
        form = await _FormInMemory(request.headers, _body(request, megabytes), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise HTTPException(422, "the form has no file in its field `image`")
    return await image.read()
