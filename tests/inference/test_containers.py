import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotion.inference.containers import MOST_INDEX, holds_video, is_cut_off, states_too_many_samples


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_images_are_no_videos(kind: str, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "x", kind)
    assert not holds_video(tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [b"", b"G", b"GIF89a" + b"G" * 400, b"The free one", b"The wide world", b"\0\0\0\x18ftypheic", b"RIFF1234WAVE"],
)
def test_similar_first_bytes_are_no_video(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert not holds_video(tmp_path / "x")
    assert not holds_video(content)


def test_unreadable_files_are_no_videos(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing", Path("x" * 300), Path("x\0y")):
        assert not holds_video(path)


@pytest.mark.parametrize(
    ("content", "cut"),
    [
        (b"\x1a\x45\xdf\xa3\x81 \x18\x53\x80\x67\x84" + b"1234", False),
        (b"\x1a\x45\xdf\xa3\x81 \x18\x53\x80\x67\x84" + b"123", True),
        (b"\x1a\x45\xdf\xa3\x81 \x18\x53\x80\x67\x40\x04" + b"123", True),
        (b"\x1a\x45\xdf\xa3\x81 \x18\x53\x80\x67\xff" + b"1", False),  # length unknown, as in live streams
        (b"\x1a\x45\xdf\xa3", False),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x0cmdat123", False),  # MP4: its frames are counted
    ],
)
def test_matroska_files_are_cut_off_before_their_stated_end(content: bytes, cut: bool) -> None:
    assert is_cut_off(io.BytesIO(content)) == cut


def box(kind: str, *content: bytes | int, wide: bool = False) -> bytes:
    """Returns a box of an MP4 file; integers take four bytes."""
    body = b"".join(part if isinstance(part, bytes) else part.to_bytes(4, "big") for part in content)
    length = (1).to_bytes(4, "big") if wide else (8 + len(body)).to_bytes(4, "big")
    return length + kind.encode() + ((16 + len(body)).to_bytes(8, "big") if wide else b"") + body


def film(*tables: bytes, **options: bool) -> bytes:
    """Returns an MP4 file with such tables in its index."""
    stbl = box("stbl", box("stsd", 0, 0), *tables)
    return box("ftyp", b"isom", 0) + box("moov", box("trak", box("mdia", box("minf", stbl), **options)))


@pytest.mark.parametrize(
    ("content", "many"),
    [
        (film(box("stsz", 0, 1, 1_000_001)), True),
        (film(box("stsz", 0, 1, 1_000_000)), False),
        (film(box("stsz", 0, 1, 600_000), box("stsz", 0, 2**30, 600_000)), True),  # together
        (film(box("stsz", 0, 0, 10**9)), False),  # each has a size of its own: the list ends with the file
        (film(box("stsz", 0, 1, 10**7)) + box("mdat", bytes(2_500_000)), False),
        (film(box("stsz", 0, 1, 10**7), wide=True), True),
        (box("moof", box("traf", box("trun", 0, 10**7))), True),
        (box("moof", box("traf", box("trun", 0x100, 10**7))), False),  # a list of durations follows
        (film(box("free", b"junk")) + box("moof", box("traf", box("trun", 0, 10**7))), True),
        (box("moov", box("trak", b"1234567"), box("trak", box("stsz", 0, 1, 10**7))), True),  # bytes after the last one
        (box("moov", box("trak", 5, b"free"), box("trak", box("stsz", 0, 1, 10**7))), True),  # too short a box
        (box("moov", box("trak", 0, b"free", box("stsz", 0, 1, 10**7))), False),  # to the end
        (box("moov", box("cmov", box("cmvd", 99, zlib.compress(film(box("stsz", 0, 1, 10**7)))))), True),
        (box("moov", box("cmov", box("cmvd", 99, b"no zlib"))), False),
        (b"moov" * 10_000, False),
        (b"".join([(80_000 - 8 * level).to_bytes(4, "big") + b"moov" for level in range(10_000)]), False),  # nested
        (b"\0\0\0\x0ctrun\0\0", False),
        (b"", False),
    ],
)
def test_more_frames_than_a_file_can_hold(content: bytes, many: bool) -> None:
    assert states_too_many_samples(io.BytesIO(content)) == many


def test_a_large_compressed_index_is_not_read_whole() -> None:
    class Counted(io.BytesIO):
        most = 0

        def read(self, number: int | None = -1, /) -> bytes:
            content = super().read(number)
            self.most = max(self.most, len(content))
            return content

    index = zlib.compress(film(box("stsz", 0, 1, 10**9))) + bytes(10_000_000)
    file = Counted(box("moov", box("cmov", box("cmvd", 99, index))))
    assert states_too_many_samples(file)
    assert file.most <= MOST_INDEX
