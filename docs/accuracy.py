"""Tables of accuracy, counted from the predictions in results/ with the package's own code."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from layout import ROOT, markdown, span

import emotion
from emotion.analysis.document import Cell, Table
from emotion.analysis.predictions import Predictions
from emotion.analysis.protocol import METRICS
from emotion.analysis.statistics import Summary, summarize
from emotion.config import compose
from emotion.report.commands import published_command, repeated_command
from emotion.report.configurations import BALANCES, Configuration, group
from emotion.report.measures import protocol_table
from emotion.report.published import TABLES as PUBLISHED
from emotion.report.published import PublishedRun
from emotion.report.runs import Run, find_runs
from emotion.report.validation import validation_blocks
from emotion.report.verdict import remark

SHARED = ("weights", "augment", "feature_views", "trainer.precision")
"""Settings that tell the command from the paper's, but not one run in results/ from another."""


@cache
def configurations(folder: str, tested: bool = True) -> list[Configuration]:
    """Returns the runs below a folder of results/, the seeds of a setting together as in `emotion report`."""
    runs, _ = find_runs([ROOT / "results" / folder])
    return group([run for run in runs if run.tested == tested])[0]


def shipped_seeds() -> str:
    """The seed of the shipped network, and the mean accuracy on PrivateTest of all seeds of its configuration."""
    (taught,), card = configurations("recipes/two_teachers"), emotion.load_pretrained().card
    (value,) = (str(row[3]) for row in protocol_table([taught]).rows if _one_by_one(row, taught))
    return f"seed {card.facts['seed']}; mean of {len(taught.runs)} seeds {value}"


def _small() -> Configuration:
    named = (one for one in configurations("recipes") if one.first.settings["recipe"] == "small")
    return next(one for one in named if not one.differences)


def paper() -> str:
    """The paper's tables with ours beside its values, then the runs that repeat none of its own."""
    rows: dict[str, list[Configuration | PublishedRun]] = {
        table.title: [row for run in table.runs for row in _rows(run)] for table in PUBLISHED
    }
    unpublished = (one for one in configurations(".") if not one.published)
    rows["Other runs"] = [one for one in unpublished if not one.first.settings.get("recipe")]
    return "\n\n".join(f"### {title}\n\n{_accuracies(own)}" for title, own in rows.items())


def recipes() -> str:
    """The networks of the recipes on each part of the test images."""
    rows = []
    for one in configurations("recipes"):
        for row in protocol_table([one]).rows:
            averaged = _note(row[0]).endswith(f"ensemble of {len(one.runs)} seeds")
            seeds = f"{len(one.runs)}, averaged" if averaged else str(len(one.runs))
            rows.append((recipe_name(one), seeds, *map(str, (row[2], row[1], *row[3:]))))
    return markdown(("Recipe", "Seeds", "Images", "Test-time augmentation", *METRICS.values()), "lrllrrrr", rows)


def duplicates() -> str:
    """What it is worth to have seen duplicates of test images in training."""
    rows = []
    for one in configurations("recipes"):
        tests = [run.augmented["test"] for run in one.runs]
        hours = [run.record.train_seconds / 3600 for run in one.runs if run.record.train_seconds]
        accuracies = [str(_accuracy(tests, seen)) for seen in (True, False)]
        rows.append((recipe_name(one), str(len(one.runs)), *accuracies, _epochs(one.runs), span(hours, ".1f")))
    copied = configurations("recipes")[0].first.test.copied
    images = [f"Accuracy on the {count:,} images {which}" for count, which in _counts(copied)]
    return markdown(("Recipe", "Seeds", *images, "Epochs", "Hours a seed"), "lrrrrr", rows)


def transfer() -> str:
    """Whether weights from other images help: of each kind the runs that are best on their validation images.

    Raises:
        AssertionError: the runs no longer say what the text says.
    """
    scratch, frozen = _best("table1"), _best("table[24]/vgg16_*", "others/vgg16_*")
    trained, faces = _best("table[35]/vgg16_*"), _best("others/face_resnet_*")
    (whole,), small = configurations("recipes/face_mobilenet"), _small()
    assert scratch.mean > max(frozen.mean, trained.mean, faces.mean)
    assert whole.scores("acc").mean > small.scores("acc").mean
    images = len(configurations("table1")[0].first.test)
    return (
        "**Do weights from other images help?** With the paper's networks and split they do not, even with the "
        f"settings that are best on the validation images: on its {images:,} test images a CNN of the paper's reaches "
        f"{scratch} from random weights, VGG16 with ImageNet weights {frozen} frozen and {trained} with its last "
        f"convolutions trained, and dlib's network for face recognition, which sees the same images enlarged, {faces}. "
        "VGGFace2's MobileNet for faces, trained as a whole on images enlarged to 112 pixels, gets in "
        f"{_epochs(whole.runs)} epochs as far as our small network from random weights, which has half its parameters, "
        f"in {_epochs(small.runs)}: {whole.scores('acc')} on PrivateTest, one seed, beside {small.scores('acc')}. The "
        "comparison of all of them with equal settings (`experiment=transfer_ablation`) needs a GPU and was not run."
    )


def _best(*patterns: str) -> Summary:
    """The accuracy of the runs that are best on their validation images, in folders of results/."""
    results = ROOT / "results"
    folders = [str(path.relative_to(results)) for pattern in patterns for path in sorted(results.glob(pattern))]
    chosen = [one for folder in folders for one in configurations(folder)]
    return max(chosen, key=lambda one: one.val_accuracy.mean).scores("acc")


def ingredients() -> str:
    """What each change of the small recipe is worth, the best first."""
    blocks = validation_blocks(configurations("ablations", tested=False))
    (table,) = (block for block in blocks if isinstance(block, Table))
    rows = []
    for name, accuracy, difference, f1, seeds, _ in table.rows:
        base = str(difference) == "baseline"
        change = "nothing" if base else f"`{_note(name).replace(', ', ' ')}`"
        rows.append((change, accuracy, "" if base else str(difference), f1, str(len(re.findall(r"\d+", str(seeds))))))
    return markdown(
        ("Changed in the small recipe", "Accuracy on PublicTest", "Points", "Macro F1", "Seeds"), "lrrrr", rows
    )


def distillation() -> str:
    """What each kind of teaching is worth for the small recipe, on the validation images, which chose among them."""
    # Runs whose settings differ in `SHARED` only have one row.
    found: dict[tuple[str, Sequence[str]], list[Run]] = {}
    for one in [_small(), *configurations("recipes/two_teachers"), *configurations("distillation", tested=False)]:
        found.setdefault((_changed(one), one.first.record.teachers), []).extend(one.runs)
    rows = []
    for (changed, _), runs in found.items():
        assert len({run.seed for run in runs}) == len(runs), changed
        stages = [[run.val for run in runs], [run.augmented["val"] for run in runs]]
        accuracies = [str(summarize([own.metrics()["acc"] for own in stage])) for stage in stages]
        epochs = f"{_best_epochs(runs)} of {_epochs(runs)}"
        rows.append((f"`{changed}`" if changed else "nothing", *accuracies, str(len(runs)), epochs))
    return markdown(("Changed in the small recipe", "PublicTest", "with flips", "Seeds", "Best epoch"), "lrrrr", rows)


def command(one: Configuration | PublishedRun) -> str:
    """Returns the command that trains a configuration or a network of the paper; weights lie in the folder weights/."""
    if isinstance(one, PublishedRun):
        return published_command(one)
    weights = one.differences.get("weights", "")
    return re.sub(r"(?<= weights=)\S+", lambda _: f"weights/{weights}", repeated_command(one))


def _accuracies(rows: Sequence[Configuration | PublishedRun]) -> str:
    """A table, and below it the commands of its rows, which are too long for a column."""
    header = ("Run", "Published", "Ours", "Without duplicates", "Macro F1", "Seeds", "Best epoch")
    cells = [_not_run(row) if isinstance(row, PublishedRun) else _ran(row, rows) for row in rows]
    commands = [
        f"# {row.network}: {own[2]}{_hardware(row)}\n{command(row)}" for row, own in zip(rows, cells, strict=True)
    ]
    return "\n".join((markdown(header, "lrrrrrr", cells), "", "```sh", *commands, "```"))


def _ran(one: Configuration, rows: Sequence[Configuration | PublishedRun]) -> Sequence[str]:
    link = (ROOT / one.first.folder.path.parent).relative_to(ROOT)
    tests = [run.test for run in one.runs]
    repeated = [row for row in rows if isinstance(row, Configuration) and row.published == one.published]
    balance = BALANCES[str(one.first.settings["balance"])]
    changed = _changed(one)
    parts = (
        f"[{one.network}](../{link.as_posix()})",
        "" if one.published else balance,
        f"`{changed}`" if changed else "",
        remark(one, repeated if one.published else [one]),
    )
    return (
        ", ".join(filter(None, parts)),
        f"{one.published.test:.2f}" if one.published else "",
        str(one.scores("acc")),
        str(_accuracy(tests, seen=False)),
        str(one.scores("f1_macro")),
        str(len(one.runs)),
        _best_epochs(one.runs),
    )


def _hardware(row: Configuration | PublishedRun) -> str:
    """Where a row's runs ran, and for newer ones in which precision, as the end of a sentence."""
    records = [] if isinstance(row, PublishedRun) else [run.record for run in row.runs]
    places = {", ".join(filter(None, (one.hardware.replace("(R)", ""), one.precision))) for one in records} - {""}
    return f" on {'; '.join(sorted(places))}" if places else ""


def _changed(one: Configuration) -> str:
    """Returns the settings that tell the runs in results/ from their recipe, as they are typed."""
    return " ".join(f"{key}={value}" for key, value in one.differences.items() if key not in SHARED)


def _epochs(runs: Sequence[Run]) -> str:
    return span([run.record.epochs for run in runs if run.record.epochs], "d")


def _best_epochs(runs: Sequence[Run]) -> str:
    return span([run.record.best_epoch for run in runs if run.record.best_epoch], "d")


def _not_run(published: PublishedRun) -> Sequence[str]:
    reason = "not run, no weights" if published.model.startswith("vgg19") else "not run"
    return (published.network, f"{published.test:.2f}", reason, *[""] * 4)


def _rows(published: PublishedRun) -> Sequence[Configuration | PublishedRun]:
    """The configurations that repeat a network of the paper, or that network itself if none does."""
    return [one for one in configurations(".") if one.published == published] or [published]


def _one_by_one(row: Sequence[str | Cell], one: Configuration) -> bool:
    """Whether a row of the protocol has the networks of a configuration, not averaged, on PrivateTest."""
    return tuple(row[1:3]) == (one.first.settings["tta"], "PrivateTest") and "ensemble of" not in _note(row[0])


def _accuracy(tests: Sequence[Predictions], seen: bool) -> object:
    parts = [test.subset(test.copied == seen) for test in tests]
    return summarize([float(np.mean(part.predicted == part.labels)) for part in parts])


def _counts(copied: np.ndarray) -> list[tuple[int, str]]:
    return [(int(copied.sum()), "with a duplicate in Training"), (int((~copied).sum()), "without")]


def recipe_name(one: Configuration) -> str:
    """The words of a recipe and of its changes, as code; another model stands for all that it changes."""
    settings = one.first.settings
    own = [f"{key}={Path(value).name}" for key, value in one.differences.items()]  # files without their folder
    changes = own if _has_recipes_model(one) else [f"model={settings['model']}"]
    return f"`{' '.join(['recipe=' + settings['recipe'], *changes])}`"


def _has_recipes_model(one: Configuration) -> bool:
    recipe = one.first.settings.get("recipe")
    return bool(recipe) and _recipes_model(recipe) == one.first.settings["model"]


@cache
def _recipes_model(recipe: str) -> str:
    return str(compose(f"recipe={recipe}").model)


def _note(cell: str | Cell) -> str:
    return cell.note if isinstance(cell, Cell) else ""
