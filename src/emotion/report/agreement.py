"""How the networks of a page agree with the votes of people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from emotion.analysis.agreement import agreement_rows
from emotion.analysis.agreement_tables import AgreementRow, agreement_blocks
from emotion.analysis.document import Block, Paragraph
from emotion.analysis.predictions import Predictions
from emotion.data.votes import NoVotesError, VotesFile
from emotion.report.configurations import Configuration
from emotion.report.measures import ensemble_stages
from emotion.report.tables import shared_parts


def configurations_agreement(configurations: Sequence[Configuration], votes: VotesFile | None) -> list[Block]:
    """Builds the tables of configurations, with the mean probability of several seeds in rows of its own.

    Returns:
        The blocks; none without votes on the images, and a sentence where FER+ does not have the classes.
    """
    try:
        return agreement_blocks(list(configuration_rows(configurations, votes))) if votes else []
    except NoVotesError as error:
        return [not_compared(error)]


def not_compared(error: NoVotesError) -> Paragraph:
    """Returns a sentence on networks whose classes FER+ does not have."""
    return Paragraph(f"Not compared with people. {error}.")


def configuration_rows(configurations: Sequence[Configuration], votes: VotesFile) -> Iterator[AgreementRow]:
    """Yields the rows of configurations: for each part of the held-out images that has votes.

    Raises:
        NoVotesError: there are no votes for one of the classes.
        UserError: the rows of FER+'s own file have another order.
    """
    for configuration in configurations:
        runs = configuration.runs
        # Of a cross-validation, the test images of all folds count together.
        folds = [{"test": predictions} for predictions in configuration.pooled] if configuration.folds else []
        yield from _rows(configuration, configuration.seeds, folds or [run.stages for run in runs], votes)
        if ensemble := ensemble_stages(configuration):
            yield from _rows(configuration, f"ensemble of {len(runs)} seeds", [ensemble], votes)


def _rows(
    configuration: Configuration, networks: str, seeds: Sequence[Mapping[str, Predictions]], votes: VotesFile
) -> Iterator[AgreementRow]:
    found = [{(views, part): one for views, part, one in agreement_rows(stages, votes)} for stages in seeds]
    for name, tta, part, values in shared_parts(configuration, networks, found):
        yield AgreementRow(name, tta, part, values)
