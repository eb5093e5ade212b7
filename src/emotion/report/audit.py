"""The files of an audit: pages and pictures for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from emotion.analysis.contact_sheet import contact_sheet
from emotion.analysis.document import Block, Document, Heading, Paragraph, Picture, Table, to_html, to_markdown
from emotion.analysis.figures import save
from emotion.data.audit import MIN_CONTRAST, Audit, Group, Track, audit_images
from emotion.data.classes import CLASSES
from emotion.data.datamodule import SOURCE_SETTINGS, EmotionDataModule
from emotion.data.packed import PackedImages
from emotion.training.folder import make_results_folder, write_json, write_text

NAMES_SHOWN = 20
COLUMNS = ("kind", "group", "part", "label", "name", "nearest", "correlation")
Remedy = tuple[str, int, str]
"""What can be found, how often it was, and what to do about it."""

_FAIR_IMBALANCE = 2
_PARTS_NOTE = (
    "How many images of one part have a copy in another; within a part, another image must be the copy. Identical "
    "images count in the last column too, except constant ones, whose correlation is not defined."
)


def run_audit(data: EmotionDataModule, threshold: float, folder: Path, track: Track = iter) -> Document:
    """Audits all images of a source and writes what was found.

    Args:
        data: whose source is audited; its split does not matter.
        threshold: as in `emotion.data.audit.audit_images`, like `track`.
        folder: gets `audit.md`, `audit.html`, `audit.json`, `duplicates.csv` and `contact_sheet.png`.
        track: wraps the steps of the search, to show its progress.

    Returns:
        What is worth reading at once: the figures, and what to do about them.

    Raises:
        UserError: no usable data, a threshold that is not between 0 and 1, or a folder that cannot be made.
    """
    packed = data.packed
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
    """Returns all figures of an audit, for `audit.json`."""
    return {
        "images": len(packed),
        "near_threshold": audit.threshold,
        "class_counts": {part: dict(zip(CLASSES, counts, strict=True)) for part, counts in audit.class_counts.items()},
        "exact": _figures(audit.exact),
        "near": _figures(audit.near),
        "redundant": audit.redundant,
        "copies": [asdict(copies) for copies in audit.duplicates],
        "constant": [str(packed.names[row]) for row in audit.constant],
        "skipped": list(packed.skipped),
    }


def duplicates_csv(packed: PackedImages, audit: Audit) -> str:
    """Writes one row for each image of each group, for `duplicates.csv`.

    An image that has identical and near copies is listed twice: in its group of kind `exact`, and in the group of kind
    `near` with all of them. `nearest` is the most similar other image and `correlation` how similar it is; both are
    empty for constant images.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for kind, groups in (("exact", audit.exact), ("near", audit.near)):
        for number, group in enumerate(groups, start=1):
            writer.writerows((kind, number, *_cells(packed, audit, row)) for row in group.rows)
    return file.getvalue()


def _cells(packed: PackedImages, audit: Audit, row: int) -> tuple[str, ...]:
    own = (str(packed.parts[row]), CLASSES[packed.labels[row]], str(packed.names[row]))
    nearest = audit.nearest[row]
    return (*own, str(packed.names[nearest]), f"{audit.correlation[row]:.4f}") if nearest >= 0 else (*own, "", "")


def _figures(groups: Sequence[Group]) -> dict[str, int]:
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
        _class_table(audit),
        Heading("Duplicates"),
        Paragraph(_copies_note(audit)),
        _groups_table(audit),
        Heading("Duplicates within and across parts"),
        Paragraph(_PARTS_NOTE),
        _parts_table(audit),
        Heading("What to do"),
        _advice(packed, audit),
    ]


def _headline(packed: PackedImages, audit: Audit) -> str:
    leaks = [copies for copies in audit.duplicates if copies.within == "train" != copies.part]
    if not leaks:
        return f"{_figures(audit.exact)['extra_images']:,} of {len(packed):,} images repeat another one exactly."
    held_out = sum(sum(audit.class_counts[copies.part]) for copies in leaks)
    exact, near = sum(copies.exact for copies in leaks), sum(copies.near for copies in leaks)
    return (
        f"Of {held_out:,} images outside the training part, {exact:,} ({exact / held_out:.1%}) have an identical image "
        f"in it, and {near:,} ({near / held_out:.1%}) one that correlates by {audit.threshold:g} or more."
    )


def _class_table(audit: Audit) -> Table:
    counts = [*audit.class_counts.values()]
    counts = [*counts, [sum(column) for column in zip(*counts, strict=True)]]
    rows = [(name, *(f"{count:,}" for count in row)) for name, *row in zip(CLASSES, *counts, strict=True)]
    total = ("all", *(f"{sum(count):,}" for count in counts))
    return Table(("class", *audit.class_counts, "all"), "l" + "r" * len(counts), rows, footer=[total])


def _copies_note(audit: Audit) -> str:
    return (
        "Identical: equal in every pixel. Nearly identical: the pixels of two images correlate by "
        f"{audit.threshold:g} or more, whatever their brightness and contrast. Chains of such pairs make a group, so "
        "its ends may be less alike; identical images in it count too."
    )


def _groups_table(audit: Audit) -> Table:
    exact, near = _figures(audit.exact), _figures(audit.near)
    rows = [(name.replace("_", " "), f"{exact[name]:,}", f"{near[name]:,}") for name in exact]
    return Table(("", "identical", "nearly identical"), "lrr", rows)


def _parts_table(audit: Audit) -> Table:
    header = ("images of", "with a copy in", "identical", "same label too", f"correlation from {audit.threshold:g}")
    rows = [
        (copies.part, copies.within, f"{copies.exact:,}", f"{copies.same_label:,}", f"{copies.near:,}")
        for copies in audit.duplicates
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
        yield Paragraph("They are left out of all figures.")
        yield _list(packed.skipped)
    yield Heading("Contact sheet")
    yield Picture("Groups of copies; their numbers are those in duplicates.csv", sheet)


def _list(names: Sequence[str]) -> Table:
    rows = [(name,) for name in names[:NAMES_SHOWN]]
    hidden = len(names) - len(rows)
    return Table(("file",), "l", rows, footer=[(f"{hidden:,} more in audit.json",)] if hidden else [])


def _advice(packed: PackedImages, audit: Audit) -> Table:
    remedies = (*_copy_remedies(packed, audit), *_image_remedies(packed, audit))
    rows = [(found, f"{count:,}", remedy) for found, count, remedy in remedies if count]
    nothing = ("no copies, useless images or rare classes", "", "nothing")
    return Table(("found", "how many", "what to do"), "lrl", rows or [nothing])


def _copy_remedies(packed: PackedImages, audit: Audit) -> Iterator[Remedy]:
    training = packed.parts == "train"
    # What split=clean needs; other data has to be cleaned by hand.
    cleanable = {"val", "public"} & {*audit.class_counts} and {"test", "private"} & {*audit.class_counts}
    remedy = "split=clean leaves them out of training" if cleanable else "remove them, duplicates.csv names them"
    yield (
        "training images that are identical to images of other parts",
        int(np.isin(packed.hashes[training], packed.hashes[~training]).sum()),
        f"Results on those parts are too good: {remedy}. Near copies stay.",
    )
    yield (
        "training images that repeat another one",
        audit.redundant.get("train", 0),
        "split=report with group_duplicates=true keeps them on one side of its cut: all train, or all validate.",
    )
    yield (
        "groups of identical images with different labels",
        _figures(audit.exact)["groups_with_different_labels"],
        "At most one label is right, and no setting decides which. duplicates.csv names the files to correct.",
    )


def _image_remedies(packed: PackedImages, audit: Audit) -> Iterator[Remedy]:
    yield "constant images", len(audit.constant), "They show nothing: remove the files."
    yield "broken images", len(packed.skipped), "Training stops at them unless on_bad_image=skip is given."
    sizes = np.sum([*audit.class_counts.values()], axis=0)
    yield "classes without images", int((sizes == 0).sum()), "Training needs all; split=test_only tests on the others."
    present = np.flatnonzero(sizes)
    rare, common = (present[place] for place in (sizes[present].argmin(), sizes[present].argmax()))
    ratio = round(sizes[common] / sizes[rare])
    yield (
        f"times as many images of {CLASSES[common]} as of {CLASSES[rare]}",
        ratio if ratio > _FAIR_IMBALANCE else 0,
        "Look at macro F1 beside accuracy; balance= makes up for rare classes.",
    )
