"""What the first bytes of a file say of videos, whatever its name is, and whether its end is missing."""

from pathlib import Path

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""The first part of a MOV, MP4 or 3GP file is one of these; after `ftyp` comes which, as pictures have it too."""
_PICTURES = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"jxl ", b"crx ")
_STARTS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"OggS",
    b"\x30\x26\xb2\x75",  # ASF, WMV
    b"\x00\x00\x01\xba",  # MPEG
    b"\x00\x00\x01\xb3",
    b"\x06\x0e\x2b\x34",  # MXF
)


def holds_video(path: Path) -> bool:
    """Whether a file begins as those do that hold videos; false for one that cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(400)
    except (OSError, ValueError):
        return False
    if start[4:8] in _BOXES and start[:1] < b" ":  # the length before it is no text
        return start[8:12] not in _PICTURES
    # MPEG-TS has packets of 188 bytes; those of camcorders follow a time of 4 bytes.
    packets = any(start[offset::step] == b"GGG" for offset, step in ((0, 188), (4, 192)))
    return (
        (packets and not start.startswith(b"GIF8"))
        or start.startswith(_STARTS)
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
    )


def is_cut_off(path: Path) -> bool:
    """Whether a file is shorter than its own parts say; true also for kinds of which that is not known."""
    size, end = path.stat().st_size, 0
    with path.open("rb") as file:
        start = file.read(400)
        if start.startswith(_STARTS[0]):
            return _end_of_segment(start) > size
        if start[4:8] not in _BOXES:
            return True
        while end < size:
            file.seek(end)
            head = file.read(16)
            length = int.from_bytes(head[8:] if head[:4] == b"\0\0\0\1" else head[:4], "big")
            if length < 8:  # up to the end of the file, or no box
                return False
            end += length
    return end > size


def _end_of_segment(start: bytes) -> int:
    """Returns where the segment of a Matroska file, which follows a short header, ends; 0 where it does not say."""
    try:
        content, begin = _number(start, sum(_number(start, 4)) + 4)
    except IndexError:
        return 0
    return begin + content if content else 0


def _number(start: bytes, at: int) -> tuple[int, int]:
    """Returns a number of EBML, 0 for unknown, and where it ends: leading zeros tell how many bytes it has."""
    length = 9 - start[at].bit_length()
    value = int.from_bytes(start[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (0 if value == (1 << 7 * length) - 1 else value), at + length
