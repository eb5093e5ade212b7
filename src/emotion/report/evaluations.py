"""Evaluations of single and averaged checkpoints, which the page shows beside the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, Field

from emotion.analysis.agreement import agreement_rows
from emotion.analysis.agreement_tables import TITLE, AgreementRow, agreement_blocks
from emotion.analysis.document import Block, Cell, Heading, Row, Table
from emotion.analysis.predictions import Predictions, load_predictions
from emotion.analysis.statistics import bootstrap_interval, summarize
from emotion.data.votes import NoVotesError, VotesFile
from emotion.errors import UserError, first_line
from emotion.report.agreement import not_compared
from emotion.report.runs import SkippedRun, images_digest, read_record
from emotion.report.tables import value_cell
from emotion.training.folder import EVALUATION


class _Record(BaseModel):
    checkpoints: list[str] = Field(min_length=1)
    data: str
    split: str
    tta: str
    seen: str


@dataclass(frozen=True)
class Evaluation:
    """A folder that `evaluate.py` wrote.

    Attributes:
        folder: path of the folder.
        record: checkpoints, data, split, test-time augmentation, and number of test images that were trained on.
        stages: predictions of `test`, with test-time augmentation of `test_tta`, and of the validation images.
    """

    folder: Path
    record: _Record
    stages: dict[str, Predictions]

    @property
    def cell(self) -> Cell:
        """The folder, with the networks as a note."""
        paths = self.record.checkpoints
        networks = ", ".join(paths[:2]) if len(paths) <= 2 else f"{paths[0]}, ..."
        averaged = f"mean of {len(paths)} networks: " if len(paths) > 1 else ""
        return Cell(str(self.folder), f"{averaged}{networks}")


def find_evaluations(paths: Sequence[Path]) -> tuple[list[Evaluation], list[SkippedRun]]:
    """Reads all evaluations in and below some folders, each once, in the order of their paths.

    Returns:
        The evaluations, and the folders of evaluations that cannot be read.
    """
    files = {file.resolve(): file for path in paths for file in sorted(path.rglob(EVALUATION))}
    found, skipped = [], []
    for file in files.values():
        try:
            found.append(_read(file))
        except (UserError, OSError, ValueError) as error:
            skipped.append(SkippedRun(file.parent, f"cannot be read: {first_line(error)}"))
    return found, skipped


def evaluation_blocks(evaluations: Sequence[Evaluation], votes: VotesFile | None = None) -> list[Block]:
    """Builds a table of test metrics for each data, split, classes and images, and the tables of the votes on them.

    A table has a row for each evaluation with and without test-time augmentation.
    """
    groups: dict[tuple[str, str, tuple[str, ...], bytes], list[Evaluation]] = {}
    for evaluation in evaluations:
        record, test = evaluation.record, evaluation.stages["test"]
        groups.setdefault((record.data, record.split, test.classes, images_digest(test)), []).append(evaluation)
    blocks: list[Block] = []
    for number, ((data, split, classes, _), members) in enumerate(groups.items(), 1):
        images = len(members[0].stages["test"])
        title = f"Evaluations on {data}, split={split}, {len(classes)} classes, {images:,} images ({number})"
        name = "evaluations" if len(groups) == 1 else f"evaluations-{number}"
        blocks += [Heading(title, 3)] if len(groups) > 1 else []
        blocks.append(_table(members, name, f"Evaluations of checkpoints on {data}, split={split}."))
        if votes and (agreement := _agreement(members, votes, name)):
            blocks += [Heading(f"{TITLE}: {title if len(groups) > 1 else 'evaluations'}", 3), *agreement]
    return blocks


def _table(evaluations: Sequence[Evaluation], name: str, caption: str) -> Table:
    header = ("Evaluation", "Data", "Test images", "Test-time augmentation", "Accuracy", "Macro F1", "Trained on")
    rows = [
        _row(evaluation, stage)
        for evaluation in evaluations
        for stage in ("test", "test_tta")
        if stage in evaluation.stages
    ]
    return Table(header, "llrlrrl", rows, name=name, caption=caption, best="....++.")


def _agreement(evaluations: Sequence[Evaluation], votes: VotesFile, name: str) -> list[Block]:
    """Builds the tables of the votes; `name` begins the names of their files. None if there are no votes on them."""
    try:
        rows = [
            AgreementRow(evaluation.cell, views if views == "none" else evaluation.record.tta, part, [one])
            for evaluation in evaluations
            for views, part, one in agreement_rows(evaluation.stages, votes)
        ]
    except NoVotesError as error:
        return [not_compared(error)]
    return [
        replace(block, name=f"{name}-{block.name}") if isinstance(block, Table) else block
        for block in agreement_blocks(rows)
    ]


def _read(file: Path) -> Evaluation:
    record = read_record(_Record, file)
    stages = load_predictions(file.with_name("predictions.npz"))
    if not len(stages.get("test", ())):
        raise UserError(f"{file.with_name('predictions.npz')}: no predictions for test images")
    return Evaluation(file.parent, record, stages)


def _row(evaluation: Evaluation, stage: str) -> Row:
    record, predictions = evaluation.record, evaluation.stages[stage]
    matrix, metrics = predictions.matrix(), predictions.metrics()
    return (
        evaluation.cell,
        f"{record.data}, split={record.split}",
        f"{len(predictions):,}",
        record.tta if stage == "test_tta" else "none",
        value_cell(summarize([metrics["acc"]]), bootstrap_interval(matrix, "acc")),
        value_cell(summarize([metrics["f1_macro"]]), bootstrap_interval(matrix, "f1_macro")),
        record.seen,
    )
