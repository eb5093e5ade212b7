from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotion.inference.containers import holds_video, is_cut_off


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
def test_matroska_files_are_cut_off_before_their_stated_end(content: bytes, cut: bool, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert is_cut_off(tmp_path / "x") == cut
