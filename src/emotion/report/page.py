"""The report page: selects its sections, writes them and their figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from emotion.analysis.document import Block, Details, Document, Heading, ImageBlock, Paragraph, to_html, to_markdown
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

TITLE = "FER2013: the paper and our runs"
OWN_TITLE = "Facial emotion recognition: runs"
MAX_COMPARED = 30

_READING = [
    "All metrics of our runs are computed from their saved predictions. A value is the mean over seeds ± their sample "
    "standard deviation; with one seed there is no deviation. Runs that differ in more than the seed, or in their test "
    "images, have separate rows. A row names the settings that differ from the recipe, and the data folder if the data "
    "is not FER2013.",
    "A 95 % interval shows how much a metric would vary on other images of the same kind (percentile bootstrap over "
    "the test images, 2,000 resamples). The variation over seeds is not in it, but in the standard deviation. With "
    "several seeds the bounds are the means of the seeds' bounds.",
    "Train accuracy was logged during training in the best epoch, with augmentation and dropout, as in Keras. "
    "Validation images chose that epoch and the temperature; test images chose nothing.",
]
_VERDICT = (
    "The paper is “Emotion detection from images”, Università di Pisa, 2022/23. The verdict compares the 95 % interval "
    "with the published test accuracy, which is rounded to two decimals and so stands for a range: they agree if "
    "interval and range overlap. Runs on drawn faces, with other splits, or with random weights in place of ImageNet "
    "weights get no verdict."
)
_UNTESTED = "These runs were not evaluated on the test images, so only their validation metrics can be compared."
_DUPLICATES = (
    "FER2013 contains duplicates. The column “Without duplicates” leaves out the test images that are pixel-identical "
    "to an image of the training part. PublicTest and PrivateTest are the two halves of the test images."
)
_PROTOCOL = (
    "Runs with split=official or split=clean: PublicTest chose the epoch, and the temperature for NLL and ECE. "
    "Test-time augmentation averages the probabilities of several views of each image. An ensemble averages the "
    "probabilities of the networks of several seeds."
)
_CALIBRATION = (
    "NLL is the mean negative log likelihood, ECE the mean gap between confidence and accuracy over 15 bins of "
    "confidence, Brier the mean squared error of the probabilities; lower is better. After: with the logits divided by "
    "the temperature that has the lowest NLL on the validation images."
)
_PAIRS = (
    "Both runs classify the same images, so McNemar's exact test counts the images that only one of them classifies "
    "correctly. The p-values of all pairs are corrected by Benjamini and Yekutieli; the better run is named if its "
    "corrected p is below 0.05. The first seed of each configuration is compared. The figure shows the accuracy of the "
    "row minus that of the column, in percentage points: blue where the row is better, red where it is worse."
)


def write_report(paths: Sequence[Path], folder: Path) -> tuple[Path, str]:
    """Writes `report.md`, its figures and `report.html`.

    Args:
        paths: folders that are runs or contain runs at any depth.
        folder: the folder to write to.

    Returns:
        The path of the HTML page, and the overall verdict.

    Raises:
        UserError: a path contains no run, or the folder cannot be made.
    """
    runs, skipped = find_runs(paths)
    evaluations, skipped_evaluations = find_evaluations(paths)
    make_results_folder(folder)
    tested, repeated_tested = group([run for run in runs if run.tested])
    validated, repeated_validated = group([run for run in runs if not run.tested])
    verdict = _verdict(tested, validated, len(evaluations))
    blocks = [Paragraph(verdict, lead=True), *_tested(tested, folder)]
    if validated:
        blocks += [Heading("Validation results"), *validation_blocks(validated)]
    if evaluations:
        blocks += [Heading("Evaluations of checkpoints"), evaluations_table(evaluations)]
    if left_out := [*skipped, *skipped_evaluations, *repeated_tested, *repeated_validated]:
        blocks += [Heading("Skipped runs"), measures.skipped_table(left_out)]
    repeats = _repeats_paper(tested)
    reading = [*_READING, _VERDICT] if repeats else _READING
    blocks += [Heading("How to read this page"), *map(Paragraph, reading)]
    document = Document(TITLE if repeats else OWN_TITLE, blocks, contents=True)
    write_text(folder / "report.md", to_markdown(document, folder))
    write_text(folder / "report.html", to_html(document))
    return folder / "report.html", verdict


def _repeats_paper(configurations: Sequence[Configuration]) -> bool:
    """Returns whether any run repeats a run of the paper on FER2013, so that the page needs the paper's tables."""
    return any(shown.published and shown.first.settings["data"] != "synthetic" for shown in configurations)


def _verdict(tested: Sequence[Configuration], validated: Sequence[Configuration], evaluations: int) -> str:
    if _repeats_paper(tested):
        return overall(tested)
    if validated and not tested:
        return _UNTESTED
    runs = sum(len(configuration.runs) for configuration in (*tested, *validated))
    counts = {"configuration": len(tested) + len(validated), "run": runs, "evaluation": evaluations}
    return ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()) + "."


def _tested(configurations: Sequence[Configuration], folder: Path) -> list[Block]:
    repeats = _repeats_paper(configurations)
    others = [configuration for configuration in configurations if not (repeats and configuration.published)]
    blocks: list[Block] = []
    if repeats:
        blocks += [*_overview(configurations, folder), *published_tables(configurations)]
        blocks += [Heading("Precision, recall and F1 of each class"), *detailed_scores(configurations)]
    if others:
        blocks += [Heading("Other runs" if repeats else "Runs"), other_table(others)]
    if configurations:
        blocks += _measures(configurations, folder)
        blocks += [Heading("Each configuration"), *_details(configurations, folder)]
    return blocks


def _overview(configurations: Sequence[Configuration], folder: Path) -> list[Block]:
    comparable = [shown for shown in configurations if shown.published and not shown.not_comparable_because]
    if not comparable:
        return [Paragraph("No run can be compared with the paper yet, so there is no figure of both.")]
    return [_image("Test accuracy, published and ours", published_figure(comparable), folder / "published.png")]


def _measures(configurations: Sequence[Configuration], folder: Path) -> list[Block]:
    return [
        *_protocol(configurations),
        Heading("Test images and their parts"),
        Paragraph(_DUPLICATES),
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
    pairs = measures.compare_pairs(configurations[:MAX_COMPARED])
    if not pairs:
        return []
    figure = _image("Difference of every two runs, in percentage points", pairs_figure(pairs), folder / "pairs.png")
    significant = sum(pair.significant for pair in pairs)
    blocks: list[Block] = [Heading("Comparison of every two runs"), Paragraph(_PAIRS), figure]
    if len(configurations) > MAX_COMPARED:
        blocks.append(Paragraph(f"Only the first {MAX_COMPARED} of {len(configurations)} configurations are compared."))
    summary = f"Table of {len(pairs)} pair{'s' * (len(pairs) != 1)}, {significant} with a significant difference"
    return [*blocks, Details(summary, [measures.pairs_table(pairs)])]


def _details(configurations: Sequence[Configuration], folder: Path) -> Iterable[Block]:
    console = Console(stderr=True)
    for configuration in track(configurations, "drawing figures", console=console, disable=not console.is_terminal):
        yield Details(configuration.title, configuration_blocks(configuration, folder / "pictures"))


def _image(caption: str, figure: Figure, file: Path) -> ImageBlock:
    save(figure, file)
    return ImageBlock(caption, file)
