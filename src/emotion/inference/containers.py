"""Container formats of videos: recognised by a file's first bytes, whatever its name, and checked for truncation."""

from pathlib import Path

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


def holds_video(path: Path) -> bool:
    """Checks whether a file begins like a video; returns False for a file that cannot be read."""
    try:
        with path.open("rb") as file:
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


def is_cut_off(path: Path) -> bool:
    """Checks whether a Matroska or WebM file is shorter than it states; returns False for files of other formats.

    Decoding such a file raises no error, and the number of its frames is stated nowhere.
    """
    with path.open("rb") as file:
        start = file.read(400)
    return start.startswith(_SIGNATURES[0]) and _end_of_segment(start) > path.stat().st_size


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
