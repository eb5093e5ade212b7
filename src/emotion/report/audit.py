"""The files of an audit: pages and a contact sheet for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion.analysis.contact_sheet import contact_sheet
from emotion.analysis.document import Block, Document, Heading, ImageBlock, Paragraph, Table, to_html, to_markdown
from emotion.analysis.figures import save
from emotion.data.audit import MIN_CONTRAST, Audit, Group, Track, audit_images
from emotion.data.datamodule import SOURCE_SETTINGS, EmotionDataModule
from emotion.data.packed import PackedImages
from emotion.files import no_formula
from emotion.training.folder import make_results_folder, write_json, write_text

NAMES_SHOWN = 20
COLUMNS = ("kind", "group", "part", "label", "name", "nearest", "correlation")
Remedy = tuple[str, int, str]
"""A finding, its count, and the advice for it."""

_FIFTH = 0.2  # share of the images that a random split holds out by default
_MAX_IMBALANCE = 2  # ratio of the most to the least frequent class that needs no advice
_PARTS_NOTE = (
    "The number of images of one part that have a duplicate in another part or, within a part, among its other images. "
    "Identical images are also counted in the last column, except constant images, whose correlation is undefined."
)


def run_audit(data: EmotionDataModule, threshold: float, folder: Path, track: Track = iter) -> Document:
    """Audits all images of a source and writes the findings.

    Args:
        data: the data to audit; its split has no influence.
        threshold: correlation from which two images are near duplicates, between 0 and 1.
        folder: the folder for `audit.md`, `audit.html`, `audit.json`, `duplicates.csv` and `contact_sheet.png`.
        track: wraps the steps of the search, to show its progress.

    Returns:
        The summary for the terminal: counts of the findings, and advice.

    Raises:
        UserError: the data is not usable, the threshold is not between 0 and 1, or the folder cannot be made.
    """
    packed = data.packed.used()
    make_results_folder(folder)
    audit = audit_images(packed, threshold, track)
    source = {key: data.hparams[key] for key in SOURCE_SETTINGS}
    summary = Document(f"Audit of {source['data_dir'] or source['data']}", _summary(packed, audit))
    sheet = folder / "contact_sheet.png"
    save(contact_sheet(packed, audit), sheet)
    page = replace(summary, blocks=[*summary.blocks, *_appendix(packed, audit, sheet)])
    write_text(folder / "audit.md", to_markdown(page, folder))
    write_text(folder / "audit.html", to_html(page))
    write_text(folder / "duplicates.csv", duplicates_csv(packed, audit))
    write_json(folder / "audit.json", {"source": source, **audit_record(packed, audit)})
    return summary


def audit_record(packed: PackedImages, audit: Audit) -> dict[str, Any]:
    """Returns all results of an audit, for `audit.json`."""
    return {
        "images": len(packed),
        "near_threshold": audit.threshold,
        "class_counts": {
            part: dict(zip(packed.classes, counts, strict=True)) for part, counts in audit.class_counts.items()
        },
        "exact": _counts(audit.exact),
        "near": _counts(audit.near),
        "redundant": audit.redundant,
        "copies": [asdict(duplicates) for duplicates in audit.duplicates],
        "constant": [str(packed.names[row]) for row in audit.constant],
        "skipped": list(packed.skipped),
    }


def duplicates_csv(packed: PackedImages, audit: Audit) -> str:
    """Returns the text of `duplicates.csv`: one row for each image of each group.

    An image with identical and near duplicates is listed twice: in its group of kind `exact`, and in the group of kind
    `near` with all its duplicates. `nearest` is the other image with the greatest correlation, `correlation` is that
    value; both are empty for constant images.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for kind, groups in (("exact", audit.exact), ("near", audit.near)):
        for number, group in enumerate(groups, start=1):
            writer.writerows((kind, number, *_cells(packed, audit, row)) for row in group.rows)
    return file.getvalue()


def _cells(packed: PackedImages, audit: Audit, row: int) -> tuple[str, ...]:
    nearest = audit.nearest[row]
    names = [str(packed.parts[row]), packed.classes[packed.labels[row]], str(packed.names[row])]
    names.append(str(packed.names[nearest]) if nearest >= 0 else "")
    return (*map(no_formula, names), f"{audit.correlation[row]:.4f}" if nearest >= 0 else "")


def _counts(groups: Sequence[Group]) -> dict[str, int]:
    images = sum(len(group.rows) for group in groups)
    return {
        "groups": len(groups),
        "images": images,
        "extra_images": images - len(groups),
        "groups_across_parts": sum(group.crosses for group in groups),
        "groups_with_different_labels": sum(group.conflicts for group in groups),
        "images_with_different_labels": sum(len(group.rows) for group in groups if group.conflicts),
    }


def _summary(packed: PackedImages, audit: Audit) -> list[Block]:
    return [
        Paragraph(_headline(packed, audit), lead=True),
        Heading("Images of each class"),
        _class_table(packed, audit),
        Heading("Duplicates"),
        Paragraph(_duplicates_note(packed, audit)),
        _groups_table(audit),
        Heading("Duplicates within and across parts"),
        Paragraph(_PARTS_NOTE),
        _parts_table(audit),
        Heading("What to do"),
        _advice(packed, audit),
    ]


def _headline(packed: PackedImages, audit: Audit) -> str:
    leaks = [duplicates for duplicates in audit.duplicates if duplicates.within == "train" != duplicates.part]
    if not leaks:
        exact, copied = _counts(audit.exact)["extra_images"], len(_copied(audit))
        return (
            f"{exact:,} of {len(packed):,} images are identical to an earlier image, and {copied:,} "
            f"({copied / len(packed):.1%}) have another that correlates with them at {audit.threshold:g} or more."
        )
    held_out = sum(sum(audit.class_counts[leak.part]) for leak in leaks)
    exact, near = sum(leak.exact for leak in leaks), sum(leak.near for leak in leaks)
    return (
        f"Of {held_out:,} images outside the training part, {exact:,} ({exact / held_out:.1%}) are identical to a "
        f"training image, and {near:,} ({near / held_out:.1%}) correlate with one at {audit.threshold:g} or more."
    )


def _class_table(packed: PackedImages, audit: Audit) -> Table:
    counts = [*audit.class_counts.values()]
    counts = [*counts, [sum(column) for column in zip(*counts, strict=True)]]
    rows = [(name, *(f"{count:,}" for count in row)) for name, *row in zip(packed.classes, *counts, strict=True)]
    total = ("all", *(f"{sum(count):,}" for count in counts))
    return Table(("class", *audit.class_counts, "all"), "l" + "r" * len(counts), rows, footer=[total])


def _duplicates_note(packed: PackedImages, audit: Audit) -> str:
    channels, height, width = packed.images.shape[1:]
    colour = "grey" if channels == 1 else "colour"
    return (
        f"Compared are copies of {width} x {height} pixels in {colour}. Identical: equal in every pixel. Nearly "
        f"identical: the pixels of two images correlate at {audit.threshold:g} or more, regardless of brightness and "
        "contrast. Chains of such pairs make a group, so some images of a group may be less similar; identical images "
        "in the group are counted too."
    )


def _groups_table(audit: Audit) -> Table:
    exact, near = _counts(audit.exact), _counts(audit.near)
    rows = [(name.replace("_", " "), f"{exact[name]:,}", f"{near[name]:,}") for name in exact]
    return Table(("", "identical", "nearly identical"), "lrr", rows)


def _parts_table(audit: Audit) -> Table:
    near = f"correlation of {audit.threshold:g} or more"
    header = ("images of", "with a duplicate in", "identical", "identical with the same label", near)
    rows = [
        (pair.part, pair.within, f"{pair.exact:,}", f"{pair.same_label:,}", f"{pair.near:,}")
        for pair in audit.duplicates
    ]
    return Table(header, "llrrr", rows)


def _appendix(packed: PackedImages, audit: Audit, sheet: Path) -> Iterator[Block]:
    constant = [str(packed.names[row]) for row in audit.constant]
    if constant:
        yield Heading("Constant images")
        yield Paragraph(f"Their pixels have a standard deviation below {MIN_CONTRAST:g} of 255.")
        yield _list(constant)
    if packed.skipped:
        yield Heading("Broken images")
        yield Paragraph("They are not in the counts above.")
        yield _list(packed.skipped)
    yield Heading("Contact sheet")
    yield ImageBlock("Groups of duplicates, numbered as in duplicates.csv", sheet)


def _list(names: Sequence[str]) -> Table:
    rows = [(name,) for name in names[:NAMES_SHOWN]]
    hidden = len(names) - len(rows)
    return Table(("file",), "l", rows, footer=[(f"{hidden:,} more in audit.json",)] if hidden else [])


def _advice(packed: PackedImages, audit: Audit) -> Table:
    remedies = (*_duplicate_remedies(packed, audit), *_image_remedies(packed, audit))
    rows = [(finding, f"{count:,}", remedy) for finding, count, remedy in remedies if count]
    nothing = ("no duplicates, unusable images or rare classes", "", "nothing")
    return Table(("finding", "count", "what to do"), "lrl", rows or [nothing])


def _duplicate_remedies(packed: PackedImages, audit: Audit) -> Iterator[Remedy]:
    training = packed.parts == "train"
    # split=clean needs a validation part and a test part; other data must be cleaned by hand.
    cleanable = {"val", "public"} & {*audit.class_counts} and {"test", "private"} & {*audit.class_counts}
    remedy = "split=clean leaves them out of training" if cleanable else "remove the files that duplicates.csv lists"
    yield (
        "training images that are identical to images of other parts",
        int(np.isin(packed.hashes[training], packed.hashes[~training]).sum()),
        f"Metrics on those parts are too high: {remedy}. Near duplicates remain.",
    )
    yield (
        "training images that are identical to an earlier training image",
        audit.redundant.get("train", 0),
        "split=report with group_duplicates=true puts all images of a group into training, or all into validation.",
    )
    yield (
        "images with an identical or nearly identical other image",
        len(_copied(audit)),
        f"A random split puts copies on both sides, and metrics are too high: of a random fifth, "
        f"{_split_copies(audit):,.0f} images would have a copy in training. group_duplicates=true keeps identical "
        "images together, group_by=<pattern of names> all images of a person or film.",
    )
    yield (
        "groups of identical images with different labels",
        _counts(audit.exact)["groups_with_different_labels"],
        "At most one label is right, and no setting can choose it: correct the files that duplicates.csv lists.",
    )


def _copied(audit: Audit) -> NDArray[np.int64]:
    """Returns the rows, int64 [n], of the images that have an identical or nearly identical other image."""
    exact = np.zeros(len(audit.correlation), bool)  # [N]; constant images have no correlation, but can be identical
    for group in audit.exact:
        exact[group.rows] = True
    return np.flatnonzero(exact | (audit.correlation >= audit.threshold))


def _split_copies(audit: Audit) -> float:
    """Returns how many images of a random fifth are expected to have a copy among the other images.

    An image of a group of n is in the fifth with probability 0.2, and all other n - 1 are there with 0.2 ** (n - 1).
    Groups count as if each two of their images were copies.
    """
    near = np.concatenate([np.empty(0, np.int64), *(group.rows for group in audit.near)])
    groups = [*audit.near, *(group for group in audit.exact if not np.isin(group.rows, near).any())]
    return sum(_FIFTH * len(group.rows) * (1 - _FIFTH ** (len(group.rows) - 1)) for group in groups)


def _image_remedies(packed: PackedImages, audit: Audit) -> Iterator[Remedy]:
    yield "constant images", len(audit.constant), "They show nothing: remove the files."
    yield "broken images", len(packed.skipped), "Training stops at them unless on_bad_image=skip is given."
    sizes = np.sum([*audit.class_counts.values()], axis=0)
    advice = (
        "Training needs images of every class: exclude=[<class>,...] trains without them, split=test_only evaluates on "
        "the other classes."
    )
    yield "classes without images", int((sizes == 0).sum()), advice
    present = np.flatnonzero(sizes)
    rare, common = (present[index] for index in (sizes[present].argmin(), sizes[present].argmax()))
    ratio = round(sizes[common] / sizes[rare])
    yield (
        f"times as many images of {packed.classes[common]} as of {packed.classes[rare]}",
        ratio if ratio > _MAX_IMBALANCE else 0,
        "Read macro F1 beside accuracy; the setting balance compensates for rare classes.",
    )
