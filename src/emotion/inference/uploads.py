"""Reads the images of a request to the HTTP service from its body: raw bytes, a form, or base64 in JSON."""

import asyncio
import base64
import binascii
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from fastapi import HTTPException, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from emotion.data.decode import BadImageError
from emotion.inference.limits import Limits

FIELDS = ("image", "file", "files")
"""Fields of forms that hold images."""
ONE_PIXEL = "R0lGODdhAQABAIEAAAAAAAAAAAAAAAAAACwAAAAAAQABAAAIBAABBAQAOw=="
"""A GIF of one black pixel in base64, an example."""
BINARY = {"type": "string", "format": "binary"}
FORM_SCHEMA = {
    "type": "object",
    "required": ["image"],
    "properties": {"image": {"type": "array", "items": BINARY}},
    "description": "one or several files in fields named `image`; `file` and `files` are read, too",
}


class EncodedImages(BaseModel, extra="forbid"):
    """The JSON body of a request."""

    images: list[str] = Field(
        min_length=1,
        description="contents of image files in base64, as they are or as data: addresses",
        examples=[[ONE_PIXEL, f"data:image/gif;base64,{ONE_PIXEL}"]],
    )


REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FORM_SCHEMA},
            "application/json": {"schema": EncodedImages.model_json_schema()},
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
        },
    }
}
"""The bodies that `read_upload` reads, for /openapi.json."""


@dataclass(frozen=True)
class EncodedImage:
    """The content of an image file in base64, as it is or as a data: address; white space does not count."""

    text: str

    def decode(self) -> bytes:
        """Returns the content of the file.

        Raises:
            BadImageError: the text is not base64.
        """
        text = self.text
        if text.startswith("data:"):
            head, _, text = text.partition(",")
            if not head.endswith(";base64"):
                raise BadImageError("image: a data: address without base64; data:image/jpeg;base64,... is needed")
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):  # ValueError: characters that are not ASCII
            raise BadImageError("image: not base64") from None


@dataclass(frozen=True)
class Upload:
    """The images of a request.

    Attributes:
        images: contents of image files.
        listed: True if the answer is a list even for one image.
    """

    images: list[bytes | EncodedImage]
    listed: bool


async def read_upload(request: Request, limits: Limits) -> Upload:
    """Returns the images of a request.

    Raises:
        HTTPException: 400, the form or the JSON is malformed, or it has too many images; 408, the upload takes too
            long; 413, the upload is too large; 415, the content type is none of `REQUEST_BODY`; 422, there is no image.
    """
    kind = request.headers.get("content-type", "").lower().partition(";")[0].strip()
    try:
        async with asyncio.timeout(limits.upload_seconds):
            if kind.startswith("image/") or kind == "application/octet-stream":
                return Upload([await _body(request, limits.megabytes)], listed=False)
            if kind == "application/json":
                return _from_json(await _body(request, limits.megabytes), limits.images)
            if kind == "multipart/form-data":
                return await _from_form(request, limits)
    except TimeoutError:
        raise HTTPException(408, f"upload: not complete after {limits.upload_seconds:g} s") from None
    legal = "as the body (image/... or application/octet-stream), as the field `image` of a form, or as base64 in JSON"
    raise HTTPException(415, f"an image is needed, {legal}")


async def _body(request: Request, megabytes: float) -> bytes:
    return b"".join([chunk async for chunk in body_chunks(request, megabytes)])


async def body_chunks(request: Request, megabytes: float) -> AsyncGenerator[bytes, None]:
    """Yields the body of a request in chunks; one whose stated length is too large is refused before it arrives.

    Raises:
        HTTPException: 413, the body has more than so many megabytes.
    """
    remaining = round(megabytes * 1e6)
    stated = request.headers.get("content-length", "0")
    refusal = HTTPException(413, f"upload: more than {megabytes:g} MB")
    if not stated.isdecimal() or int(stated) > remaining:
        raise refusal
    async for chunk in request.stream():
        remaining -= len(chunk)
        if remaining < 0:
            raise refusal
        yield chunk


def _from_json(body: bytes, most: int) -> Upload:
    # A data: address has one comma, base64 none. A list of a million numbers would cost its parser 500 times its size.
    if body.count(b",") > 2 * most:
        raise HTTPException(400, f"images: too many, at most {most} in a request")
    try:
        encoded = EncodedImages.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise HTTPException(400, f"body: {first['msg']}") from None
        if first["type"] == "extra_forbidden":
            raise _misplaced(str(first["loc"][0]), json.dumps(first["input"])) from None
        place = ".".join(map(str, first["loc"]))[:100] or "body"
        raise HTTPException(422, f'{place}: {first["msg"]}; {{"images": ["<base64>", ...]}} is needed') from None
    if len(encoded.images) > most:
        raise HTTPException(400, f"images: {len(encoded.images)}, at most {most} in a request")
    return Upload([EncodedImage(text) for text in encoded.images], listed=True)


class _FormInMemory(MultiPartParser):
    """Starlette's parser with uploads in memory; by default it writes files of more than a megabyte to the disk."""

    spool_max_size = sys.maxsize


async def _from_form(request: Request, limits: Limits) -> Upload:
    chunks = body_chunks(request, limits.megabytes)
    try:
        form = await _FormInMemory(request.headers, chunks, max_files=limits.images, max_fields=8).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    files = files_of(form, FIELDS)
    return Upload([await file.read() for file in files], listed=len(files) > 1)


def files_of(form: FormData, fields: Sequence[str]) -> list[UploadFile]:
    """Returns the files in the fields of a form that may hold them.

    Raises:
        HTTPException: 422, there is no such file, or another field holds text, as a setting that would be ignored.
    """
    for name, value in form.multi_items():
        if isinstance(value, str) and name not in fields:
            raise _misplaced(name, value)
    files = [value for name, value in form.multi_items() if name in fields and isinstance(value, UploadFile)]
    if not files:
        *others, last = (f"`{field}`" for field in fields)
        raise HTTPException(422, f"form: no file in a field {', '.join(others)} or {last}")
    return files


def _misplaced(name: str, value: str) -> HTTPException:
    address = f"?{quote(name[:50])}={quote(value[:50])}"
    return HTTPException(422, f"{name[:50]}: settings belong into the address: {address}")
