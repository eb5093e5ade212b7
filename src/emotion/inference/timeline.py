"""A timeline of the persons of a film, as a page or a picture."""

import base64
import hashlib
import html
import json
import os
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo

from emotion.data.decode import BadImageError
from emotion.errors import UserError, disk_is_full
from emotion.files import atomic_write
from emotion.inference.images import TIMELINE
from emotion.inference.persons import BRIEF, Film, Person
from emotion.inference.timeline_picture import draw_picture
from emotion.palette import INK, class_colours

SUFFIXES = (".html", ".png")
"""Formats of a timeline."""
MOST_POINTS = 1500
"""Points in time of a timeline; a wide screen shows no more."""
_PAGE = Path(__file__).parent / "page"


def write_timeline(film: Film, path: Path, video: Path | None = None, *, annotated: bool = False) -> None:
    """Writes a timeline of the persons of a film who are seen for at least `BRIEF` seconds.

    Args:
        film: the film; portraits are shown where its frames held them.
        path: `.html` writes a page that holds all it needs and loads nothing from the network; `.png` a picture of the
            persons who are seen longest.
        video: the film's file or an annotated copy, which the page plays: it holds the path from its own folder to
            this file. If the file is not found there, the page asks for it.
        annotated: whether this is the annotated copy, which begins with the first frame.

    Raises:
        UserError: the suffix is none of `SUFFIXES`, or the file cannot be written.
        OSError: the disk is full.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: a timeline is written as {' or '.join(SUFFIXES)}")
    data = timeline_data(film) | ({"lead": 0} if annotated else {})
    try:
        with atomic_write(path) as temporary:
            if path.suffix.lower() == ".html":
                address = None if video is None else _address(video, path.parent)
                temporary.write_text(_page(data, address), encoding="utf-8")
            else:
                note = PngInfo()
                note.add_text("Software", TIMELINE)
                draw_picture(data, film.portraits).save(temporary, "PNG", optimize=True, pnginfo=note)
    except OSError as error:
        if disk_is_full(error):
            raise
        raise BadImageError(f"{path}: {error.strerror or error}") from None


def timeline_data(film: Film) -> dict[str, Any]:
    """Returns what a timeline shows, ready for JSON.

    A film of more than `MOST_POINTS` classified frames is divided into so many equal times. The frames in each of them
    make one point, with the mean of each person's probabilities.

    Returns:
        `name`: name of the film. `classes`: the K classes. `colours`: their colours by class. `ink`: colour of letters
        on these. `duration`: end of the last frame, seconds. `lead`: see `Film`. `seconds`: begin of each of the T
        points. `brief`, and
        `left_out`: number of persons who are seen for less than so many seconds. `persons`: of each other person the
        summary of `Person.as_dict`, and also `frames`: the P of the T points that show the person, as numbers from 0;
        `probabilities`: [P, K], rounded to three digits, from 10 classes on to more; `portraits`: `second` and `image`,
        a JPEG file as a `data:` address.
    """
    seconds, durations = film.seconds, film.durations
    duration = float(seconds[-1] + durations[-1]) if len(film) else 0.0
    firsts, points = _points(seconds, duration)
    # Where frames are missing, a point without faces ends the areas of the point before.
    times = seconds[firsts]
    gaps = [start for start, _ in film.gaps if len(times) and times[0] < start < times[-1]]
    places = np.searchsorted(times, gaps)
    points = points + np.searchsorted(places, points, "right")
    persons, series = film.persons, film.all_series()
    shown = [person for person in persons if person.seconds >= BRIEF]
    return {
        "name": film.name,
        "classes": list(film.classes),
        "colours": class_colours(film.classes),
        "ink": INK,
        "duration": round(duration, 3),
        "lead": round(film.lead, 3),
        "seconds": np.round(np.insert(times, places, gaps), 3).tolist(),
        "brief": BRIEF,
        "left_out": len(persons) - len(shown),
        "persons": [_person_data(film, person, *series[person.number], points) for person in shown],
    }


def _points(seconds: NDArray[np.float64], duration: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Joins the T frames of a film to P points in time, of equal lengths; the points without a frame are left out.

    Returns:
        The first frame of each point, int64 [P], and the point of each frame, int64 [T].
    """
    if len(seconds) <= MOST_POINTS:
        return np.arange(len(seconds)), np.arange(len(seconds))
    bins = np.minimum(seconds * MOST_POINTS / duration, MOST_POINTS - 1).astype(np.int64)  # [T]
    _, firsts, points = np.unique(bins, return_index=True, return_inverse=True)
    return firsts, points


def _person_data(
    film: Film,
    person: Person,
    frames: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    points: NDArray[np.int64],
) -> dict[str, Any]:
    """Returns the values of a person in frames, int64 [F], with probabilities [F, K]; `points` int64 [T]."""
    digits = max(3, len(str(len(film.classes))) + 2)  # the smallest of many probabilities must not become 0
    own, positions, counts = np.unique(points[frames], return_inverse=True, return_counts=True)  # [P], [F], [P]
    sums = np.zeros((len(own), len(film.classes)))  # [P, K]
    np.add.at(sums, positions, probabilities)
    portraits = film.portraits.get(person.number, ())
    return {
        **person.as_dict(),
        "frames": own.tolist(),
        "probabilities": np.round(sums / counts[:, np.newaxis], digits).tolist(),
        "portraits": [
            {"second": round(second, 3), "image": f"data:image/jpeg;base64,{base64.b64encode(file).decode('ascii')}"}
            for second, file in portraits
        ],
    }


def _page(data: dict[str, Any], address: str | None) -> str:
    """Returns the page of a timeline; `address` is that of the video."""
    style = (_PAGE / "timeline.css").read_text(encoding="utf-8")
    script = "".join((_PAGE / name).read_text(encoding="utf-8") for name in ("timeline.js", "timeline-page.js"))
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "media-src 'self' file: blob:; base-uri 'none'; form-action 'none'"
    )
    # JSON without "<" cannot end the element that holds it.
    content = json.dumps({"timeline": data, "address": address}, separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(data["name"].encode("utf-8", "backslashreplace").decode("utf-8"))
    template = Template((_PAGE / "timeline.html").read_text(encoding="utf-8"))
    return template.substitute(policy=policy, title=title, style=style, data=content, script=script)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _address(video: Path, folder: Path) -> str:
    """Returns the address of a video, relative to the folder of a page."""
    try:
        relative = os.path.relpath(video, folder)
    except ValueError:  # on another drive of Windows
        return video.absolute().as_uri()
    return quote(os.fsencode(Path(relative).as_posix()))
