"""How the networks in results/ agree with the votes of people: counted with the votes, written without them.

    python docs/agreement.py data/ferplus/votes.csv

counts, and writes what the table needs to results/agreement.json. `make tables` reads that file alone.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accuracy import configurations, recipe_name
from layout import ROOT, markdown

from emotion.analysis.agreement import agreement_rows
from emotion.analysis.predictions import Predictions
from emotion.analysis.protocol import protocol_parts
from emotion.analysis.statistics import Summary, summarize
from emotion.data.votes import VotesFile, open_votes
from emotion.errors import exit_on_user_error
from emotion.files import atomic_write
from emotion.report.configurations import Configuration
from emotion.report.measures import ensemble_stages
from emotion.report.published import TABLES as PUBLISHED

KEPT = ROOT / "results/agreement.json"
PART = "PrivateTest"


def count(votes: VotesFile) -> list[dict[str, Any]]:
    """Counts on PrivateTest, with test-time augmentation where a run has it, for the networks of the table.

    Returns:
        For each network its name, the number of its seeds, whether their probabilities are averaged, the kind of
        test-time augmentation and, for each seed, `emotion.analysis.agreement.Agreement` as plain values and the
        accuracy `acc` on all images.
    """
    return [
        {"name": name, "seeds": seeds, "averaged": averaged, "views": views, "networks": counted}
        for name, one in chosen()
        for seeds, averaged, views, counted in _count(one, votes)
    ]


def agreement() -> str:
    """The table of the networks beside people, and what it says of neutral and sad."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    small = next(row for row in kept if row["name"] == "`recipe=small`" and not row["averaged"])
    people = small["networks"][0]["people"]
    header = ("Network", "Seeds", "FER2013's label", "Share of votes", "Most votes", "8 of 10", "KL")
    references = [
        ("one person", "", "", f"{people['pairs']:.4f}", "", "", ""),
        ("the answer with most votes", "", "", f"{people['most']:.4f}", "1", "1", ""),
        ("FER2013's label", "", "1", *(f"{people[key]:.4f}" for key in ("label", "label_clear", "label_strong")), ""),
    ]
    table = markdown(header, "lrrrrrr", [*map(_row, kept), *references])
    return f"{_headline(small)}\n\n{table}\n\n{_neutral_and_sad(small)}"


def _row(row: Mapping[str, Any]) -> Sequence[str]:
    seeds = f"{row['seeds']}, averaged" if row["averaged"] else str(row["seeds"])
    return (row["name"], seeds, *(str(_mean(row, key)) for key in ("acc", "votes", "clear", "strong", "divergence")))


def _headline(row: Mapping[str, Any]) -> str:
    """How often the network agrees with a person, people with each other, and FER2013's label with people."""
    people = row["networks"][0]["people"]
    same, differ = row["networks"][0]["same"], row["networks"][0]["differ"]
    right, label, votes = (_mean(row, key).mean for key in ("same_right", "differ_label", "differ_votes"))
    text = (
        f"**The network agrees with {_mean(row, 'votes').mean:.1%} of the votes, a person with {people['pairs']:.1%} "
        f"of the other people's** ({row['name']}, `tta={row['views']}`, mean of {row['seeds']} seeds). One answer for "
        f"each image could agree with {people['most']:.1%}. If one class has the most votes, the network chooses it "
        f"for {_mean(row, 'clear').mean:.1%} of the images, and FER2013's label is it for "
        f"{people['label_clear']:.1%}. On the {same:,} images on which the label is the class with most votes, the "
        f"network is right in {right:.1%}; on the {differ:,} others it says the label in {label:.1%}, the class with "
        f"most votes in {votes:.1%}, and a third class in {1 - label - votes:.1%}."
    )
    return text.replace("%", " %")


def _neutral_and_sad(row: Mapping[str, Any]) -> str:
    """What people say of the images on which the network confuses neutral and sad, in three sentences."""
    sad, neutral = ([own["confusions"][number] for own in row["networks"]] for number in (0, 1))
    text = (
        f"**Neutral or sad?** To the {_of(sad, 'images'):.0f} images labelled sad that the network calls neutral (mean "
        f"of the seeds), {_of(sad, 'votes_predicted'):.0%} of the votes say neutral and {_of(sad, 'votes_label'):.0%} "
        f"sad, and more people side with the network than with any other answer in {_of(sad, 'with_network'):.0%}. "
        f"To the {_of(neutral, 'images'):.0f} images labelled neutral that it calls sad, "
        f"{_of(neutral, 'votes_label'):.0%} say neutral and {_of(neutral, 'votes_predicted'):.0%} sad, and more side "
        "with the label than with any other answer in "
        f"{_of(neutral, 'with_label'):.0%}. So of each ten confusions of the first kind people would count "
        f"{10 * _of(sad, 'with_network'):.0f} as no mistake of the network, and of the second kind "
        f"{10 * _of(neutral, 'with_network'):.0f}."
    )
    return text.replace("%", " %")


def _of(confusions: Sequence[Mapping[str, Any]], key: str) -> float:
    return summarize([own[key] for own in confusions]).mean


def _mean(row: Mapping[str, Any], key: str) -> Summary:
    return summarize([own[key] for own in row["networks"]])


def chosen() -> Iterator[tuple[str, Configuration]]:
    """Yields the recipes, the best run beside each table of the paper, and the best of the others, with their names."""
    for one in configurations("recipes"):
        yield recipe_name(one), one
    runs = [one for one in configurations(".") if not one.first.settings.get("recipe")]
    groups = {table.title.split(":")[0]: [one for one in runs if one.published in table.runs] for table in PUBLISHED}
    for title, members in {**groups, "other runs": [one for one in runs if not one.published]}.items():
        if members:
            best = max(members, key=lambda one: one.val_accuracy.mean)
            yield f"{best.network} ({title[0].lower()}{title[1:]})", best


def _count(one: Configuration, votes: VotesFile) -> Iterator[tuple[int, bool, str, list[dict[str, Any]]]]:
    ensemble = ensemble_stages(one)
    for averaged, members in ((False, [run.stages for run in one.runs]), (True, [ensemble] if ensemble else [])):
        if members:
            augmented = all("test_tta" in stages for stages in members)
            views = str(one.first.settings["tta"]) if augmented else "none"
            yield len(one.runs), averaged, views, [_measure(stages, augmented, votes) for stages in members]


def _measure(stages: Mapping[str, Predictions], augmented: bool, votes: VotesFile) -> dict[str, Any]:
    test = stages["test_tta" if augmented else "test"]
    private = protocol_parts({"test": test})[PART]
    (own,) = (own for _, part, own in agreement_rows({"test": test}, votes) if part == PART)
    return {"acc": float((private.predicted == private.labels).mean()), **asdict(own)}


if __name__ == "__main__":
    with exit_on_user_error():
        counted = count(open_votes(Path(sys.argv[1] if sys.argv[1:] else ROOT / "data/ferplus/votes.csv")))
    with atomic_write(KEPT) as temporary:
        temporary.write_text(json.dumps(counted, indent=1) + "\n", encoding="utf-8")
