"""How predictions agree with the votes of people, beside how people agree with each other.

Votes are only read here: they choose nothing and calibrate nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emotion.analysis.calibration import SMALLEST_PROBABILITY
from emotion.analysis.predictions import Predictions
from emotion.analysis.protocol import protocol_parts
from emotion.data.classes import canonical
from emotion.data.votes import Votes, VotesFile, vote_columns

STRONG = 0.8
"""Share of the votes from which a majority is strong."""
HALVES = ("PublicTest", "PrivateTest")
CONFUSED = (("sad", "neutral"), ("neutral", "sad"))
"""Label and prediction of the confusions that are looked at: those that the paper asks about."""


@dataclass(frozen=True)
class People:
    """What the votes on some images say, without any network. Shares are 0..1, and None without images.

    Attributes:
        images: number of images that count: those with at least two votes.
        without_votes: number of images with fewer votes, which are left out.
        ties: number of images on which no answer has more votes than every other.
        other_answers: number of images on which most votes are for an answer that is no class of the network.
        clear: number of the other images: one class has more votes than every other answer.
        strong: number of those on which the class has at least 8 of 10 votes.
        pairs: chance that two of the people agree, mean over images.
        most: share of the answer with most votes, mean over images; one answer an image cannot agree more often.
        person: chance that a person gives the answer with most votes among the others; equal ones share it.
        entropy: of the shares of the classes, nats, mean over the images that `Votes.shares` can use.
        label: share of the votes for the label of the data, mean over images.
        label_clear: share of the clear images whose label is the class with most votes.
        label_strong: the same, of the strong ones.
    """

    images: int
    without_votes: int
    ties: int
    other_answers: int
    clear: int
    strong: int
    pairs: float | None
    most: float | None
    person: float | None
    entropy: float | None
    label: float | None
    label_clear: float | None
    label_strong: float | None


@dataclass(frozen=True)
class Confusion:
    """What people say of the images with one label that a network predicts as another class.

    Attributes:
        label: the label.
        predicted: the prediction.
        images: number of images with at least two votes.
        votes_label: share of the votes for the label, mean over images, 0..1; None without images, as the others.
        votes_predicted: the same for the prediction.
        votes_others: the same for all other answers.
        with_network: share of the images on which the prediction has more votes than every other answer.
        with_label: the same for the label. On the rest, another answer has most votes, or two have equally many.
    """

    label: str
    predicted: str
    images: int
    votes_label: float | None
    votes_predicted: float | None
    votes_others: float | None
    with_network: float | None
    with_label: float | None


@dataclass(frozen=True)
class Agreement:
    """How predictions agree with votes. Shares are 0..1, and None without images.

    Attributes:
        people: what the votes say without the network.
        votes: share of the votes for the prediction, mean over images: how often the network agrees with a person.
        clear: share of the clear images (see `People`) whose prediction is the class with most votes.
        strong: the same, of the strong ones.
        person: as `People.person`, for the network: how often it gives the answer with most votes of all but one.
        divergence: Kullback-Leibler divergence of the probabilities from the shares of the classes in the votes, nats:
            cross-entropy less entropy, mean over the images that `Votes.shares` can use.
        same: number of clear images whose label is the class with most votes.
        same_right: share of them that the network classifies so.
        differ: number of the other clear images.
        differ_label: share of them whose prediction is the label.
        differ_votes: share of them whose prediction is the class with most votes; the rest is a third class.
        confusions: the confusions of `CONFUSED`; empty if the network does not have both classes.
    """

    people: People
    votes: float | None
    clear: float | None
    strong: float | None
    person: float | None
    divergence: float | None
    same: int
    same_right: float | None
    differ: int
    differ_label: float | None
    differ_votes: float | None
    confusions: tuple[Confusion, ...]


def agreement(predictions: Predictions, votes: Votes) -> Agreement:
    """Compares predictions with the votes of people.

    Shares are of all votes, those for `unknown`, for `NF` (no face) and for expressions that the network does not have
    among them. Only entropy and divergence leave these out, since the network gives them no probability.

    Args:
        predictions: N images and K classes, each a spelling of one of `emotion.data.votes.EMOTIONS`.
        votes: the votes on the N images; more than ten where the votes on copies of an image were added up.

    Raises:
        UserError: there are no votes for one of the classes.
    """
    columns = np.array(vote_columns(predictions.classes))  # [K]
    asked = votes.counts.sum(1) >= 2  # [N], of the images with votes of which one can be compared with the others
    shown, counts = predictions.subset(asked), votes.counts[asked]  # n images; int64 [n, 10]
    shares = counts / counts.sum(1, keepdims=True)  # float64 [n, 10]
    rows, top = np.arange(len(counts)), shares.max(1)
    winner = counts.argmax(1)  # [n]
    alone = (counts == counts.max(1, keepdims=True)).sum(1) == 1  # [n]
    known = np.isin(winner, columns)  # [n]
    clear, label, predicted = alone & known, columns[shown.labels], columns[shown.predicted]  # [n] each
    strong = clear & (top >= STRONG - 1e-9)  # [n]; 8 of 10 are strong whatever their quotient is rounded to
    same, differ = clear & (label == winner), clear & (label != winner)
    person, network = _against_the_others(counts, predicted)
    entropy, cross_entropy = _entropies(shown, Votes(counts))
    people = People(
        images=len(counts),
        without_votes=int((~asked).sum()),
        ties=int((~alone).sum()),
        other_answers=int((alone & ~known).sum()),
        clear=int(clear.sum()),
        strong=int(strong.sum()),
        pairs=_mean((shares * (counts - 1)).sum(1) / (counts.sum(1) - 1)),
        most=_mean(top),
        person=person,
        entropy=entropy,
        label=_mean(shares[rows, label]),
        label_clear=_mean((label == winner)[clear]),
        label_strong=_mean((label == winner)[strong]),
    )
    return Agreement(
        people=people,
        votes=_mean(shares[rows, predicted]),
        clear=_mean((predicted == winner)[clear]),
        strong=_mean((predicted == winner)[strong]),
        person=network,
        divergence=None if cross_entropy is None or entropy is None else cross_entropy - entropy,
        same=int(same.sum()),
        same_right=_mean((predicted == winner)[same]),
        differ=int(differ.sum()),
        differ_label=_mean((predicted == label)[differ]),
        differ_votes=_mean((predicted == winner)[differ]),
        confusions=_confusions(shown, shares, np.where(alone, winner, -1)),
    )


def agreement_rows(stages: Mapping[str, Predictions], file: VotesFile) -> Iterator[tuple[str, str, Agreement]]:
    """Yields the agreement on PublicTest, PrivateTest and all held-out images, where these have votes.

    Args:
        stages: predictions of `val` and `test`, and as `val_tta` and `test_tta` those with test-time augmentation.
        file: the votes.

    Yields:
        Test-time augmentation ("none" or "several views"), name of the part, and the agreement.

    Raises:
        UserError: there are no votes for one of the classes, or the rows of FER+'s own file have another order.
    """
    for views, suffix in (("none", ""), ("several views", "_tta")):
        chosen = {stage: stages[f"{stage}{suffix}"] for stage in ("val", "test") if f"{stage}{suffix}" in stages}
        parts = protocol_parts(chosen) if "test" in chosen else {}
        halves = {len(parts[name]) for name in HALVES if name in parts}
        for part in (*HALVES, "All"):
            # All images have no row of their own where one half is all that there is.
            if part in parts and not (part == "All" and len(parts[part]) in halves):
                predictions = parts[part]
                # With split=random the parts are those of the split, not of the data.
                known = predictions.parts.tolist() if np.isin(predictions.parts, ("public", "private")).all() else ()
                votes = file.on(predictions.ids.tolist(), known)
                if votes.counts.any():
                    yield views, part, agreement(predictions, votes)


def _against_the_others(counts: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Returns how often a person, and the network, gives the answer with most votes among all people but that one.

    Args:
        counts: int64 [n, 10], at least two votes a row.
        predicted: int64 [n], column of each prediction.
    """
    rows, shares = np.arange(len(counts)), counts / counts.sum(1, keepdims=True)
    person, network = np.zeros(len(counts)), np.zeros(len(counts))
    for answer in range(counts.shape[1]):  # of the one who is left out
        others = counts - (np.arange(counts.shape[1]) == answer)  # [n, 10]
        most = others == others.max(1, keepdims=True)  # [n, 10]
        chance = most / most.sum(1, keepdims=True)  # [n, 10], of each answer to be the one with most votes
        person += shares[:, answer] * chance[:, answer]
        network += shares[:, answer] * chance[rows, predicted]
    return _mean(person), _mean(network)


def _entropies(predictions: Predictions, votes: Votes) -> tuple[float | None, float | None]:
    """Returns the entropy of the shares of the classes and the cross-entropy of the probabilities, nats.

    The probabilities are in half precision, so that the file of predictions gives the same.
    """
    shares = votes.shares(predictions.classes).astype(np.float64)  # [n, K]
    used = shares.any(1)  # [n]
    logarithms = np.log(np.maximum(predictions.stored.astype(np.float64), SMALLEST_PROBABILITY))  # [n, K]
    own = np.log(np.maximum(shares, SMALLEST_PROBABILITY))  # [n, K]; a share of 0 adds 0
    return _mean(-(shares * own).sum(1)[used]), _mean(-(shares * logarithms).sum(1)[used])


def _confusions(
    predictions: Predictions, shares: NDArray[np.float64], winner: NDArray[np.int64]
) -> tuple[Confusion, ...]:
    """Looks at the confusions of `CONFUSED`; `winner` is the column with most votes, -1 where two have as many."""
    ids = {canonical(name): number for number, name in enumerate(predictions.classes)}
    columns = vote_columns(predictions.classes)
    found = []
    for label, predicted in CONFUSED:
        if label in ids and predicted in ids:
            chosen = (predictions.labels == ids[label]) & (predictions.predicted == ids[predicted])  # [n]
            own, network = columns[ids[label]], columns[ids[predicted]]
            theirs = shares[chosen]  # [m, 10]
            found.append(
                Confusion(
                    label=label,
                    predicted=predicted,
                    images=int(chosen.sum()),
                    votes_label=_mean(theirs[:, own]),
                    votes_predicted=_mean(theirs[:, network]),
                    votes_others=_mean(np.delete(theirs, [own, network], axis=1).sum(1)),
                    with_network=_mean(winner[chosen] == network),
                    with_label=_mean(winner[chosen] == own),
                )
            )
    return tuple(found)


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None
