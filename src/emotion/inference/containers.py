"""Container formats of videos: recognised by a file's first bytes, whatever its name, and checked before decoding."""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""Types of the first box of a MOV, MP4 or 3GP file. Some images begin with `ftyp`, too, but their brand differs."""
IMAGE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"jxl ", b"crx ")
"""Brands after the first `ftyp` of images."""
_SIGNATURES = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"OggS",
    b"\x30\x26\xb2\x75",  # ASF, WMV
    b"\x00\x00\x01\xba",  # MPEG
    b"\x00\x00\x01\xb3",
    b"\x06\x0e\x2b\x34",  # MXF
)

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"cmov")
"""Types of the boxes of a MOV or MP4 file that hold the boxes of the index."""
MOST_BOXES, MOST_INDEX = 1_000_000, 2_000_000
"""Boxes of a file that are looked at, some seconds, and bytes of an index that are, compressed and decompressed."""
SAMPLES, SAMPLES_PER_BYTE = 1_000_000, 4
"""Number of samples of equal size that a file of any size may state, and that a larger one may state for each of its
bytes: old films count the samples of their sound before it was compressed."""


def holds_video(source: Path | bytes) -> bool:
    """Checks whether a file or its content begins like a video; returns False for a file that cannot be read."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            start = file.read(400)
    except (OSError, ValueError):
        return False
    if start[4:8] in _BOXES and start[:1] < b" ":  # the bytes before it are a length below 2^29, not text
        return start[8:12] not in IMAGE_BRANDS
    # MPEG-TS has packets of 188 bytes, each beginning with G; camcorders write 4 bytes of time before each.
    packets = any(start[offset::step] == b"GGG" for offset, step in ((0, 188), (4, 192)))
    return (
        (packets and not start.startswith(b"GIF8"))
        or start.startswith(_SIGNATURES)
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
    )


def is_cut_off(file: BinaryIO) -> bool:
    """Checks whether a Matroska or WebM file is shorter than it states; returns False for files of other formats.

    Decoding such a file raises no error, and the number of its frames is stated nowhere.
    """
    file.seek(0)
    start = file.read(400)
    return start.startswith(_SIGNATURES[0]) and _end_of_segment(start) > file.seek(0, os.SEEK_END)


def _end_of_segment(start: bytes) -> int:
    """Returns the offset at which a Matroska file's segment ends; 0 if the file does not state its length."""
    try:
        # A 4-byte id, a length and the content of a short header come first, then the segment's 4-byte id and length.
        content, begin = _read_number(start, sum(_read_number(start, 4)) + 4)
    except IndexError:
        return 0
    return begin + content if content else 0


def _read_number(start: bytes, offset: int) -> tuple[int, int]:
    """Returns an EBML number, 0 for "unknown", and the offset after it; leading zero bits give its length in bytes."""
    length = 9 - start[offset].bit_length()
    value = int.from_bytes(start[offset : offset + length], "big") & ((1 << 7 * length) - 1)
    return (0 if value == (1 << 7 * length) - 1 else value), offset + length


def states_too_many_samples(file: BinaryIO) -> bool:
    """Checks whether a MOV or MP4 file states more samples than it can hold; returns False for other formats.

    A number in the file stands for all samples (frames, or pieces of sound) of equal size, and FFmpeg makes an index
    of some 35 bytes for each of them when it opens the file.
    """
    size = file.seek(0, os.SEEK_END)
    return sum(_equal_samples(file, size, iter(range(MOST_BOXES)))) > max(SAMPLES, SAMPLES_PER_BYTE * size)


def _equal_samples(file: BinaryIO, size: int, numbers: Iterator[int], depth: int = 0) -> Iterator[int]:
    """Yields the number of samples that each list states without a size for each of them.

    Args:
        file: the file, or an index that was decompressed.
        size: its number of bytes.
        numbers: an iterator that ends when enough boxes were read.
        depth: number of indices around this one; FFmpeg follows ten.
    """
    for kind, begin, end in _boxes(file, size, numbers):
        file.seek(begin)
        if kind == b"cmvd" and depth < 10:
            with suppress(zlib.error):
                index = zlib.decompressobj().decompress(file.read(min(end - begin, MOST_INDEX))[4:], MOST_INDEX)
                yield from _equal_samples(io.BytesIO(index), len(index), numbers, depth + 1)
        elif kind in (b"stsz", b"trun"):
            fields = file.read(12).ljust(12, b"\0")
            # The second number of stsz is the size of all samples, or 0; in trun, flags say which lists follow.
            if kind == b"stsz" and any(fields[4:8]):
                yield int.from_bytes(fields[8:], "big")
            elif kind == b"trun" and not fields[2] & 0x0F:
                yield int.from_bytes(fields[4:8], "big")


def _boxes(file: BinaryIO, size: int, numbers: Iterator[int]) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type of each box, and where its content begins and ends; the boxes within `_PARENTS` follow them."""
    begin, ends = 0, [size]  # offset of the next box, and the ends of the boxes around it
    for _ in numbers:
        while ends and begin + 8 > ends[-1]:
            begin = ends.pop()
        if not ends:
            return
        file.seek(begin)
        header = file.read(16)
        length, kind, content = int.from_bytes(header[:4], "big"), header[4:8], begin + 8
        if length == 1:
            length, content = int.from_bytes(header[8:], "big"), begin + 16
        end = min(begin + length, ends[-1]) if length else ends[-1]  # 0: to the end
        if end < content:  # damaged: the rest of the box around it is left out
            begin = ends.pop()
            continue
        if kind in _PARENTS:
            ends.append(end)
        begin = content if kind in _PARENTS else end
        yield kind, content, end
