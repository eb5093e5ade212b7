"""The part of a page that shows how networks agree with the votes of people: tables, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emotion.analysis.agreement import Agreement, Confusion, People
from emotion.analysis.document import Block, Cell, Paragraph, Row, Table
from emotion.analysis.statistics import summarize

TITLE = "What people would have said"
_READING = (
    "Ten people each named the expression of every image of FER2013 (FER+, arXiv:1608.01041). This page only reads "
    "their votes. Runs with labels=ferplus were trained on them, and the label of their images is the vote. A share "
    "counts all votes on an image, also those for unknown, for no face, and for expressions that the network does not "
    "have.",
    "“Share of votes” is the mean share of the votes that the prediction got: how often the network agrees with a "
    "person. Two people agree as often as the row “one person” says; one answer for each image cannot agree more "
    "often than the row “the answer with most votes” says. “Most votes” is the accuracy on the images on which one "
    "class of the network has more votes than every other answer, “8 of 10” that on those of them on which it has at "
    "least 8 of 10 votes. “Most votes of the others” leaves out one of the people and compares the network, or in the "
    "row “one person” the one who was left out, with the answer that most of the others gave; equal answers share it. "
    "KL is the Kullback-Leibler divergence of the probabilities from the shares of the votes for the classes "
    "(cross-entropy less entropy), in nats; 0 is the best.",
)
_LABELS = (
    "The label of the data and the class with most votes are the same on some of the images of “Most votes”, and "
    "differ on the others. “Right” is the accuracy where they are the same. Where they differ, the prediction is the "
    "label, the class with most votes, or a third class."
)
_CONFUSED = (
    "The images that a network confuses: the label is one class and the prediction the other. For them, the mean share "
    "of the votes for neutral, for sad and for all other answers; then how often people side with the network (its "
    "prediction has more votes than every other answer) and how often with the label. On the rest, another answer has "
    "most votes, or two have equally many."
)
_NO_IMAGES = Cell("no images", tone="quiet")


@dataclass(frozen=True)
class AgreementRow:
    """A row of the tables: networks of one kind, which differ in their seed, on one part of the images.

    Attributes:
        name: what the row is called.
        views: test-time augmentation; "none" for none.
        part: name of the part of the images.
        agreements: of at least one network.
    """

    name: str | Cell
    views: str
    part: str
    agreements: Sequence[Agreement]

    @property
    def first(self) -> Agreement:
        """The agreement of the first network."""
        return self.agreements[0]

    @property
    def cell_of_name(self) -> Cell:
        """The name as a cell."""
        return self.name if isinstance(self.name, Cell) else Cell(self.name)

    @property
    def full_name(self) -> str:
        """The name, quoted, with its note."""
        cell = self.cell_of_name
        return f"“{cell.text}” ({cell.note})" if cell.note else f"“{cell.text}”"

    @property
    def votes(self) -> float | None:
        """The mean share of the votes that the predictions got; None if a network has no image with votes."""
        known = [one.votes for one in self.agreements if one.votes is not None]
        return summarize(known).mean if len(known) == len(self.agreements) else None

    @property
    def images(self) -> Cell:
        """The part of the images, with the test-time augmentation as a note."""
        return Cell(self.part, "" if self.views == "none" else self.views)

    def cell(self, measure: Callable[[Agreement], float | None]) -> Cell:
        """Returns the mean of a measure over the networks, and its deviation; "no images" if one has none."""
        return _cell([measure(one) for one in self.agreements])

    def count(self, measure: Callable[[Agreement], int]) -> Cell:
        """Returns the mean of a number of images over the networks, which are the same images in most cases."""
        return _count_cell([measure(one) for one in self.agreements])


def agreement_blocks(rows: Sequence[AgreementRow]) -> list[Block]:
    """Builds the tables with the text that says how to read them; nothing without rows."""
    if not rows:
        return []
    texts = filter(None, (headline(rows), *_READING, *_counts(rows)))
    blocks: list[Block] = [*map(Paragraph, texts), _votes_table(rows)]
    blocks += [Paragraph(_LABELS), _labels_table(rows)]
    confused = [line for row in rows for line in _confused_rows(row)]
    if confused:
        measures = ("Votes for neutral", "Votes for sad", "For others", "With the network", "With the label")
        caption = "What people say of the images that networks confuse."
        header = ("Run", "Images", "Label and prediction", "Number", *measures)
        table = Table(header, "lllrrrrrr", confused, name="agreement-confused", caption=caption)
        blocks += [Paragraph(_CONFUSED), table]
    return blocks


def headline(rows: Sequence[AgreementRow]) -> str:
    """Returns how often the network that agrees most with people agrees with a person; "" if that is not known.

    It compares on PrivateTest, or without it on the last part, and only networks with the same images as the last one.
    """
    part = "PrivateTest" if any(row.part == "PrivateTest" for row in rows) else rows[-1].part
    shown = [row for row in rows if row.part == part]
    same = [row for row in shown if row.first.people == shown[-1].first.people]
    best = max(same, key=lambda row: row.votes or 0)
    if best.votes is None or best.first.people.pairs is None:
        return ""
    several = len({row.cell_of_name.text for row in same}) > 1
    verb = "agrees most with people, with a person" if several else "agrees with a person"
    views = "" if best.views == "none" else f", with tta={best.views}"
    return (
        f"On {part} {best.full_name if several else 'the network'} {verb} in {best.votes:.1%} of the cases{views}; two "
        f"people agree in {best.first.people.pairs:.1%}."
    )


def _counts(rows: Sequence[AgreementRow]) -> list[str]:
    """Says for each part how many images count, once for each set of images."""
    texts = {(row.part, row.first.people): _count_text(row.part, row.first.people) for row in rows}
    return list(texts.values())


def _count_text(part: str, people: People) -> str:
    return (
        f"{part}: {people.images:,} of {people.images + people.without_votes:,} images have votes. On "
        f"{people.ties:,} no answer has more votes than every other, on {people.other_answers:,} the answer with most "
        f"votes is no class of the network; the other {people.clear:,} count for “Most votes”, {people.strong:,} of "
        "them for “8 of 10”."
    )


def _votes_table(rows: Sequence[AgreementRow]) -> Table:
    header = ("Run", "Images", "Share of votes", "Most votes", "8 of 10", "Most votes of the others", "KL")
    body = [
        (
            row.name,
            row.images,
            row.cell(lambda one: one.votes),
            row.cell(lambda one: one.clear),
            row.cell(lambda one: one.strong),
            row.cell(lambda one: one.person),
            row.cell(lambda one: one.divergence),
        )
        for row in rows
    ]
    references = {(row.part, row.first.people): _references(row.part, row.first.people) for row in rows}
    footer = [line for lines in references.values() for line in lines]
    caption = "Agreement with the votes of people (FER+). Mean ± sample standard deviation over seeds."
    return Table(header, "llrrrrr", body, footer, name="agreement", caption=caption)


def _references(part: str, people: People) -> list[Row]:
    """Returns the rows that are no networks."""
    label = (_cell([people.label]), _cell([people.label_clear]), _cell([people.label_strong]), "", "")
    return [
        ("one person", part, _cell([people.pairs]), "", "", _cell([people.person]), ""),
        ("the answer with most votes", part, _cell([people.most]), "", "", "", ""),
        ("the label of the data", part, *label),
    ]


def _labels_table(rows: Sequence[AgreementRow]) -> Table:
    header = ("Run", "Images", "Same", "Right", "Differ", "Says the label", "Says most votes", "Says a third")
    body = [
        (
            row.name,
            row.images,
            row.count(lambda one: one.same),
            row.cell(lambda one: one.same_right),
            row.count(lambda one: one.differ),
            row.cell(lambda one: one.differ_label),
            row.cell(lambda one: one.differ_votes),
            row.cell(_third),
        )
        for row in rows
    ]
    caption = "Predictions where the label and the class with most votes are the same, and where they differ."
    return Table(header, "llrrrrrr", body, name="agreement-labels", caption=caption)


def _third(one: Agreement) -> float | None:
    if one.differ_label is None or one.differ_votes is None:
        return None
    return max(0.0, 1 - one.differ_label - one.differ_votes)  # sums of floats may exceed 1


def _confused_rows(row: AgreementRow) -> list[Row]:
    lines: list[Row] = []
    for confusions in zip(*(one.confusions for one in row.agreements), strict=True):
        first = confusions[0]
        lines.append(
            (
                row.name,
                row.images,
                f"{first.label}, called {first.predicted}",
                _count_cell([one.images for one in confusions]),
                _cell([_votes_for("neutral", one) for one in confusions], 2),
                _cell([_votes_for("sad", one) for one in confusions], 2),
                _cell([one.votes_others for one in confusions], 2),
                _cell([one.with_network for one in confusions], 2),
                _cell([one.with_label for one in confusions], 2),
            )
        )
    return lines


def _votes_for(name: str, one: Confusion) -> float | None:
    return one.votes_label if one.label == name else one.votes_predicted


def _count_cell(counts: Sequence[int]) -> Cell:
    summary = summarize(counts)
    if summary.deviation is None or len(set(counts)) == 1:
        return Cell(f"{counts[0]:,}", numbers={"": counts[0]})
    text = f"{summary.mean:,.0f} ± {summary.deviation:.0f}"
    return Cell(text, numbers={"": summary.mean, "sd": summary.deviation})


def _cell(values: Sequence[float | None], decimals: int = 4) -> Cell:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return _NO_IMAGES
    summary = summarize(known)
    mean = f"{summary.mean:.{decimals}f}"
    if summary.deviation is None:
        return Cell(mean, numbers={"": summary.mean})
    return Cell(f"{mean} ± {summary.deviation:.{decimals}f}", numbers={"": summary.mean, "sd": summary.deviation})
