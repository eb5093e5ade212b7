"""The report page: selects its sections, writes them and their figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from emotion.analysis.agreement_tables import TITLE as AGREEMENT
from emotion.analysis.document import (
    Block,
    Details,
    Document,
    Heading,
    ImageBlock,
    Paragraph,
    Table,
    to_html,
    to_markdown,
)
from emotion.analysis.exports import find_tables, to_csv, to_latex
from emotion.analysis.figures import save
from emotion.data.votes import VotesFile, open_votes
from emotion.report import measures
from emotion.report.agreement import configurations_agreement
from emotion.report.configurations import Configuration, group
from emotion.report.curves import MAX_CURVES, comparison_figure
from emotion.report.evaluations import Evaluation, evaluation_blocks, find_evaluations
from emotion.report.figures import pairs_figure, published_figure
from emotion.report.pictures import configuration_blocks
from emotion.report.runs import Run, find_runs
from emotion.report.sections import Section, make_sections
from emotion.report.tables import detailed_scores, folds_table, published_tables
from emotion.report.validation import validation_blocks
from emotion.report.verdict import overall
from emotion.training.folder import make_results_folder, write_text

TITLE = "FER2013: the paper and our runs"
OWN_TITLE = "Facial emotion recognition: runs"
MAX_COMPARED = 30
_WRITTEN = "% Written by emotion report, which replaces it.\n"

_READING = [
    "All metrics of our runs are computed from their saved predictions. A value is the mean over seeds ± their sample "
    "standard deviation; with one seed there is no deviation. Runs that differ in more than the seed, or in their test "
    "images, have separate rows. A name has the settings in which runs of the same recipe differ, and the line below "
    "it the others that differ from the recipe. Data, split and classes divide the page into sections; runs of "
    "different sections are never compared.",
    "A 95 % interval shows how much a metric would vary on other images of the same kind (percentile bootstrap over "
    "the test images, 2,000 resamples). The variation over seeds is not in it, but in the standard deviation. With "
    "several seeds the bounds are the means of the seeds' bounds. Of cross-validations, the interval counts the images "
    "of all folds together.",
    "Validation images chose the epoch of each run and the temperature; test images chose nothing. Choose between runs "
    "by their validation accuracy too: a choice by test accuracy makes that too high.",
    "The folder tables beside this page has its tables as CSV, with exact numbers, and as LaTeX for the package "
    "booktabs.",
]
_TRAIN_ACCURACY = (
    "Train accuracy was logged during training in the best epoch, with augmentation and dropout, as in Keras."
)
_FOLDS = (
    "Every image is in one fold and is a test image there. The deviation is over folds (and seeds, if there are "
    "several); folds share training images, so it is too small for a standard error. “All images” counts the "
    "predictions of all folds that were run together."
)
_VERDICT = (
    "The paper is “Emotion detection from images”, Università di Pisa, 2022/23. The verdict compares the 95 % interval "
    "with the published test accuracy, which is rounded to two decimals and so stands for a range: they agree if "
    "interval and range overlap. Where several configurations repeat a run of the paper, the summary counts the one "
    "with the fewest differences from its recipe, and among equals the one with the most seeds; one that gives every "
    "image the same class counts only if there is no other, or if the paper's accuracy can be had in that way. Runs on "
    "drawn faces, with other splits, or with random weights in place of ImageNet weights get no verdict."
)
_UNTESTED = "These runs were not evaluated on the test images, so only their validation metrics can be compared."
_DUPLICATES = (
    "“Without duplicates” leaves out the test images that are pixel-identical to an image of the training part."
)
_HALVES = "PublicTest and PrivateTest are the two halves of the test images of FER2013."
_CURVES = (
    "Mean over the runs of a configuration, with their sample standard deviation as a band, up to the last epoch that "
    "all of them reached. Losses far above most others are cut off; runs without readable curves are not drawn."
)
_PROTOCOL = (
    "Runs with split=official or split=clean: PublicTest chose the epoch, and the temperature for NLL and ECE. "
    "Test-time augmentation averages the probabilities of several views of each image. An ensemble averages the "
    "probabilities of the networks of several seeds."
)
_CALIBRATION = (
    "NLL is the mean negative log likelihood, ECE the gap between confidence and accuracy in 15 bins of confidence, "
    "weighted by their images, Brier the squared error of the probabilities, summed over the classes and averaged over "
    "the images; lower is better. After: with the logits divided by "
    "the temperature that has the lowest NLL on the validation images."
)
_PAIRS = (
    "Both configurations of a pair classify the same images. The better one is named if its p-value, corrected by Holm "
    "for the number of pairs, is below 0.05."
)
_PAIRS_FIGURE = (
    "The figure shows the accuracy of the row minus that of the column, in percentage points: blue where the row is "
    "better, red where it is worse."
)
_PAIRS_TESTS = (
    "With several seeds, the difference is that of the mean accuracies "
    "over all seeds, and its standard error adds the variance over images and the variance over seeds (Student's t, "
    "degrees of freedom of Welch and Satterthwaite). The part of the variance that images and seeds share counts twice "
    "in it, so that small differences are missed rather than seen where there are none. With one seed each it is "
    "McNemar's exact test, which compares two networks and not two methods: another seed can turn the result. Over "
    "folds it is the corrected t-test of Nadeau and Bengio."
)
_MARKS = (
    "Marks beside the accuracy: significantly below the highest accuracy that it was compared with, over all seeds or "
    "folds, with p below 0.05 (*), 0.01 (**) or 0.001 (***), corrected by Holm for all pairs. A dagger (†, corrected p "
    "below 0.05) compares one network each by McNemar's test, and says nothing about other seeds."
)


def write_report(paths: Sequence[Path], folder: Path, votes: Path | None = None) -> tuple[Path, str]:
    """Writes `report.md`, its figures, `report.html`, and the tables as CSV and LaTeX into the folder `tables`.

    Args:
        paths: folders that are runs or contain runs at any depth.
        folder: the folder to write to.
        votes: file with the votes of people on images of FER2013 (see `emotion.data.votes.open_votes`); the page then
            says how the networks agree with them. None for none.

    Returns:
        The path of the HTML page, and the overall verdict.

    Raises:
        UserError: a path contains no run, the folder cannot be made, the file of votes is broken, or no image has any.
    """
    ballots = open_votes(votes) if votes else None
    runs, skipped = find_runs(paths)
    evaluations, skipped_evaluations = find_evaluations(paths)
    if ballots:
        _require_votes(ballots, runs, evaluations)
    make_results_folder(folder)
    configurations, repeated = group(runs)
    tested, validated = ([one for one in configurations if one.first.tested == each] for each in (True, False))
    verdict = _verdict(tested, validated, len(evaluations))
    blocks = [Paragraph(verdict, lead=True), *_tested(tested, folder, ballots)]
    if validated:
        blocks += [Heading("Validation results"), *validation_blocks(validated), *_curves(validated, folder)]
        blocks += _validated_agreement(validated, ballots)
    if evaluations:
        blocks += [
            Heading("Evaluations of checkpoints"),
            *_without_repeated_text(evaluation_blocks(evaluations, ballots)),
        ]
    if left_out := [*skipped, *skipped_evaluations, *repeated]:
        blocks += [Heading("Skipped runs"), measures.skipped_table(left_out)]
    repeats = _repeats_paper(tested)
    reading = [*_READING, _TRAIN_ACCURACY, _VERDICT] if repeats else _READING
    blocks += [Heading("How to read this page"), *map(Paragraph, reading)]
    document = Document(TITLE if repeats else OWN_TITLE, blocks, contents=True)
    write_text(folder / "report.md", to_markdown(document, folder))
    write_text(folder / "report.html", to_html(document))
    _write_tables(list(find_tables(blocks)), folder / "tables")
    return folder / "report.html", verdict


def _write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Writes tables as CSV and LaTeX, and removes those that an earlier page left; its LaTeX begins with `_WRITTEN`."""
    names = {table.name for table in tables}
    for old in folder.glob("*.tex"):
        if old.stem not in names and old.read_bytes().startswith(_WRITTEN.encode()):
            old.unlink()
            old.with_suffix(".csv").unlink(missing_ok=True)
    for table in tables:
        write_text(folder / f"{table.name}.csv", to_csv(table))
        write_text(folder / f"{table.name}.tex", _WRITTEN + to_latex(table))


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


def _require_votes(votes: VotesFile, runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> None:
    """Refuses votes that are on none of the images of the page."""
    stages = [*(run.stages for run in runs), *(evaluation.stages for evaluation in evaluations)]
    named = [shown.ids.tolist() for each in stages for shown in each.values()]
    if named and not any(votes.on(names).counts.any() for names in named):
        votes.require_on(list(dict.fromkeys(chain.from_iterable(named))))


def _tested(configurations: Sequence[Configuration], folder: Path, votes: VotesFile | None) -> list[Block]:
    blocks: list[Block] = []
    if _repeats_paper(configurations):
        blocks += [*_overview(configurations, folder), *published_tables(configurations)]
        blocks += [Heading("Precision, recall and F1 of each class"), *detailed_scores(configurations)]
    sections = [block for section in make_sections(configurations) for block in _section(section, folder, votes)]
    blocks += _without_repeated_text(sections)
    if configurations:
        blocks += [Heading("Each configuration"), *_details(configurations, folder)]
    return blocks


def _without_repeated_text(blocks: Sequence[Block]) -> list[Block]:
    """Leaves out the explanations that an earlier section has given."""
    told: set[str] = set()
    kept: list[Block] = []
    for block in blocks:
        if isinstance(block, Paragraph):
            if block.text in told:
                continue
            told.add(block.text)
        kept.append(block)
    return kept


def _overview(configurations: Sequence[Configuration], folder: Path) -> list[Block]:
    comparable = [shown for shown in configurations if shown.published and not shown.not_comparable_because]
    if not comparable:
        return [Paragraph("No run can be compared with the paper yet, so there is no figure of both.")]
    return [_image("Test accuracy, published and ours", published_figure(comparable), folder / "published.png")]


def _section(section: Section, folder: Path, votes: VotesFile | None) -> Iterator[Block]:
    """Yields the tables and figures of a section, with its own heading if the page has several sections."""
    if not section.only:
        yield Heading(section.name)
    for title, content in _measures(section, folder, votes):
        if content:
            yield Heading(section.heading(title), 2 if section.only else 3)
            yield from (_named(block, section) for block in content)


def _named(block: Block, section: Section) -> Block:
    """Gives the files of a section's tables names that differ from those of other sections, and the data as caption."""
    if isinstance(block, Details):
        return replace(block, blocks=[_named(part, section) for part in block.blocks])
    if isinstance(block, Table) and block.name:
        return replace(block, name=section.file(block.name), caption=f"{section.name}. {block.caption}")
    return block


def _measures(section: Section, folder: Path, votes: VotesFile | None) -> Iterator[tuple[str, Sequence[Block]]]:
    """Yields the title and the blocks of each part of a section; a part without blocks is left out."""
    shown = section.configurations
    best = sorted(shown, key=lambda one: one.val_accuracy.mean, reverse=True)[:MAX_COMPARED]
    compared = sorted(best, key=lambda one: one.number)
    pairs = measures.compare_pairs(compared)
    marks = measures.significance_marks(compared, pairs)
    results = measures.metrics_table(shown, marks)
    results = replace(results, caption=f"{results.caption} {_MARKS}") if marks else results
    limit = _limit(section)
    yield "Runs", [Paragraph(section.facts), results, *([Paragraph(_MARKS), *limit] if marks else [])]
    folds = folds_table(shown)
    yield "Cross-validation", [Paragraph(_FOLDS), folds] if folds.rows else []
    yield "PublicTest chooses, PrivateTest is read once", _protocol(shown)
    yield "Test images and their parts", _parts(shown)
    yield AGREEMENT, configurations_agreement(shown, votes)
    yield "Learning curves", _section_curves(section, folder)
    yield "Comparison of every two runs", _pairs(section, pairs, folder)
    yield "Calibration", [Paragraph(_CALIBRATION), measures.calibration_table(shown)]
    yield "Time and hardware", [measures.cost_table(shown)]


def _parts(configurations: Sequence[Configuration]) -> list[Block]:
    table = measures.parts_table(configurations)
    halves, distinct = "PublicTest" in table.header, "Without duplicates" in table.header
    notes = [*([_DUPLICATES] if distinct else []), *([_HALVES] if halves else [])]
    return [Paragraph(" ".join(notes)), table] if notes else []


def _protocol(configurations: Sequence[Configuration]) -> list[Block]:
    table = measures.protocol_table(configurations)
    return [Paragraph(_PROTOCOL), table] if table.rows else []


def _validated_agreement(configurations: Sequence[Configuration], votes: VotesFile | None) -> list[Block]:
    """Builds the tables of the votes on PublicTest for runs without test images, with a heading for each section."""
    blocks: list[Block] = []
    for section in make_sections(configurations):
        if content := configurations_agreement(section.configurations, votes):
            blocks.append(Heading(section.heading(f"{AGREEMENT}, validation results"), 3))
            blocks += [
                replace(block, name=section.file(f"validation-{block.name}")) if isinstance(block, Table) else block
                for block in content
            ]
    return _without_repeated_text(blocks)


def _curves(configurations: Sequence[Configuration], folder: Path) -> list[Block]:
    """Builds the learning curves of runs without test images, under a heading for each section."""
    blocks: list[Block] = []
    for section in make_sections(configurations):
        if curves := _section_curves(section, folder, "validation-curves"):
            blocks += [Heading(section.heading("Learning curves of the validation results"), 3), *curves]
    return blocks


def _section_curves(section: Section, folder: Path, name: str = "curves") -> list[Block]:
    """Draws the learning curves of a section, as PNG for the page and as SVG."""
    several = sum(len(configuration.runs) for configuration in section.configurations) > 1
    figure = comparison_figure(section.configurations[:MAX_CURVES]) if several else None
    if figure is None:
        return []
    path = folder / f"{section.file(name)}.png"
    save(figure, path.with_suffix(".svg"))
    hidden = len(section.configurations) > MAX_CURVES
    limit = f" Only the first {MAX_CURVES} of {len(section.configurations)} configurations are drawn." * hidden
    caption = "Validation accuracy and loss over the epochs"
    return [Paragraph(f"{_CURVES}{limit}"), _image(section.heading(caption), figure, path)]


def _pairs(section: Section, pairs: Sequence[measures.Pair], folder: Path) -> list[Block]:
    if not pairs:
        return []
    figure: list[Block] = []
    if len(pairs) > 1:  # one pair would be a figure of one number
        file = folder / f"{section.file('pairs')}.png"
        caption = section.heading("Difference of every two runs, in percentage points")
        figure = [Paragraph(_PAIRS_FIGURE), _image(caption, pairs_figure(pairs), file)]
    significant = sum(pair.significant for pair in pairs)
    summary = f"Table of {len(pairs)} pair{'s' * (len(pairs) != 1)}, {significant} with a significant difference"
    table = Details(section.heading(summary), [measures.pairs_table(pairs)])
    tests = Details(section.heading("How pairs are tested"), [Paragraph(_PAIRS_TESTS)])
    return [Paragraph(_PAIRS), *figure, *_limit(section), table, tests]


def _limit(section: Section) -> list[Block]:
    """Says which configurations are compared, where they are too many for all pairs."""
    shown = len(section.configurations)
    text = f"Of {shown} configurations, the {MAX_COMPARED} with the highest validation accuracy are compared."
    return [Paragraph(text)] if shown > MAX_COMPARED else []


def _details(configurations: Sequence[Configuration], folder: Path) -> Iterable[Block]:
    console = Console(stderr=True)
    for configuration in track(configurations, "drawing figures", console=console, disable=not console.is_terminal):
        yield Details(configuration.title, configuration_blocks(configuration, folder / "pictures"))


def _image(caption: str, figure: Figure, file: Path) -> ImageBlock:
    save(figure, file)
    return ImageBlock(caption, file)
