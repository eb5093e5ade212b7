"""Agreement of predictions with votes, on images whose votes are counted by hand."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from emotion.analysis.agreement import Agreement, agreement, agreement_rows
from emotion.analysis.agreement_tables import AgreementRow, agreement_blocks, headline
from emotion.analysis.document import Cell, Paragraph, Row, Table
from emotion.analysis.exports import to_csv
from emotion.analysis.predictions import Predictions
from emotion.data.classes import CLASSES, FERPLUS
from emotion.data.votes import VOTED, Votes, VotesFile
from emotion.errors import UserError


def ballot(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in VOTED]


def votes(*ballots: list[int]) -> Votes:
    return Votes(np.array(ballots, np.int64).reshape(-1, len(VOTED)))


def predict(
    *images: tuple[str, str], classes: tuple[str, ...] = CLASSES, sure: float = 1.0, part: str = "private"
) -> Predictions:
    """Returns predictions from pairs of label and prediction, with the probability `sure` for the prediction."""
    labels, predicted = ([classes.index(pair[side]) for pair in images] for side in (0, 1))
    probabilities = np.full((len(images), len(classes)), (1 - sure) / (len(classes) - 1), np.float32)
    probabilities[np.arange(len(images)), predicted] = sure
    count = len(images)
    ids = np.array([f"test/x/PrivateTest_{number}.jpg" for number in range(count)], np.str_)
    parts, copied = np.full(count, part), np.zeros(count, np.bool_)
    return Predictions(ids, np.array(labels, np.int64), probabilities, parts, copied, classes)


FIVE = votes(
    ballot(sadness=8, neutral=2),
    ballot(happiness=10),
    ballot(anger=4, neutral=4, fear=2),
    ballot(contempt=6, neutral=4),
    ballot(),
)
PREDICTED = predict(
    ("sad", "sad"), ("happy", "surprise"), ("neutral", "neutral"), ("neutral", "neutral"), ("fear", "fear"), sure=0.94
)


def test_images_with_votes_count() -> None:
    people = agreement(PREDICTED, FIVE).people
    assert (people.images, people.without_votes) == (4, 1)
    assert (people.ties, people.other_answers) == (1, 1)
    assert (people.clear, people.strong) == (2, 2)


def test_shares_are_of_all_votes() -> None:
    own = agreement(PREDICTED, FIVE)
    assert own.votes == pytest.approx((0.8 + 0 + 0.4 + 0.4) / 4)
    assert own.people.label == pytest.approx((0.8 + 1 + 0.4 + 0.4) / 4)
    assert own.people.most == pytest.approx((0.8 + 1 + 0.4 + 0.6) / 4)


def test_two_people_agree_as_often_as_two_votes_drawn_without_replacement() -> None:
    # Of 45 pairs of ten votes: 8 of a kind make 28, 2 make 1, 10 make 45, 4 make 6, 6 make 15.
    pairs = [(28 + 1) / 45, 1, (6 + 6 + 1) / 45, (15 + 6) / 45]
    assert agreement(PREDICTED, FIVE).people.pairs == pytest.approx(sum(pairs) / 4)


def test_accuracies_are_on_images_with_a_clear_answer() -> None:
    own = agreement(PREDICTED, FIVE)
    assert (own.clear, own.strong) == (0.5, 0.5)
    assert (own.people.label_clear, own.people.label_strong) == (1, 1)


def test_a_person_against_the_others() -> None:
    own = agreement(PREDICTED, FIVE)
    # Without one of the 4 votes for anger the others say neutral, and without one of the 2 for fear both as often.
    assert own.people.person == pytest.approx((0.8 + 1 + 0 + 0.6) / 4)
    # The network says neutral to the third image: right without a vote for anger, half right without one for fear. To
    # the fourth image, on which one of 6 votes for contempt leaves 5 of 9, it is never right.
    assert own.person == pytest.approx((1 + 0 + (0.4 + 0.2 / 2) + 0) / 4)


def test_equal_answers_of_the_others_share_a_person() -> None:
    # Without a vote for anger there are 4 and 5, without one for fear 5 and 4: nobody says what the others say. With 6
    # votes for anger and 5 for fear, those who say anger leave 5 and 5.
    assert agreement(predict(("fear", "fear")), votes(ballot(anger=5, fear=5))).people.person == 0
    own = agreement(predict(("fear", "fear")), votes(ballot(anger=6, fear=5)))
    assert own.people.person == pytest.approx(6 / 11 * 0.5)
    assert own.person == pytest.approx(6 / 11 * 0.5)


def test_divergence_is_cross_entropy_less_entropy_of_the_classes_of_the_network() -> None:
    own = agreement(predict(("sad", "sad"), ("fear", "happy"), sure=0.94), votes(FIVE.counts[0], FIVE.counts[1]))
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / 2
    cross_entropy = (-(0.8 * math.log(0.94) + 0.2 * math.log(0.01)) - math.log(0.94)) / 2
    assert own.people.entropy == pytest.approx(entropy)
    assert own.divergence == pytest.approx(cross_entropy - entropy, abs=2e-4)  # of half precision


def test_votes_for_other_answers_are_no_part_of_the_divergence() -> None:
    own = agreement(predict(("sad", "sad"), sure=0.94), votes(ballot(sadness=4, neutral=1, contempt=3, unknown=2)))
    assert own.people.entropy == pytest.approx(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    # On an image whose most votes are for another answer, the shares of the classes say nothing.
    other = agreement(predict(("sad", "sad")), votes(ballot(sadness=4, contempt=6)))
    assert (other.people.entropy, other.divergence, other.votes) == (None, None, 0.4)


def test_probabilities_that_are_the_shares_of_the_votes_diverge_by_nothing() -> None:
    own = votes(*(ballot(**{name: 7, "fear": 3, "surprise": 2}) for name in ("neutral", "anger", "sadness")))
    shown = predict(*[("sad", "sad")] * 3)
    right = Predictions(shown.ids, shown.labels, own.shares(CLASSES), shown.parts, shown.copied, CLASSES)
    assert agreement(right, own).divergence == pytest.approx(0, abs=2e-4)  # of half precision


def test_where_the_labels_differ_the_network_says_one_of_them_or_a_third() -> None:
    own = agreement(
        predict(
            ("sad", "sad"),  # both the same
            ("sad", "fear"),
            ("fear", "fear"),  # the label
            ("fear", "sad"),  # the votes
            ("angry", "sad"),
            ("angry", "happy"),  # a third
            ("angry", "happy"),  # equal votes: neither the same nor different
        ),
        votes(*[ballot(sadness=9, fear=1)] * 6, ballot(anger=5, happiness=5)),
    )
    assert (own.same, own.same_right) == (2, 0.5)
    assert (own.differ, own.differ_label, own.differ_votes) == (4, 0.25, 0.5)


def test_what_people_say_of_neutral_and_sad() -> None:
    own = agreement(
        predict(
            ("sad", "neutral"),
            ("sad", "neutral"),
            ("sad", "neutral"),
            ("neutral", "sad"),
            ("sad", "sad"),
            ("sad", "fear"),
        ),
        votes(
            ballot(neutral=7, sadness=2, unknown=1),
            ballot(neutral=5, sadness=5),
            ballot(neutral=1, sadness=3, fear=6),
            ballot(neutral=9, sadness=1),
            *[ballot(neutral=10)] * 2,
        ),
    )
    first, second = own.confusions
    assert (first.label, first.predicted, first.images) == ("sad", "neutral", 3)
    assert (first.votes_label, first.votes_predicted) == pytest.approx((1 / 3, 13 / 30))
    assert first.votes_others == pytest.approx(7 / 30)
    assert (first.with_network, first.with_label) == pytest.approx((1 / 3, 0))
    assert (second.label, second.predicted, second.images) == ("neutral", "sad", 1)
    assert (second.votes_label, second.votes_predicted, second.votes_others) == pytest.approx((0.9, 0.1, 0))
    assert (second.with_network, second.with_label) == (0, 1)


def test_a_network_with_contempt_can_be_right_about_it() -> None:
    own = agreement(predict(("neutral", "contempt"), classes=FERPLUS), votes(ballot(contempt=6, neutral=4)))
    assert (own.people.clear, own.people.other_answers) == (1, 0)
    assert (own.clear, own.votes, own.differ_votes) == (1, 0.6, 1)


def test_votes_on_copies_are_shares_of_all_of_them() -> None:
    own = agreement(
        predict(("sad", "sad"), ("sad", "sad")), votes(ballot(sadness=16, fear=4), ballot(sadness=15, fear=5))
    )
    assert (own.people.clear, own.people.strong) == (2, 1)
    assert own.votes == pytest.approx((0.8 + 0.75) / 2)


def test_a_single_vote_cannot_be_compared_with_others() -> None:
    people = agreement(predict(("sad", "sad"), ("sad", "sad")), votes(ballot(sadness=1), ballot(sadness=2))).people
    assert (people.images, people.without_votes, people.pairs) == (1, 1, 1)


def test_without_votes_there_are_no_numbers() -> None:
    own = agreement(predict(("sad", "sad")), votes(ballot()))
    assert own == Agreement(
        people=own.people,
        votes=None,
        clear=None,
        strong=None,
        person=None,
        divergence=None,
        same=0,
        same_right=None,
        differ=0,
        differ_label=None,
        differ_votes=None,
        confusions=own.confusions,
    )
    assert (own.people.images, own.people.pairs, own.people.label) == (0, None, None)
    assert [(one.images, one.with_network) for one in own.confusions] == [(0, None), (0, None)]


def test_classes_may_have_other_names_and_those_without_votes_are_named() -> None:
    named = predict(("Sadness", "Anger"), classes=("Anger", "Sadness"))
    own = agreement(named, votes(ballot(sadness=6, anger=4)))
    assert (own.clear, own.votes, own.confusions) == (0, 0.4, ())
    with pytest.raises(UserError, match=r"^votes: FER\+ has none for bored; it has neutral, "):
        agreement(predict(("sad", "bored"), classes=("sad", "bored")), votes(ballot(sadness=6)))


def file_of(*ballots: list[int]) -> VotesFile:
    return VotesFile(Path("votes.csv"), {f"PrivateTest_{number}.jpg": own for number, own in enumerate(ballots)}, {})


def test_each_part_with_votes_has_a_row() -> None:
    shown = predict(*[("sad", "sad")] * 4)
    parts = np.array(["public", "private", "private", "train"])
    test = Predictions(shown.ids, shown.labels, shown.probabilities, parts, shown.copied, CLASSES)
    file = file_of(ballot(), ballot(sadness=10), ballot(fear=10), ballot(sadness=10))
    found = list(agreement_rows({"test": test, "test_tta": test}, file))
    assert [(views, part, one.people.images) for views, part, one in found] == [
        ("none", "PrivateTest", 2),
        ("none", "All", 3),
        ("several views", "PrivateTest", 2),
        ("several views", "All", 3),
    ]
    assert [one.votes for _, _, one in found[:2]] == [0.5, pytest.approx(2 / 3)]


def test_one_half_alone_has_one_row() -> None:
    file = file_of(ballot(sadness=10))
    assert [part for _, part, _ in agreement_rows({"test": predict(("sad", "sad"))}, file)] == ["PrivateTest"]
    own = predict(("sad", "sad"), part="test")
    assert [part for _, part, _ in agreement_rows({"test": own}, file)] == ["All"]


def tables(*rows: AgreementRow) -> dict[str, Table]:
    return {block.name: block for block in agreement_blocks(rows) if isinstance(block, Table)}


def texts(row: Row) -> list[str]:
    return [str(cell) for cell in row]


def test_tables_have_the_mean_over_seeds_and_the_people_below() -> None:
    own = votes(ballot(sadness=9, neutral=1), ballot(neutral=6, fear=4))
    seeds = [agreement(predict(("sad", "sad"), ("sad", said)), own) for said in ("neutral", "fear")]
    found = tables(AgreementRow("net", "flip", "PrivateTest", seeds))
    assert list(found) == ["agreement", "agreement-labels", "agreement-confused"]
    main = found["agreement"]
    assert texts(main.rows[0])[:5] == ["net", "PrivateTest", "0.7000 ± 0.0707", "0.7500 ± 0.3536", "1.0000 ± 0.0000"]
    assert [texts(row)[:5] for row in main.footer] == [
        ["one person", "PrivateTest", "0.6333", "", ""],
        ["the answer with most votes", "PrivateTest", "0.7500", "", ""],
        ["the label of the data", "PrivateTest", "0.4500", "0.5000", "1.0000"],
    ]
    (line,) = (texts(row) for row in found["agreement-labels"].rows)
    assert line == [
        *("net", "PrivateTest", "1", "1.0000 ± 0.0000", "1", "0.0000 ± 0.0000"),
        *("0.5000 ± 0.7071", "0.5000 ± 0.7071"),
    ]
    confused = [texts(row) for row in found["agreement-confused"].rows]
    assert confused[0] == ["net", "PrivateTest", "sad, called neutral", "0 ± 1", *["no images"] * 5]


def test_tables_as_csv_have_exact_numbers() -> None:
    own = agreement(predict(("sad", "neutral")), votes(ballot(neutral=7, sadness=2, unknown=1)))
    found = tables(AgreementRow("net", "flip", "PrivateTest", [own]))
    (row, *_) = csv.DictReader(to_csv(found["agreement-confused"]).splitlines())
    assert row == {
        "Run": "net",
        "Images": "PrivateTest",
        "Images note": "flip",
        "Label and prediction": "sad, called neutral",
        "Number": "1",
        "Votes for neutral": "0.7",
        "Votes for sad": "0.2",
        "For others": "0.1",
        "With the network": "1",
        "With the label": "0",
    }


def test_the_page_says_that_votes_are_only_read_and_which_images_count() -> None:
    own = agreement(PREDICTED, FIVE)
    row = AgreementRow("net", "none", "PrivateTest", [own])
    blocks = [block.text for block in agreement_blocks([row]) if isinstance(block, Paragraph)]
    assert blocks[0] == (
        "On PrivateTest the network agrees with a person in 40.0% of the cases; two people agree in 60.0%."
    )
    assert "This page only reads their votes" in blocks[1]
    assert blocks[3] == (
        "PrivateTest: 4 of 5 images have votes. On 1 no answer has more votes than every other, on 1 "
        "the answer with most votes is no class of the network; the other 2 count for “Most votes”, 2 of them for "
        "“8 of 10”."
    )
    assert agreement_blocks([]) == []


def test_the_page_names_the_network_that_agrees_most_with_people() -> None:
    labels = ("sad", "happy", "neutral", "neutral", "fear")
    own, worse = agreement(PREDICTED, FIVE), agreement(predict(*((label, "disgust") for label in labels)), FIVE)
    rows = [AgreementRow(name, "none", "PrivateTest", [one]) for name, one in (("a", worse), ("b", own))]
    assert headline(rows).startswith("On PrivateTest “b” agrees most with people, with a person in 40.0% of the cases;")
    seeds = AgreementRow(Cell("c", "seeds 0, 1"), "flip", "PrivateTest", [own, own])
    assert headline([rows[0], seeds]) == (
        "On PrivateTest “c” (seeds 0, 1) agrees most with people, with a person in 40.0% of the cases, with tta=flip; "
        "two people agree in 60.0%."
    )


def test_the_sentence_compares_no_network_with_itself_and_none_on_other_images() -> None:
    own, other = agreement(PREDICTED, FIVE), agreement(PREDICTED, votes(*FIVE.counts[::-1]))
    assert own.people != other.people
    seeds, ensemble = (AgreementRow(Cell("c", note), "none", "All", [own]) for note in ("seeds 0, 1", "ensemble"))
    assert headline([seeds, ensemble]).startswith("On All the network agrees with a person in 40.0% of the cases;")
    elsewhere = AgreementRow("d", "none", "All", [other])
    assert headline([elsewhere, seeds]) == headline([seeds])
    unknown = AgreementRow("e", "none", "All", [agreement(predict(("fear", "fear")), votes(ballot()))])
    assert headline([unknown]) == ""


def test_networks_on_the_same_images_share_the_rows_of_people() -> None:
    own = agreement(PREDICTED, FIVE)
    rows = [AgreementRow(name, "none", part, [own]) for name in ("a", "b") for part in ("PrivateTest", "All")]
    blocks = agreement_blocks(rows)
    assert len(tables(*rows)["agreement"].footer) == 6
    assert [block.text.split(":")[0] for block in blocks if isinstance(block, Paragraph)][3:5] == ["PrivateTest", "All"]
