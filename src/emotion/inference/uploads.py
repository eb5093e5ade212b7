"""Images that clients of the HTTP service send."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from emotion.inference.limits import Limits, Places


class Uploads:
    """Reads the images of requests, and no more than is allowed, neither of one nor of all.

    Args:
        limits: see there.

    Attributes:
        arriving: how many there are at the moment.
        bytes: of them and of those that wait for their answers.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.arriving, self.bytes = Places(limits.uploads), Places(round(limits.megabytes_in_all * 1e6))

    async def read(self, request: Request, held: ExitStack) -> bytes:
        """Returns the image of a request, from its body or from the field `image` of a form.

        Args:
            request: whose body was not read yet.
            held: ends when the image is needed no more.

        Raises:
            HTTPException: there is none, it is too large or too slow, or there are too many.
        """
        self.arriving.take()
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                body = await self._read(request, held)
        except TimeoutError:
            raise HTTPException(408, f"the upload took longer than {self.limits.upload_seconds:g} s") from None
        finally:
            self.arriving.free()
        kind = request.headers.get("content-type", "").lower()
        if kind.startswith("image/"):
            return body
        if not kind.startswith("multipart/form-data"):
            raise HTTPException(415, "an image is needed, as the body (image/...) or as the field `image` of a form")
        return await _from_form(request, body)

    async def _read(self, request: Request, held: ExitStack) -> bytes:
        most = round(self.limits.megabytes * 1e6)
        refusal = HTTPException(413, f"image: more than {most / 1e6:g} MB")
        stated = request.headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > most:
            raise refusal
        body = bytearray()
        try:
            async for chunk in request.stream():
                self.bytes.take(len(chunk))
                body += chunk
                if len(body) > most:
                    raise refusal
        finally:
            held.callback(self.bytes.free, len(body))
        return bytes(body)


class _FormInMemory(MultiPartParser):
    """Writes nothing to the disk, where the parser puts files of more than a megabyte."""

    spool_max_size = sys.maxsize


async def _from_form(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _FormInMemory(request.headers, stream(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise HTTPException(422, "the form has no file in its field `image`")
    return await image.read()
