"""Puts the page together and writes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from emotion.analysis.document import Block, Details, Document, Heading, Paragraph, Picture, to_html, to_markdown
from emotion.analysis.figures import save
from emotion.report import measures
from emotion.report.configurations import Configuration, group
from emotion.report.evaluations import evaluations_table, find_evaluations
from emotion.report.figures import pairs_figure, published_figure
from emotion.report.pictures import configuration_blocks
from emotion.report.runs import find_runs
from emotion.report.tables import detailed_scores, other_table, published_tables
from emotion.report.validation import validation_blocks
from emotion.report.verdict import overall
from emotion.training.folder import make_results_folder, write_text

TITLE = "FER2013: the published report and our runs"
OWN_TITLE = "Facial emotion recognition: runs"
COMPARED_AT_MOST = 30

_READING = [
    "Every figure of ours is counted from the predictions that a run left. It is the mean over seeds ± their sample "
    "standard deviation; with one seed there is no deviation. Runs that differ in more than the seed, or are tested "
    "on other images, stand on lines of their own, which name what they change in the report's recipe, and the folder "
    "of data that is not FER2013's.",
    "A 95 % interval is what drawing other images of the same kind would do to the figure (percentile bootstrap over "
    "the test images, 2,000 draws). It says nothing about other seeds; the standard deviation does. With several seeds "
    "the bounds are the means of theirs.",
    "Train accuracy is the one logged while training in the best epoch, with augmentation and dropout, as Keras logs "
    "it. Validation images chose that epoch, and the temperature; test images chose nothing.",
]
_VERDICT = (
    "The verdict compares that interval with the published test accuracy, which stands for a range since it was "
    "rounded to two decimals: they agree where interval and range meet. Drawn faces, other splits and random weights "
    "in place of ImageNet's get no verdict."
)
_UNTESTED = "These runs left the test images alone, so only what they reached on validation images can be compared."
_COPIES = (
    "FER2013 holds the same picture more than once. The column without a copy leaves out the test images that are "
    "pixel for pixel in the training part too. PublicTest and PrivateTest are the two halves of the test images."
)
_PROTOCOL = (
    "Runs of split=official or clean: PublicTest chose the epoch and the temperature that NLL and ECE are given after. "
    "Views: one is the image as it is, else the mean over several views of each image. Mean of the 5, say, is the "
    "ensemble of the 5 seeds: its probabilities are the means of theirs."
)
_CALIBRATION = (
    "NLL is the mean negative log likelihood, ECE the mean gap between confidence and accuracy over 15 bins of "
    "confidence, Brier the mean squared error of the probabilities; less is better. After: logits divided by one "
    "temperature, the one with the least NLL on the validation images."
)
_PAIRS = (
    "Both runs answer the same images, so only those count on which one of them alone is right (McNemar's exact test). "
    "The corrected p is Benjamini and Yekutieli's for all pairs; the better run is named where it is below 0.05. First "
    "seed of each configuration. In the picture: accuracy of the row minus that of the column, in points; blue where "
    "the row is better, red where it is worse."
)


def write_report(paths: Sequence[Path], folder: Path) -> tuple[Path, str]:
    """Writes `report.md`, its pictures and `report.html`.

    Args:
        paths: folders in or below which runs lie.
        folder: where to.

    Returns:
        The HTML page, and the overall verdict.

    Raises:
        UserError: a path without runs, or a folder that cannot be made.
    """
    runs, unused = find_runs(paths)
    evaluations, unread = find_evaluations(paths)
    make_results_folder(folder)
    tested, repeated = group([run for run in runs if run.tested])
    validated, again = group([run for run in runs if not run.tested])
    verdict = _verdict(tested, validated, len(evaluations))
    blocks = [Paragraph(verdict, lead=True), *_tested(tested, folder)]
    if validated:
        blocks += [Heading("What validation prefers"), *validation_blocks(validated)]
    if evaluations:
        blocks += [Heading("Evaluations of checkpoints"), evaluations_table(evaluations)]
    if left_out := [*unused, *unread, *repeated, *again]:
        blocks += [Heading("Runs that are left out"), measures.skipped_table(left_out)]
    repeats = _repeats_paper(tested)
    reading = [*_READING, _VERDICT] if repeats else _READING
    blocks += [Heading("How to read this page"), *map(Paragraph, reading)]
    document = Document(TITLE if repeats else OWN_TITLE, blocks, contents=True)
    write_text(folder / "report.md", to_markdown(document, folder))
    write_text(folder / "report.html", to_html(document))
    return folder / "report.html", verdict


def _repeats_paper(configurations: Sequence[Configuration]) -> bool:
    """Whether any run repeats one of the paper on FER2013, so that its tables belong on the page."""
    return any(one.published and one.first.settings["data"] != "synthetic" for one in configurations)


def _verdict(tested: Sequence[Configuration], validated: Sequence[Configuration], evaluations: int) -> str:
    if _repeats_paper(tested):
        return overall(tested)
    if validated and not tested:
        return _UNTESTED
    runs = sum(len(one.runs) for one in (*tested, *validated))
    counts = {"configuration": len(tested) + len(validated), "run": runs, "evaluation": evaluations}
    return ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()) + "."


def _tested(configurations: Sequence[Configuration], folder: Path) -> list[Block]:
    repeats = _repeats_paper(configurations)
    others = [one for one in configurations if not (repeats and one.published)]
    blocks: list[Block] = []
    if repeats:
        blocks += [*_overview(configurations, folder), *published_tables(configurations)]
        blocks += [Heading("Precision, recall and F1 of each class"), *detailed_scores(configurations)]
    if others:
        blocks += [Heading("Other runs" if repeats else "Runs"), other_table(others)]
    if configurations:
        blocks += _measures(configurations, folder)
        blocks += [Heading("Each configuration"), *_each(configurations, folder)]
    return blocks


def _overview(configurations: Sequence[Configuration], folder: Path) -> list[Block]:
    comparable = [one for one in configurations if one.published and not one.not_comparable_because]
    if not comparable:
        return [Paragraph("No run can be compared with the report yet, so there is no picture of both.")]
    return [_picture("Test accuracy, published and ours", published_figure(comparable), folder / "published.png")]


def _measures(configurations: Sequence[Configuration], folder: Path) -> list[Block]:
    return [
        *_protocol(configurations),
        Heading("Test images and their parts"),
        Paragraph(_COPIES),
        measures.metrics_table(configurations),
        *_pairs(configurations, folder),
        Heading("Calibration"),
        Paragraph(_CALIBRATION),
        measures.calibration_table(configurations),
        Heading("Time and hardware"),
        measures.cost_table(configurations),
    ]


def _protocol(configurations: Sequence[Configuration]) -> list[Block]:
    table = measures.protocol_table(configurations)
    if not table.rows:
        return []
    return [Heading("PublicTest chooses, PrivateTest is read once"), Paragraph(_PROTOCOL), table]


def _pairs(configurations: Sequence[Configuration], folder: Path) -> list[Block]:
    pairs = measures.compare_pairs(configurations[:COMPARED_AT_MOST])
    if not pairs:
        return []
    figure = _picture("Difference of every two runs, in points", pairs_figure(pairs), folder / "pairs.png")
    better = sum(pair.significant for pair in pairs)
    blocks: list[Block] = [Heading("Any two runs against each other"), Paragraph(_PAIRS), figure]
    if len(configurations) > COMPARED_AT_MOST:
        blocks.append(Paragraph(f"Only the first {COMPARED_AT_MOST} of {len(configurations)} are compared."))
    blocks.append(
        Details(f"Pair by pair: {len(pairs)}, {better} of them with a better run", [measures.pairs_table(pairs)])
    )
    return blocks


def _each(configurations: Sequence[Configuration], folder: Path) -> Iterable[Block]:
    console = Console(stderr=True)
    for one in track(configurations, "drawing pictures", console=console, disable=not console.is_terminal):
        yield Details(one.title, configuration_blocks(one, folder / "pictures"))


def _picture(caption: str, figure: Figure, file: Path) -> Picture:
    save(figure, file)
    return Picture(caption, file)
