import io

import numpy as np
import pytest
from PIL import Image

from emotion.data.decode import MAX_PIXELS, BadImageError, upright


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16"])
@pytest.mark.parametrize("wanted", ["L", "RGB"])
def test_every_mode_becomes_eight_bits(mode: str, wanted: str) -> None:
    picture = upright(Image.new(mode, (5, 3)), wanted)
    assert picture.mode == wanted
    assert picture.size == (5, 3)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 257, 32_896, 65_535]], np.uint16))
    assert np.asarray(upright(deep, "L")).tolist() == [[0, 1, 128, 255]]


def test_floating_point_tones_are_refused() -> None:
    with pytest.raises(BadImageError, match="floating-point"):
        upright(Image.new("F", (2, 2)), "L")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations(orientation: int) -> None:
    seen = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # What a camera stores so that a viewer who follows the tag sees the picture.
    stored = {
        1: seen,
        2: np.fliplr(seen),
        3: np.rot90(seen, 2),
        4: np.flipud(seen),
        5: seen.T,
        6: np.rot90(seen),
        7: np.rot90(seen, 2).T,
        8: np.rot90(seen, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(file, "PNG", exif=exif)
    assert np.asarray(upright(Image.open(file), "L")).tolist() == seen.tolist()


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    class Claims(Image.Image):
        size = (MAX_PIXELS // 1000, 1001)

        def load(self):
            raise AssertionError("decoded")

    with pytest.raises(BadImageError, match="are more than"):
        upright(Claims(), "L")
