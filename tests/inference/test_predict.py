import errno
import os
import re
import shutil
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from drawn_films import draw_film
from drawn_films import noise as noisy_frames
from numpy.typing import NDArray
from PIL import Image, ImageCms

from emotion.data.decode import BadImageError
from emotion.errors import UserError
from emotion.inference import predict
from emotion.inference.images import ANNOTATED_LIST, find_media, read_image
from emotion.inference.predict import Prediction
from emotion.inference.recognizer import Recognizer
from emotion.inference.records import Record
from emotion.inference.video import Video
from emotion.inference.video_file import VideoFile


@pytest.fixture
def video_file(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    """A video of twelve frames: six of the photograph, then six black ones."""
    path = tmp_path / "film.avi.mp4"
    black = np.zeros((480, 480, 3), np.uint8)
    return draw_film(path, [pixels[:480, :480]] * 6 + [black] * 6, rate=10)


@pytest.fixture
def noise() -> Callable[[Path], None]:
    rng = np.random.default_rng(0)

    def save(path: Path, kind: str | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60, 40, 3), np.uint8)).save(path, kind)

    return save


def run(prediction: Prediction, arguments: Sequence[str | Path]) -> list[Record]:
    return list(prediction.run(prediction.find(arguments)))


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the content of the files in a folder by their relative paths, without lists of annotated images."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ANNOTATED_LIST
    }


def test_readable_files_are_classified_beside_unreadable_ones(
    tmp_path: Path, portrait: Path, recognizer: Recognizer, pixels: NDArray[np.uint8]
) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"no image")
    (tmp_path / "c.mp4").write_bytes(b"no video")
    Image.new("L", (50, 50)).save(tmp_path / "d.png")
    errors: list[str] = []
    prediction = Prediction(recognizer, on_error=errors.append)
    records = run(prediction, [tmp_path])
    assert [(Path(record.file).name, len(record.faces)) for record in records] == [("a.png", 1), ("d.png", 0)]
    assert list(records[0].faces) == recognizer.predict(pixels)
    assert [record.second for record in records] == [None, None]
    assert prediction.failed == 2
    assert errors == [
        f"{tmp_path / 'b.jpg'}: not an image that can be read",
        f"{tmp_path / 'c.mp4'}: not a video that can be read",
    ]


def test_each_image_gets_its_own_faces(tmp_path: Path, recognizer: Recognizer, noise) -> None:
    paths = [tmp_path / f"{number:02}.png" for number in range(20)]
    for path in paths:
        noise(path)
    paths[3].write_bytes(b"")
    prediction = Prediction(recognizer, detect=False, out=tmp_path / "out", on_error=lambda message: None)
    records = run(prediction, [*reversed(paths), paths[5]])
    good = [path for path in reversed(paths) if path != paths[3]]
    assert [record.file for record in records] == [str(path) for path in good]
    for path, record in zip(good, records, strict=True):
        (face,), (expected,) = record.faces, recognizer.predict(path, detect=False)
        assert face.box == (0, 10, 40, 40)
        assert face.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        annotated, image = (np.asarray(Image.open(file)) for file in (tmp_path / "out" / path.name, path))
        assert (annotated[10:50] != image[10:50]).any()
        assert np.array_equal(annotated[50:], image[50:])
    assert prediction.failed == 1


def test_arguments_that_match_no_file_stop_the_run(tmp_path: Path, recognizer: Recognizer) -> None:
    with pytest.raises(UserError, match="no such file"):
        run(Prediction(recognizer), [tmp_path / "nothing.png"])
    assert run(Prediction(recognizer), []) == []
    assert run(Prediction(recognizer, out=tmp_path / "out"), []) == []


@pytest.mark.parametrize(("frame_stride", "seconds"), [(1, [n / 10 for n in range(12)]), (5, [0, 0.5, 1]), (100, [0])])
def test_every_nth_frame_of_a_video_is_classified(
    video_file: Path, recognizer: Recognizer, frame_stride: int, seconds: list[float]
) -> None:
    records = run(Prediction(recognizer, frame_stride=frame_stride), [video_file])
    assert [record.second for record in records] == pytest.approx(seconds)
    assert [len(record.faces) for record in records] == [int(second < 0.6) for second in seconds]
    assert {record.file for record in records} == {str(video_file)}


def test_annotated_videos_keep_the_faces_until_the_next_classified_frame(
    tmp_path: Path, video_file: Path, recognizer: Recognizer, pixels: NDArray[np.uint8]
) -> None:
    records = run(Prediction(recognizer, frame_stride=5, out=tmp_path / "out"), [video_file])
    left, top, width, _ = records[0].faces[0].box
    # The box moves by some pixels between the classified frames.
    near = np.s_[top - 6 : top + 8, left + 20 : left + width - 20]
    assert pixels[near].mean(axis=(1, 2)).max() < 60
    annotated = Video(tmp_path / "out" / video_file.name)
    assert (annotated.rate, annotated.frames) == (10, 12)
    bright = [bool(frame.pixels[near].mean(axis=(1, 2)).max() > 100) for frame in annotated]
    assert bright == [True] * 10 + [False] * 2  # frame 5 has the face, frame 10 has none


def test_without_detection_frames_are_faces(tmp_path: Path, video_file: Path, recognizer: Recognizer) -> None:
    records = run(Prediction(recognizer, detect=False, frame_stride=6), [video_file])
    assert [[face.box for face in record.faces] for record in records] == [[(0, 0, 480, 480)]] * 2


def test_a_truncated_video_is_classified_up_to_its_end(tmp_path: Path, recognizer: Recognizer) -> None:
    path = draw_film(tmp_path / "film.avi", noisy_frames(40), rate=10, codec="mjpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    errors: list[str] = []
    prediction = Prediction(recognizer, detect=False, frame_stride=1, out=tmp_path / "out", on_error=errors.append)
    records = run(prediction, [path])
    assert len(records) == Video(tmp_path / "out/film.avi.mp4").frames == pytest.approx(18, abs=6)
    (error,) = errors
    assert re.fullmatch(rf"{path}: damaged, {40 - len(records)} of 40 frames \(.* s\) cannot be read", error)
    assert prediction.failed == 1


def test_annotated_files_repeat_the_folders_of_the_originals(
    tmp_path: Path, video_file: Path, recognizer: Recognizer, pixels
) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    video_file.rename(tmp_path / "in/film.MOV")
    for name in ("in/same.png", "in/deep/same.png", "in/p.gif", "in/P.JPG", "in/p.ppm", "in/p.webp", "in/p.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(tmp_path / "in/turned.jpg", exif=exif)
    before = contents(tmp_path / "in")
    run(Prediction(recognizer, out=tmp_path / "out", frame_stride=3), [tmp_path / "in"])
    assert contents(tmp_path / "in") == before
    assert set(contents(tmp_path / "out")) == (set(before) - {"film.MOV"}) | {"film.MOV.mp4"}
    for name in set(before) - {"film.MOV"}:
        with Image.open(tmp_path / "out" / name) as image, Image.open(tmp_path / "in" / name) as original:
            assert image.format == original.format
            assert image.getexif().get(0x0112, 1) == 1
            annotated = np.asarray(image.convert("RGB")).astype(int)
        assert annotated.shape == pixels.shape
        assert np.abs(annotated - pixels)[112:114, 160:360].mean() > 40, name  # the upper line of the box
        assert np.abs(annotated - pixels)[400:].mean() < 12, name
    annotated = Video(tmp_path / "out/film.MOV.mp4")
    assert (annotated.rate, annotated.frames) == (10, 12)


def test_originals_of_one_annotated_name_get_files_of_their_own(tmp_path: Path, recognizer: Recognizer, noise) -> None:
    names = ["a.dat", "a.dat.png", "a.dat.png.png", "b.dat"]
    for name in names:
        noise(tmp_path / name, "PNG")
    run(Prediction(recognizer, detect=False, out=tmp_path / "out"), [tmp_path / name for name in names])
    copies = contents(tmp_path / "out")
    assert sorted(copies) == ["a.dat.png", "a.dat.png.png", "a.dat.png.png.png", "b.dat.png"]
    assert len(set(copies.values())) == 4


@pytest.mark.parametrize(
    ("kind", "mode"),
    [*((kind, "RGB") for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")), ("JPEG", "L"), ("PNG", "L")],
)
def test_annotated_images_keep_the_profile_of_their_colours(
    kind: str, mode: str, tmp_path: Path, recognizer: Recognizer
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"image.{kind.lower()}"
    Image.new(mode, (60, 40), 90).save(path, kind, icc_profile=profile)
    run(Prediction(recognizer, detect=False, out=tmp_path / "out"), [path])
    with Image.open(tmp_path / "out" / path.name) as copy:
        assert copy.info.get("icc_profile") == (
            profile if mode == "RGB" else None
        )  # that of grey tones fits no colours


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "I;16"])
def test_images_of_every_mode_are_annotated(mode: str, tmp_path: Path, recognizer: Recognizer) -> None:
    for suffix in {"P": (".png", ".gif", ".tif"), "PA": (".webp",), "I;16": (".png", ".tif")}.get(mode, (".png",)):
        image = Image.new("I;16" if mode == "I;16" else "L", (60, 60), 9)
        image = image if mode in ("L", "I;16") else image.convert("RGBA" if mode == "PA" else mode)
        image.save(tmp_path / f"image{suffix}")
    run(Prediction(recognizer, detect=False, out=tmp_path / "out"), [tmp_path / "image*"])
    for path in tmp_path.glob("image*"):
        copy = Image.open(tmp_path / "out" / path.name).convert("RGB")
        assert copy.size == (60, 60)
        assert len(copy.getcolors(3600) or ()) > 1  # the box and its label


def test_formats_that_cannot_be_written_become_png(tmp_path: Path, recognizer: Recognizer, noise) -> None:
    noise(tmp_path / "in/photo", "JPEG")
    noise(tmp_path / "in/photo.upload", "PNG")
    noise(tmp_path / "in/photo.dib", "BMP")
    run(Prediction(recognizer, detect=False, out=tmp_path / "out"), sorted((tmp_path / "in").iterdir()))
    assert set(contents(tmp_path / "out")) == {"photo.png", "photo.upload.png", "photo.dib.png"}
    assert {Image.open(path).format for path in (tmp_path / "out").glob("*.png")} == {"PNG"}


def test_annotated_files_stay_below_the_output_folder(
    tmp_path: Path, recognizer: Recognizer, noise, monkeypatch
) -> None:
    noise(tmp_path / "photos/a.png")
    noise(tmp_path / "work/b.png")
    monkeypatch.chdir(tmp_path / "work")
    run(Prediction(recognizer, detect=False, out=Path("out")), ["../photos/a.png", "b.png"])
    assert set(contents(tmp_path / "work/out")) == {"photos/a.png", "work/b.png"}
    run(Prediction(recognizer, detect=False, out=Path("one")), ["../photos/a.png"])
    assert set(contents(tmp_path / "work/one")) == {"a.png"}


def test_annotated_files_of_links_have_the_names_of_the_links(tmp_path: Path, recognizer: Recognizer, noise) -> None:
    noise(tmp_path / "store/af03.png")
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/mine.png").symlink_to(tmp_path / "store/af03.png")
    noise(tmp_path / "in/other.png")
    before = contents(tmp_path / "store")
    run(Prediction(recognizer, detect=False, out=tmp_path / "out"), [tmp_path / "in"])
    assert set(contents(tmp_path / "out")) == {"deep/mine.png", "other.png"}
    assert contents(tmp_path / "store") == before


def test_annotated_files_never_replace_originals(tmp_path: Path, recognizer: Recognizer, noise, monkeypatch) -> None:
    noise(tmp_path / "in/a.png")
    noise(tmp_path / "in/deep/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "out1").mkdir()
    (tmp_path / "out1/deep").symlink_to(tmp_path / "in/deep")
    (tmp_path / "out2").mkdir()
    (tmp_path / "out2/a.png").symlink_to(tmp_path / "in/a.png")
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path / "in")
    for out in (".", "../in", tmp_path / "in", tmp_path / "link", tmp_path / "in/deep/..", "../out1", "../out2"):
        with pytest.raises(UserError, match=r"--out .*: an annotated file would replace .*\.png; name another folder"):
            run(Prediction(recognizer, detect=False, out=Path(out)), [tmp_path / "in"])
    with pytest.raises(UserError, match="an annotated file would replace"):
        run(Prediction(recognizer, detect=False, out=tmp_path / "in"), [tmp_path / "link"])
    assert contents(tmp_path) == before


def test_annotated_images_of_earlier_runs_are_skipped(tmp_path: Path, recognizer: Recognizer, noise) -> None:
    noise(tmp_path / "a.png")
    run(Prediction(recognizer, detect=False, out=tmp_path / "annotated"), [tmp_path])
    before = contents(tmp_path)
    notes: list[str] = []
    prediction = Prediction(recognizer, detect=False, out=tmp_path / "annotated", on_note=notes.append)
    for arguments in ([tmp_path], [f"{tmp_path}/**/*.png"]):
        assert [record.file for record in run(prediction, arguments)] == [str(tmp_path / "a.png")]
        assert contents(tmp_path) == before
    assert notes == [
        f"{argument}: skipped 1 file that earlier runs wrote" for argument in (tmp_path, f"{tmp_path}/**/*.png")
    ]
    for out in (None, tmp_path / "others"):
        again = run(Prediction(recognizer, detect=False, out=out), [tmp_path])
        assert [record.file for record in again] == [str(tmp_path / "a.png")]
    shutil.rmtree(tmp_path / "others")
    with pytest.raises(UserError, match="an annotated file would replace"):
        run(prediction, [tmp_path / "annotated/a.png"])
    run(Prediction(recognizer, detect=False, out=tmp_path / "annotated"), [tmp_path / "a.png"])
    assert contents(tmp_path) == before


def test_originals_in_the_output_folder_are_classified(tmp_path: Path, recognizer: Recognizer, noise) -> None:
    for name in ("a.png", "annotated/b\n.png"):
        noise(tmp_path / name)
    originals = {str(tmp_path / "a.png"), str(tmp_path / "annotated/b\n.png")}
    for _ in range(2):
        records = run(Prediction(recognizer, detect=False, out=tmp_path / "annotated"), [tmp_path])
        assert {record.file for record in records} == originals
    noise(tmp_path / "b\n.png")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="an annotated file would replace"):
        run(Prediction(recognizer, detect=False, out=tmp_path / "annotated"), [tmp_path])
    assert contents(tmp_path) == before


def test_annotated_files_leave_hard_links_of_their_names_alone(tmp_path: Path, recognizer: Recognizer, noise) -> None:
    noise(tmp_path / "in/a.png")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "in/a.png", tmp_path / "out/a.png")
    before = contents(tmp_path / "in")
    with pytest.raises(UserError, match=r"^--out .*out/a.png is not listed there as an annotated file; remove it, or"):
        run(Prediction(recognizer, detect=False, out=tmp_path / "out"), [tmp_path / "in"])
    assert contents(tmp_path / "in") == contents(tmp_path / "out") == before
    (tmp_path / "out" / ANNOTATED_LIST).write_bytes(b"a.png\0")
    run(Prediction(recognizer, detect=False, out=tmp_path / "out"), [tmp_path / "in"])
    assert contents(tmp_path / "in") == before != contents(tmp_path / "out")


def test_annotated_files_elsewhere_are_neither_classified_nor_refused(
    tmp_path: Path, recognizer: Recognizer, noise
) -> None:
    noise(tmp_path / "photos/a.png")
    prediction = Prediction(recognizer, detect=False, out=tmp_path / "annotated")
    for _ in range(2):
        run(prediction, [tmp_path / "photos"])
    assert (tmp_path / "annotated" / ANNOTATED_LIST).read_bytes() == b"a.png\0"
    assert Prediction(recognizer).find([tmp_path]) == [tmp_path / "photos/a.png"]


def test_an_annotated_video_may_lie_beside_an_original_of_another_format(
    tmp_path: Path, video_file: Path, recognizer: Recognizer
) -> None:
    video_file.rename(tmp_path / "film.mov")
    before = (tmp_path / "film.mov").read_bytes()
    run(Prediction(recognizer, detect=False, out=tmp_path), [tmp_path / "film.mov"])
    assert (tmp_path / "film.mov").read_bytes() == before
    assert Video(tmp_path / "film.mov.mp4").frames == 12


class Interrupted(Recognizer):
    """Raises KeyboardInterrupt at the third call, as if the user pressed Ctrl-C."""

    calls = 0

    def classify(self, images):
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().classify(images)


def test_an_interrupted_video_keeps_its_records_and_leaves_no_annotated_file(
    tmp_path: Path, video_file: Path, recognizer: Recognizer
) -> None:
    """Both frames still wait for later ones, with which their probabilities would be averaged."""
    interrupted = Interrupted(recognizer.networks)
    prediction = Prediction(interrupted, frame_stride=3, out=tmp_path / "out", timeline=tmp_path / "out/line.html")
    records: list[Record] = []
    with pytest.raises(KeyboardInterrupt):
        records.extend(prediction.run([video_file]))
    assert contents(tmp_path / "out") == {}
    assert [record.second for record in records] == pytest.approx([0, 0.3])
    assert len(prediction.films[0]) == 2


def test_an_interrupted_write_leaves_the_old_annotated_image(
    tmp_path: Path, recognizer: Recognizer, noise, monkeypatch
) -> None:
    noise(tmp_path / "in/a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_bytes(b"old")
    (tmp_path / "out" / ANNOTATED_LIST).write_bytes(b"a.png\0")

    def interrupt(self, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(Prediction(recognizer, detect=False, out=tmp_path / "out"), [tmp_path / "in"])
    assert contents(tmp_path / "out") == {"a.png": b"old"}


def test_progress_gets_the_number_of_frames(tmp_path: Path, video_file: Path, recognizer: Recognizer) -> None:
    Image.new("L", (50, 50)).save(tmp_path / "a.png")
    totals: list[int | None] = []

    def progress(items, total=None):
        totals.append(total)
        yield from items

    run(Prediction(recognizer, progress=progress, frame_stride=50), [tmp_path])
    assert totals == [None, 12]


@pytest.mark.parametrize("annotate", [True, False])
def test_few_images_are_in_memory_at_a_time(
    annotate: bool, tmp_path: Path, recognizer: Recognizer, noise, monkeypatch
) -> None:
    for number in range(9):
        noise(tmp_path / f"{number}.png")
    read: list[weakref.ref[NDArray[np.uint8]]] = []

    def load(path: Path) -> NDArray[np.uint8]:
        assert sum(image() is not None for image in read) <= 1
        image = read_image(path)
        read.append(weakref.ref(image))
        return image

    monkeypatch.setattr(predict, "read_image", load)
    run(Prediction(recognizer, detect=False, out=tmp_path / "out" if annotate else None), [tmp_path])
    assert len(read) == 9


def test_faces_of_several_images_are_classified_together(
    tmp_path: Path, recognizer: Recognizer, noise, monkeypatch
) -> None:
    for number in range(9):
        noise(tmp_path / f"{number}.png")
    sizes: list[int] = []
    classify = Recognizer.classify
    monkeypatch.setattr(
        Recognizer, "classify", lambda self, images: (sizes.append(len(images)), classify(self, images))[1]
    )
    records = run(Prediction(recognizer, detect=False), [tmp_path / f"{number}.png" for number in range(9)])
    assert [Path(record.file).stem for record in records] == list("012345678")
    assert sizes == [8, 1]


@pytest.mark.parametrize(
    ("suffix", "width"), [(".webp", 17_000), (".gif", 70_000), (".avif", 70_000), (".jpg", 70_000)]
)
def test_images_too_large_for_their_format_are_reported(
    suffix: str, width: int, tmp_path: Path, recognizer: Recognizer, noise
) -> None:
    wide = tmp_path / f"in/wide{suffix}"
    noise(tmp_path / "in/z.png")
    Image.new("L", (width, 20)).save(wide, "PNG")
    errors: list[str] = []
    prediction = Prediction(recognizer, detect=False, out=tmp_path / "out", on_error=errors.append)
    records = run(prediction, [tmp_path / "in"])
    assert [Path(record.file).name for record in records] == [wide.name, "z.png"]
    (error,) = errors
    assert error.startswith(f"{tmp_path / 'out' / wide.name}: {width} x 20 pixels cannot be saved in this format (")
    assert prediction.failed == 1
    assert set(contents(tmp_path / "out")) == {"z.png"}


def test_a_full_disk_stops_the_run(tmp_path: Path, recognizer: Recognizer, noise, monkeypatch) -> None:
    noise(tmp_path / "a.png")

    def fail(self, path):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="full"):
        run(Prediction(recognizer, detect=False, out=tmp_path / "out"), [tmp_path / "a.png"])


def test_an_annotated_file_that_cannot_be_written_costs_no_results(
    tmp_path: Path, video_file: Path, recognizer: Recognizer, noise, monkeypatch
) -> None:
    noise(tmp_path / "a.png")
    write, shapes = VideoFile.write, []

    def fail(self, frame: NDArray[np.uint8], second: float) -> None:
        shapes.append(frame.shape)
        write(self, frame[:1, :1], second)  # too small for the format

    monkeypatch.setattr(VideoFile, "write", fail)
    (tmp_path / "out/a.png").mkdir(parents=True)
    errors: list[str] = []
    prediction = Prediction(recognizer, detect=False, frame_stride=3, out=tmp_path / "out", on_error=errors.append)
    records = run(prediction, [tmp_path / "a.png", video_file])
    assert records[0].second is None
    assert [record.second for record in records[1:]] == pytest.approx([0, 0.3, 0.6, 0.9])
    assert len(shapes) == 1
    assert errors[0] == f"{tmp_path / 'out/a.png'}: Is a directory"
    assert errors[1].startswith(f"{tmp_path / 'out' / video_file.name}: ")
    assert prediction.failed == 2


def test_a_copy_that_cannot_be_written_costs_no_timeline(tmp_path: Path, video_file: Path, recognizer) -> None:
    (tmp_path / "out" / video_file.name).mkdir(parents=True)
    errors: list[str] = []
    prediction = Prediction(
        recognizer, out=tmp_path / "out", timeline=tmp_path / "new/line.html", on_error=errors.append
    )
    run(prediction, [video_file])
    assert len(errors) == prediction.failed == 1
    assert (tmp_path / "new/line.html").is_file()


def test_timelines_of_equal_names_do_not_replace_each_other(tmp_path: Path, video_file: Path, recognizer) -> None:
    for name in ("a/film.mp4", "b/film.mp4", "b/film.mov", "b/other.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(video_file, tmp_path / name)
    run(Prediction(recognizer, frame_stride=6, timeline=tmp_path / "t.html"), [tmp_path / "a", tmp_path / "b"])
    assert {path.name for path in tmp_path.glob("*.html")} == {
        "t-film-1.html",
        "t-film-2.html",
        "t-film-3.html",
        "t-other.html",
    }


def test_timelines_do_not_take_each_others_numbers(tmp_path: Path, recognizer: Recognizer) -> None:
    films = [Path("a/film.mp4"), Path("b/film.mp4"), Path("film-1.mp4")]
    prediction = Prediction(recognizer, timeline=tmp_path / "t.html")
    names = [path.name for path in prediction._timeline_paths(films, films).values()]
    assert names == ["t-film-1.html", "t-film-2.html", "t-film-1-1.html"]


def test_a_timeline_does_not_replace_a_file_that_is_classified(
    tmp_path: Path, video_file: Path, recognizer, noise
) -> None:
    noise(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    reason = "would replace this file, which is classified or written$"
    with pytest.raises(UserError, match=rf"^--timeline .*a\.png: {reason}"):
        run(Prediction(recognizer, timeline=tmp_path / "a.png"), [tmp_path / "a.png", video_file])
    assert (tmp_path / "a.png").read_bytes() == before
    out = tmp_path / "out"
    with pytest.raises(UserError, match=rf"^--timeline .*out/a\.png: {reason}"):
        run(Prediction(recognizer, out=out, timeline=out / "a.png"), [tmp_path / "a.png", video_file])


def test_a_timeline_is_not_classified_with_its_folder(tmp_path: Path, video_file: Path, recognizer, noise) -> None:
    noise(tmp_path / "a.png")
    notes: list[str] = []
    prediction = Prediction(recognizer, frame_stride=12, timeline=tmp_path / "it.png", on_note=notes.append)
    for _ in range(2):
        files = {Path(record.file).name for record in run(prediction, [tmp_path])}
        assert files == {video_file.name, "a.png"}
    assert notes.count(f"{tmp_path}: skipped 1 file that earlier runs wrote") == 1
    assert len(find_media([tmp_path / "it.png"])) == 1  # unless it is named itself


def test_a_timeline_plays_the_film_whose_copy_cannot_be_written(tmp_path: Path, video_file: Path, recognizer) -> None:
    (tmp_path / "out" / video_file.name).mkdir(parents=True)
    errors: list[str] = []
    timeline = tmp_path / "t.html"
    prediction = Prediction(recognizer, out=tmp_path / "out", frame_stride=6, timeline=timeline, on_error=errors.append)
    run(prediction, [video_file])
    assert len(errors) == 1
    assert f'"address":"{video_file.name}"' in timeline.read_text()


def test_a_timeline_that_has_no_folder_fails_before_the_images(tmp_path: Path, recognizer: Recognizer, noise) -> None:
    (tmp_path / "file").touch()
    noise(tmp_path / "a.png")
    prediction = Prediction(recognizer, detect=False, timeline=tmp_path / "file/t.html")
    records = prediction.run([tmp_path / "a.png", tmp_path / "film.mp4"])
    with pytest.raises(OSError, match="file"):
        next(records)


def test_a_timeline_without_videos_is_noted(tmp_path: Path, recognizer: Recognizer, noise) -> None:
    noise(tmp_path / "a.png")
    notes: list[str] = []
    line = tmp_path / "new/t.html"
    run(Prediction(recognizer, timeline=line, on_note=notes.append), [tmp_path / "a.png"])
    assert notes == [f"--timeline {line}: there are no videos"]
    assert not line.parent.exists()


def test_an_incomplete_annotated_video_costs_no_results_of_others(
    tmp_path: Path, video_file: Path, recognizer: Recognizer, monkeypatch
) -> None:
    shutil.copy(video_file, tmp_path / "second.mp4")
    write = VideoFile.write

    def fail(self, frame: NDArray[np.uint8], second: float) -> None:
        if video_file.name in str(self._path) and second > 0.5:
            raise BadImageError(f"{self._path}: the disk is full")
        write(self, frame, second)

    monkeypatch.setattr(VideoFile, "write", fail)
    errors: list[str] = []
    prediction = Prediction(recognizer, detect=False, out=tmp_path / "out", on_error=errors.append)
    records = run(prediction, [video_file, tmp_path / "second.mp4"])
    assert [Path(record.file).name for record in records] == [video_file.name] * 3 + ["second.mp4"] * 3
    (error,) = errors
    assert error.endswith("the disk is full")
    assert set(contents(tmp_path / "out")) == {"second.mp4"}


def test_videos_are_recognised_by_their_content(tmp_path: Path, video_file: Path, recognizer: Recognizer) -> None:
    for name in ("film", "film.xyz", "photo.jpg"):
        shutil.copy(video_file, tmp_path / name)
        records = run(Prediction(recognizer, detect=False, out=tmp_path / "out"), [tmp_path / name])
        assert [record.second for record in records] == pytest.approx([0, 0.5, 1])
    assert set(contents(tmp_path / "out")) == {"film.mp4", "film.xyz.mp4", "photo.jpg.mp4"}


def test_of_several_frames_or_pages_the_first_is_classified_with_a_note(
    tmp_path: Path, recognizer: Recognizer, pixels
) -> None:
    first, others = Image.fromarray(pixels), [Image.new("RGB", (512, 600))] * 2
    for name in ("a.gif", "b.webp", "c.png", "d.tif"):
        first.save(tmp_path / name, save_all=True, append_images=others)
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=others)  # with a preview
    first.save(tmp_path / "z.gif")
    notes: list[str] = []
    records = run(Prediction(recognizer, on_note=notes.append), [tmp_path])
    assert [len(record.faces) for record in records] == [1] * 6
    names = ", ".join(str(tmp_path / name) for name in ("a.gif", "b.webp", "c.png"))
    assert notes == [f"{names}, ...: only the first of several frames or pages is classified"]


def test_records_are_kept_after_a_failure(tmp_path: Path, recognizer: Recognizer, noise, monkeypatch) -> None:
    for name in "abc":
        noise(tmp_path / f"{name}.png")
    save = Image.Image.save

    def fail(self, path: Path) -> None:
        if "b" in path.name:
            raise OSError(errno.ENOSPC, "full")
        save(self, path)

    monkeypatch.setattr(Image.Image, "save", fail)
    prediction = Prediction(recognizer, detect=False, out=tmp_path / "out")
    records: list[Record] = []
    with pytest.raises(OSError, match="full"):
        records.extend(prediction.run(prediction.find([tmp_path])))
    assert [Path(record.file).name for record in records] == ["a.png", "b.png"]


def test_names_as_long_as_the_system_allows(tmp_path: Path, video_file: Path, recognizer: Recognizer, noise) -> None:
    (tmp_path / "in").mkdir()
    names = ["x" * 251 + ".png", "ä" * 125 + ".png", "x" * 251 + ".mp4", "y" * 251 + ".3gp"]
    for name in names[:2]:
        noise(tmp_path / "in" / name)
    for name in names[2:]:
        shutil.copy(video_file, tmp_path / "in" / name)
    errors: list[str] = []
    prediction = Prediction(recognizer, detect=False, frame_stride=50, out=tmp_path / "out", on_error=errors.append)
    assert len(run(prediction, [tmp_path / "in"])) == 4
    assert set(contents(tmp_path / "out")) == {*names[:3]}
    (error,) = errors  # the suffix .mp4 makes the name too long
    assert error == f"{tmp_path / 'out' / names[3]}.mp4: File name too long"


def test_a_file_in_the_place_of_an_output_folder(
    tmp_path: Path, video_file: Path, recognizer: Recognizer, noise
) -> None:
    noise(tmp_path / "in/a.png")
    noise(tmp_path / "in/deep/b.png")
    shutil.copy(video_file, tmp_path / "in/deep/c.mp4")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/deep").touch()
    errors: list[str] = []
    prediction = Prediction(recognizer, detect=False, frame_stride=50, out=tmp_path / "out", on_error=errors.append)
    assert len(run(prediction, [tmp_path / "in"])) == 3
    assert errors == [f"{tmp_path / 'out/deep' / name}: File exists" for name in ("b.png", "c.mp4")]
    assert set(contents(tmp_path / "out")) == {"a.png", "deep"}
