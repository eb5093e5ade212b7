import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest
from numpy.typing import NDArray
from photographs import LIST, VARIANTS, Face, Photograph, load, score, vary, vary_labels
from PIL import Image

from emotion.errors import UserError

SQUARE = 150, 60, 60, 80
"""The bright rectangle of `drawn`: left, top, width and height."""


@pytest.fixture
def drawn(tmp_path: Path) -> Photograph:
    """A black photograph of 400 x 300 pixels with a white rectangle as its face, and a second label that is ignored."""
    picture = np.zeros((300, 400, 3), np.uint8)
    left, top, width, height = SQUARE
    picture[top : top + height, left : left + width] = 255
    path = tmp_path / "drawn.png"
    Image.fromarray(picture).save(path)
    face = Face((150.0, 60.0, 60.0, 80.0), "plain")
    return Photograph("drawn", path, 400, 300, "tune", "", (face,), ((300.0, 200.0, 50.0, 50.0),))


def bounds(picture: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Returns left, top, width and height of the pixels of the white rectangle."""
    rows, columns = np.nonzero(picture[..., 0] > 0.55 * picture[..., 0].max())
    return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "tilted" not in name])
def test_label_follows_the_pixels(drawn: Photograph, variant: str) -> None:
    changed = vary_labels(drawn, variant)
    picture = changed.read()
    assert picture.shape == (changed.height, changed.width, 3)
    assert changed.faces[0].kind == variant
    assert changed.faces[0].box == pytest.approx(bounds(picture), abs=2.5)


@pytest.mark.parametrize(
    ("variant", "size"), [("tilted 20", (60, 80)), ("tilted 35", (60, 80)), ("tilted 50", (80, 60))]
)
def test_tilted_label_keeps_its_size_and_follows_the_centre(
    drawn: Photograph, variant: str, size: tuple[int, int]
) -> None:
    changed = vary_labels(drawn, variant)
    picture = changed.read()
    assert picture.shape == (changed.height, changed.width, 3)
    left, top, width, height = changed.faces[0].box
    assert (width, height) == pytest.approx(size)
    seen = bounds(picture)
    centre = seen[0] + seen[2] / 2, seen[1] + seen[3] / 2
    assert (left + width / 2, top + height / 2) == pytest.approx(centre, abs=1.5)


def test_turned_by_90_degrees_against_the_clock(drawn: Photograph) -> None:
    # The right edge comes to the top: 400 - 150 - 60 = 190 pixels lie on the right of the face.
    assert vary_labels(drawn, "turned 90").faces[0].box == pytest.approx((60, 190, 80, 60))
    assert vary_labels(drawn, "turned 180").faces[0].box == pytest.approx((190, 160, 60, 80))
    assert vary_labels(drawn, "turned 270").faces[0].box == pytest.approx((160, 150, 80, 60))


def test_small_in_12_megapixels(drawn: Photograph) -> None:
    changed = vary_labels(drawn, "in 12 MP")
    assert (changed.width, changed.height) == (4000, 3000)
    assert changed.faces[0].box == pytest.approx((2150, 1060, 60, 80))
    assert changed.ignored == (pytest.approx((2300, 1200, 50, 50)),)


def test_dark_and_grey() -> None:
    picture = np.full((50, 60, 3), (200, 100, 0), np.uint8)
    dark = vary(picture, "dark", 10)
    assert dark.mean((0, 1)) == pytest.approx((24, 12, 1.6), abs=0.5)
    assert np.array_equal(dark, vary(picture, "dark", 10))
    assert dark[..., 0].std() == pytest.approx(4, abs=0.3)
    grey = vary(picture, "grey", 10)
    assert np.unique(grey) == pytest.approx([118.5], abs=0.6)  # 0.299 * 200 + 0.587 * 100


def test_faces_that_become_tiny_are_ignored(drawn: Photograph) -> None:
    tiny = Photograph("tiny", drawn.path, 400, 300, "tune", "", (Face((10, 10, 14, 20), "small"),), ())
    changed = vary_labels(tiny, "320 px")
    assert changed.faces == ()
    assert changed.ignored == (pytest.approx((8, 8, 11.2, 16)),)
    assert len(vary_labels(tiny, "grey").faces) == 1


def test_unknown_variant(drawn: Photograph) -> None:
    with pytest.raises(UserError, match=r"variant mirrored: one of turned 90, .* in 12 MP is needed"):
        vary_labels(drawn, "mirrored")


@pytest.mark.parametrize(
    ("box", "found", "false"),
    [
        ((150, 60, 60, 80), [True], []),
        # The face's size is the root of 60 * 80, 69.3: its half is 34.6, its 2.5 times 173.2, its 0.4 times 27.7.
        ((184, 60, 60, 80), [True], []),
        ((186, 60, 60, 80), [False], [0]),
        ((180 - 86, 100 - 86, 172, 172), [True], []),
        ((180 - 87, 100 - 87, 175, 175), [False], [0]),
        ((180 - 14, 100 - 14, 28, 28), [True], []),
        ((180 - 13, 100 - 13, 27, 27), [False], [0]),
        ((310, 210, 30, 30), [False], []),  # on what is ignored
        ((250, 200, 60, 60), [False], [0]),  # its centre is beside it
    ],
)
def test_what_counts_as_found(drawn: Photograph, box: tuple[int, ...], found: list[bool], false: list[int]) -> None:
    assert score([box], drawn) == (found, false)


def test_each_face_and_each_detection_count_once(drawn: Photograph) -> None:
    assert score([(155, 60, 60, 80), (150, 60, 60, 80)], drawn) == ([True], [0])
    beside = Face((190.0, 60.0, 60.0, 80.0), "plain")
    two = Photograph("two", drawn.path, 400, 300, "tune", "", (drawn.faces[0], beside), ())
    assert score([(170, 60, 60, 80)], two) in [([True, False], []), ([False, True], [])]
    assert score([(152, 60, 60, 80), (188, 60, 60, 80)], two) == ([True, True], [])
    assert score([], two) == ([False, False], [])


def test_list_is_sound() -> None:
    entries = json.loads(LIST.read_text())
    assert len({entry["sha256"] for entry in entries}) == len(entries) >= 87
    for entry in entries:
        assert entry["split"] == ("tune" if int(entry["sha256"][0], 16) < 8 else "test")
        assert set(entry["variants"]) <= set(VARIANTS)
        assert entry["archive"] in {"npm", "sdist", "wheel"}
        for left, top, width, height in [face["box"] for face in entry["faces"]]:
            assert min(width, height) >= 8
            assert 0 < left + width / 2 < entry["width"]
            assert 0 < top + height / 2 < entry["height"]
    kinds = Counter(face["kind"] for entry in entries for face in entry["faces"])
    assert set(kinds) == {"plain", "group", "small", "dark", "tilted", "turned", "profile", "child", "occluded"}
    without = [entry for entry in entries if not entry["faces"] and not entry["ignore"]]
    assert min(Counter(entry["split"] for entry in without).values()) >= 12


def listed(folder: Path, **changes: Any) -> Path:
    """Writes a list of one photograph in a package, and returns its path."""
    entry = {"package": "@some/pack", "version": "1.0", "archive": "npm", "file": "package/a.png", "sha256": ""}
    entry |= {"width": 4, "height": 3, "split": "test", "variants": ["grey"], "faces": [], "ignore": []} | changes
    path = folder / "list.json"
    path.write_text(json.dumps([entry]))
    return path


def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(content, "PNG")
    return content.getvalue()


def test_fetch_unpacks_the_listed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(kind: str, package: str, version: str, folder: Path) -> Path:
        assert (kind, package, version) == ("npm", "@some/pack", "1.0")
        with tarfile.open(folder / "pack.tgz", "w:gz") as tar:
            for name in ("package/a.png", "package/b.png"):
                member = tarfile.TarInfo(name)
                member.size = len(png())
                tar.addfile(member, io.BytesIO(png()))
        return folder / "pack.tgz"

    monkeypatch.setattr(photographs, "_download", download)
    path = listed(tmp_path, sha256=hashlib.sha256(png()).hexdigest())
    photographs.fetch(tmp_path / "photos", path)
    assert [file.name for file in (tmp_path / "photos").rglob("*.png")] == ["a.png"]
    original, grey = load(tmp_path / "photos", path)
    assert (original.variant, grey.variant, grey.split) == ("", "grey", "test")
    assert original.read().tolist() == [[[255, 0, 0]] * 4] * 3
    assert grey.read().tolist() == [[[76, 76, 76]] * 4] * 3
    with pytest.raises(UserError, match=r"pack\.tgz: package/a\.png is missing or has another content than listed"):
        photographs.fetch(tmp_path / "other", listed(tmp_path, sha256="0" * 64))


def test_missing_photograph(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"@some\+pack-1\.0/package/a\.png: missing; get it with `python photographs"):
        load(tmp_path, listed(tmp_path))


def test_photograph_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "@some+pack-1.0" / "package" / "a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(png())
    with pytest.raises(UserError, match=r"a\.png: 4 x 3 pixels where 5 x 3 are listed: fetch it anew"):
        load(tmp_path, listed(tmp_path, width=5))[0].read()
