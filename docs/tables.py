"""Writes the tables of README.md and docs/ from what was measured: `make tables`.

A page holds a table between `<!-- table: NAME -->` and `<!-- end -->`. What stands between the two lines is replaced by
the answer of the function NAME in `TABLES`, which counts it from results/ and benchmarks/results/.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from emotion.analysis.document import Cell
from emotion.analysis.predictions import Predictions
from emotion.analysis.protocol import FIGURES
from emotion.analysis.statistics import summarize
from emotion.report.configurations import BALANCES, Configuration, group
from emotion.report.measures import protocol_table
from emotion.report.published import TABLES as PUBLISHED
from emotion.report.published import PublishedRun
from emotion.report.runs import find_runs
from emotion.report.validation import validation_blocks

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

PEERS = (
    (
        "Residual Masking Network, 143 M parameters, `pip install rmn`",
        "0.7414",
        "PrivateTest",
        "[arXiv:2603.05937](https://arxiv.org/abs/2603.05937)",
    ),
    (
        "VGG from random weights, Pramerdorfer and Kampel",
        "0.727",
        "PrivateTest",
        "[arXiv:1612.02903](https://arxiv.org/abs/1612.02903)",
    ),
    (
        "ViT-B/16, 86 M parameters, for `pip install transformers`",
        "0.7116",
        "not stated",
        "[its card](https://huggingface.co/trpakov/vit-face-expression)",
    ),
    (
        "mini-Xception, `pip install fer`",
        "0.66 or 0.71",
        "not stated",
        "its issues [6](https://github.com/justinshenk/fer/issues/6), [50](https://github.com/justinshenk/fer/issues/50)",
    ),
    (
        "CNN, `pip install deepface`",
        "0.57",
        "not stated",
        "[its issue 1375](https://github.com/serengil/deepface/issues/1375)",
    ),
)
"""Other people's networks on FER2013: name, accuracy that its authors publish, on which images, and where."""

SHARED = ("weights", "augment", "feature_views", "trainer.precision")
"""Settings that tell the command from the paper's, but not one run in results/ from another."""

CONTESTANTS = {
    "limit": "the limit: bare steps on one batch in memory",
    "ours": "ours",
    "plain": "a plain PyTorch loop: ImageFolder, torchvision transforms, DataLoader",
    "timm": "timm's training script",
    "keras": "Keras with ImageDataGenerator, as in the paper",
}
INFERENCE = {
    "an image file: detect the faces, classify them": "predict a file",
    "an array: detect the faces, classify them": "predict an array",
    "1600 x 1200 pixels with one small face": "predict a large picture of a small face",
    "512 x 600 pixels without a face": "predict a picture without a face",
    "an array that is one face already": "predict an array, detect=False",
    "the network alone, ONNX": "the network, ONNX",
    "the network alone, ONNX, one core": "the network, ONNX, one core",
    "the network alone, ONNX in eight bits": "the network, ONNX, int8",
    "the network alone, PyTorch": "the network, PyTorch",
    "`emotion predict photo.jpg`, cold start": "emotion predict",
    "`emotion --help`, cold start": "emotion --help",
}
FOLDED = {
    r"damaged and invented: (.*)": "damaged and invented input of {count} kinds: {kinds}",
    r"probabilities of each class from data=(\w+) to checkpoint, file and ONNX": (
        "order of the classes from the data to checkpoint, published file and ONNX, in data={kinds}"
    ),
    r"(commands in a network of their own): .*": "{kinds}: a host name asked for, a file outside the cache",
}
"""Rows of results/trust.json that are one row here: what they match, and its text."""


def write_tables(text: str) -> str:
    """Replaces all tables of a page."""
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def markdown(header: Sequence[str], columns: str, rows: Iterable[Sequence[str]]) -> str:
    """Lays out a table; a letter a column as in LaTeX, `l` or `r`."""
    rule = ["---:" if column == "r" else "---" for column in columns]
    return "\n".join(re.sub(r"\| (?= \|)", "|", f"| {' | '.join(row)} |") for row in (header, rule, *rows))


@cache
def configurations(folder: str, tested: bool = True) -> list[Configuration]:
    """Returns the runs below a folder of results/, the seeds of a setting together as in `emotion report`."""
    runs, _ = find_runs([ROOT / "results" / folder])
    return group([run for run in runs if run.tested == tested])[0]


# Accuracy


def summary() -> str:
    """Ours beside other people's networks, the best first."""
    small = next(one for one in configurations("recipes") if not one.differences)
    published = _run_of("cnn")
    cnn = max(_repeating(published), key=lambda one: one.scores("acc").mean)
    ours = "[results](docs/results.md)"
    rows = [
        *((name, value, "not measured", images, "", where) for name, value, images, where in PEERS),
        ("**`small`, comes with the package**, 1.6 M parameters", "", *_private(small, ensemble=False), ours),
        ("**five seeds of `small`, averaged**", "", *_private(small, ensemble=True), ours),
        (
            "the paper's CNN, 1.0 M parameters",
            f"{published.test:.2f}",
            str(cnn.scores("acc")),
            f"all {len(cnn.first.test):,}",
            str(len(cnn.runs)),
            ours,
        ),
    ]
    ordered = sorted(rows, key=lambda row: _number(row[2]) or _number(row[1]), reverse=True)
    header = ("Network", "Accuracy, published", "Accuracy, measured here", "Test images", "Seeds", "Source")
    return markdown(header, "lrrlrl", ordered)


def paper() -> str:
    """The paper's tables with ours beside its values, then the runs that repeat none of its own."""
    repeated = [(table.title, [row for run in table.runs for row in _repeating(run) or [run]]) for table in PUBLISHED]
    others = [one for one in configurations(".") if not one.published and not one.first.settings.get("recipe")]
    return "\n\n".join(f"### {title}\n\n{_accuracies(rows)}" for title, rows in [*repeated, ("Other runs", others)])


def recipes() -> str:
    """The networks of the recipes on each part of the test images."""
    rows = []
    for one in configurations("recipes"):
        name = " ".join(["recipe=" + one.first.settings["recipe"], *_typed(one)])
        for row in protocol_table([one]).rows:
            averaged = _note(row[0]).endswith(f"mean of the {len(one.runs)}")
            seeds = f"{len(one.runs)}, averaged" if averaged else str(len(one.runs))
            rows.append(
                (f"`{name}`", seeds, _plain(row[2]), "none" if row[1] == "one" else str(row[1]), *map(str, row[3:]))
            )
    return markdown(("Recipe", "Seeds", "Images", "Test-time augmentation", *FIGURES.values()), "lrllrrrr", rows)


def duplicates() -> str:
    """What it is worth to have seen duplicates of test images in training."""
    rows = []
    for one in configurations("recipes"):
        tests = [run.augmented["test"] for run in one.runs]
        hours = [run.record.train_seconds / 3600 for run in one.runs if run.record.train_seconds]
        accuracies = [str(_accuracy(tests, seen)) for seen in (True, False)]
        name = " ".join(["recipe=" + one.first.settings["recipe"], *_typed(one)])
        epochs = {run.record.epochs for run in one.runs}
        rows.append((f"`{name}`", str(len(one.runs)), *accuracies, _range(epochs, "d"), _range(hours, ".1f")))
    copied = configurations("recipes")[0].first.test.copied
    images = [f"Accuracy on the {count:,} images {which}" for count, which in _counts(copied)]
    return markdown(("Recipe", "Seeds", *images, "Epochs", "Hours a seed"), "lrrrrr", rows)


def ingredients() -> str:
    """What each change of the small recipe is worth, the best first."""
    (table,) = (block for block in validation_blocks(configurations("ablations", tested=False))[1:])
    rows = []
    for name, accuracy, difference, f1, seeds, _ in table.rows:
        base = isinstance(difference, Cell)
        change = "nothing" if base else f"`{_note(name).replace(', ', ' ')}`"
        rows.append((change, accuracy, "" if base else difference, f1, str(len(re.findall(r"\d+", str(seeds))))))
    return markdown(
        ("Changed in the small recipe", "Accuracy on PublicTest", "Points", "Macro F1", "Seeds"), "lrrrr", rows
    )


def command(one: Configuration | PublishedRun) -> str:
    """Returns the command that trains a configuration, all its seeds at once, or a network of the paper."""
    if isinstance(one, PublishedRun):
        chosen = {"experiment": one.experiment, "model": one.model, "unfreeze": one.unfreeze or None}
        words = [*_words(chosen), *["balance=offline"] * (one.experiment == "cnn")]
        return " ".join(["python train.py", *words])
    settings, published = one.first.settings, one.published
    known = published or settings.get("recipe")
    chosen = {
        "experiment": published.experiment if published else None,
        "recipe": settings.get("recipe"),
        "model": None if settings.get("recipe") else settings["model"],
        "unfreeze": published.unfreeze or None if published else None if known else settings.get("unfreeze"),
        "balance": None if known else settings["balance"],
        "seed": ",".join(str(run.seed) for run in one.runs),
    }
    return " ".join(["python train.py", *["-m"] * (len(one.runs) > 1), *_words(chosen), *_typed(one)])


def _words(chosen: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in chosen.items() if value is not None]


def _accuracies(rows: Sequence[Configuration | PublishedRun]) -> str:
    """A table, and below it the commands of its rows, which are too long for a column."""
    header = ("Run", "Published", "Ours", "Without duplicates", "Macro F1", "Seeds", "Best epoch")
    cells = [_not_run(row) if isinstance(row, PublishedRun) else _ran(row) for row in rows]
    commands = [f"# {row.network}: {own[2]}\n{command(row)}" for row, own in zip(rows, cells, strict=True)]
    return "\n".join((markdown(header, "lrrrrrr", cells), "", "```sh", *commands, "```"))


def _ran(one: Configuration) -> Sequence[str]:
    folder = one.first.folder.path if len(one.runs) == 1 else one.first.folder.path.parent
    link = (ROOT / folder).relative_to(ROOT)
    tests = [run.test for run in one.runs]
    constant = all(len(np.unique(test.predicted)) == 1 for test in tests)
    balance = BALANCES[str(one.first.settings["balance"])]
    changed = " ".join(f"{key}={value}" for key, value in one.differences.items() if key not in SHARED)
    parts = (
        f"[{one.network}](../{link.as_posix()})",
        "" if one.published else balance,
        f"`{changed}`" if changed else "",
        "one class for every image" * constant,
    )
    epochs = ", ".join(f"{run.record.best_epoch} of {run.record.epochs}" for run in one.runs)
    return (
        ", ".join(filter(None, parts)),
        f"{one.published.test:.2f}" if one.published else "",
        str(one.scores("acc")),
        str(_accuracy(tests, seen=False)),
        str(one.scores("f1_macro")),
        str(len(one.runs)),
        epochs,
    )


def _not_run(published: PublishedRun) -> Sequence[str]:
    return (published.network, f"{published.test:.2f}", "not run", *[""] * 4)


def _run_of(model: str) -> PublishedRun:
    return next(run for table in PUBLISHED for run in table.runs if run.model == model)


def _repeating(published: PublishedRun) -> list[Configuration]:
    return [one for one in configurations(".") if one.published == published]


def _private(one: Configuration, ensemble: bool) -> tuple[str, str, str]:
    rows = [row for row in protocol_table([one]).rows if row[1:3] == (one.first.settings["tta"], "PrivateTest")]
    (value,) = (str(row[3]) for row in rows if ("mean of" in _note(row[0])) == ensemble)
    return value, "PrivateTest", str(len(one.runs))


def _accuracy(tests: Sequence[Predictions], seen: bool) -> object:
    parts = [test.subset(test.copied == seen) for test in tests]
    return summarize([float(np.mean(part.predicted == part.labels)) for part in parts])


def _counts(copied: np.ndarray) -> list[tuple[int, str]]:
    return [(int(copied.sum()), "with a duplicate in Training"), (int((~copied).sum()), "without")]


def _typed(one: Configuration) -> list[str]:
    """Returns what differs from the recipe, as it is typed; weights lie in the folder weights/."""
    return [f"{key}={'weights/' * (key == 'weights')}{value}" for key, value in one.differences.items()]


def _note(cell: str | Cell) -> str:
    return cell.note if isinstance(cell, Cell) else ""


def _plain(cell: str | Cell) -> str:
    return str(cell).replace("copies", "duplicates")


def _number(text: str) -> float:
    match = re.search(r"\d\.\d+", text)
    return float(match[0]) if match else 0.0


def _range(values: Iterable[float], form: str) -> str:
    shown = list(dict.fromkeys(f"{value:{form}}" for value in sorted(values)))
    return shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"


# Speed


def fast() -> str:
    """The two speeds that people ask for first."""
    contestants = _workload("cnn")["summary"]
    rate = {key: f"{own['images_per_second']['median']:.0f}" for key, own in contestants.items()}
    others = f"timm's script {rate['timm']}, a plain PyTorch loop {rate['plain']}, Keras {rate['keras']}"
    milliseconds = _benchmark("inference")["milliseconds"]["predict a file"]
    rows = [
        ("images a second, training the paper's CNN", rate["ours"], others),
        ("milliseconds from an image file with one face to its probabilities", f"{milliseconds:.0f}", "not measured"),
    ]
    return markdown(("On two CPU cores", "Ours", "Others"), "lrl", rows)


def inference() -> str:
    """Milliseconds of a classification."""
    measured = _benchmark("inference")["milliseconds"]
    rows = [(name, f"{measured[key]:.{0 if measured[key] >= 100 else 1}f}") for name, key in INFERENCE.items()]
    return markdown(("One face, two cores", "Milliseconds"), "lr", rows)


def service() -> str:
    """Requests a second of `emotion serve`."""
    rows = []
    for detect, name in ((True, "faces are detected and classified"), (False, "the image is one face already")):
        rates = [_rates(detect, clients) for clients in (1, 8)]
        rows.append((name, *(f"{statistics.median(own):.0f} ({min(own):.0f} to {max(own):.0f})" for own in rates)))
    return markdown(("Requests a second", "One client", "Eight clients"), "lrr", rows)


def batches() -> str:
    """Faces a second of the network in batches."""
    measured = _benchmark("inference")["faces_per_second"]
    return markdown(
        ("Faces in a batch", "Faces a second"), "rr", [(size, f"{rate:.0f}") for size, rate in measured.items()]
    )


def eight_bits() -> str:
    """Size and accuracy of the exported network."""
    line = _benchmark("inference")["export"][-1]
    size, eight, float32 = re.search(r"int8.onnx: (\S+) MiB; .*accuracy (\S+), (\S+) in", line).groups()
    full = (ROOT / "src/emotion/pretrained/small.onnx").stat().st_size / 2**20
    rows = [("float32", f"{full:.1f}", float32), ("eight bits, `--int8`", size, eight)]
    return markdown(("`small` as ONNX", "MiB", "Accuracy on PublicTest"), "lrr", rows)


def speed(name: str) -> str:
    """Training images a second of all contestants, and how many times ours that is."""
    measured = _workload(name)["summary"]
    rows = [
        (text, _spread(own["images_per_second"], ".0f"), f"{own['times_ours']['median']:.2f}" if key != "ours" else "1")
        for key, text in CONTESTANTS.items()
        for own in [measured[key]]
    ]
    return markdown(("Contestant", "Images a second", "Beside ours"), "lrr", rows)


def speed_on_features() -> str:
    """Seconds of an epoch where the frozen part ran once, before."""
    measured, rows = _workload("vgg16_fe")["summary"], []
    for key, text in CONTESTANTS.items():
        own = measured[key]
        fast = key in ("limit", "ours")
        once = f"{own['preparation_seconds']['median']:.0f}" if key == "ours" else ""
        times = "" if fast else f"{1 / own['times_ours']['median']:.0f}"
        rows.append((text, once, _spread(own["seconds_per_epoch"], ".2f" if fast else ".1f"), times))
    header = ("Contestant", "Preparation, seconds", "Seconds an epoch", "Our epochs in the time of one")
    return markdown(header, "lrrr", rows)


def floors() -> str:
    """What a training step of 64 images takes, beside what the processor could do."""
    rows = []
    for key, name in {"cnn": "the CNN", "vgg16_ft": "VGG16"}.items():
        own = _benchmark("breakdown")["workloads"][key]
        times = [f"{1e3 * own[part]:.0f}" for part in ("step_seconds", "flops_seconds", "bytes_seconds")]
        shares = own["shares"]
        convolutions = shares["aten::convolution_backward"] + shares["aten::mkldnn_convolution"]
        rows.append((name, *times, f"{convolutions:.0%}", f"{shares.get('aten::bernoulli_', 0):.0%}"))
    ceilings = _benchmark("breakdown")["ceilings"]
    header = (
        "Network",
        "Step, ms",
        f"FLOPs at {ceilings['flops_per_second'] / 1e9:.0f} GFLOP/s, ms",
        f"Bytes at {ceilings['bytes_per_second'] / 1e9:.0f} GB/s, ms",
        "Share of convolutions",
        "Share of dropout masks",
    )
    return markdown(header, "lrrrrr", rows)


def scaling() -> str:
    """Seconds and memory of an epoch as the data grows."""
    measured = _benchmark("scaling")["measurements"]
    names = {"resident": "in memory", "streamed": "streamed from disk"}
    rows = [
        (f"{one['images']:,}", names[one["storage"]], f"{one['seconds']:.1f}", str(one["memory_mib"]))
        for one in sorted(measured, key=lambda one: (one["storage"], one["images"]))
    ]
    return markdown(("Images", "Stored", "Seconds an epoch", "MiB above the start"), "rlrr", rows)


def overhead() -> str:
    """What a step costs beyond the network."""
    measured = _benchmark("step")
    rows = [
        (
            *(f"{statistics.median(measured[key]):.0f}" for key in ("step_ms", "network_ms")),
            f"{measured['overhead_share']:.1%}",
        )
    ]
    return markdown(("A step of training, ms", "Network and optimiser alone, ms", "Overhead"), "rrr", rows)


def curves() -> str:
    """Accuracy after ten epochs on features and on images."""
    rows = []
    for views, seeds in _benchmark("curves")["curves"].items():
        last = [seed[-1] for seed in seeds]
        rows.append((f"`{views}`", f"{statistics.mean(last):.3f} ({min(last):.3f} to {max(last):.3f})", str(len(last))))
    return markdown(("`feature_views`", "Validation accuracy", "Seeds"), "lrr", rows)


def _benchmark(name: str) -> Any:
    return json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text(encoding="utf-8"))


def _workload(name: str) -> Any:
    return _benchmark(f"two-cores-{name.replace('_', '-')}")["workloads"][name]


def _rates(detect: bool, clients: int) -> list[float]:
    runs = _benchmark("inference")["service"]
    return [run["requests_per_second"] for run in runs if (run["detect"], run["clients"]) == (detect, clients)]


def _spread(values: Mapping[str, float], form: str) -> str:
    return f"{values['median']:{form}} ({values['min']:{form}} to {values['max']:{form}})"


# Trust


def trust() -> str:
    """What `make trust` tried, how often, and how often it was lost."""
    kept = json.loads((ROOT / "results/trust.json").read_text(encoding="utf-8"))
    counts: dict[str, list[dict[str, Any]]] = {}
    for row in kept["rows"]:
        counts.setdefault(
            next((pattern for pattern in FOLDED if re.fullmatch(pattern, row["what"])), row["what"]), []
        ).append(row)
    rows = [(_folded(key, own), f"{_sum(own, 'tried'):,}", f"{_sum(own, 'lost'):,}") for key, own in counts.items()]
    header = (f"Tried on {kept['date']}, {kept['hardware']}", "Times", "Lost")
    return markdown(header, "lrr", rows)


def _folded(key: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if key not in FOLDED:
        return key
    kinds = list(dict.fromkeys(re.sub(key, r"\1", row["what"]) for row in rows))
    return FOLDED[key].format(count=len(kinds), kinds="; ".join(kinds))


def _sum(rows: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(row[name] for row in rows)


TABLES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "paper": paper,
    "recipes": recipes,
    "duplicates": duplicates,
    "ingredients": ingredients,
    "fast": fast,
    "inference": inference,
    "service": service,
    "batches": batches,
    "eight-bits": eight_bits,
    "speed-cnn": lambda: speed("cnn"),
    "speed-vgg16": lambda: speed("vgg16_ft"),
    "speed-features": speed_on_features,
    "floors": floors,
    "scaling": scaling,
    "overhead": overhead,
    "curves": curves,
    "trust": trust,
}

if __name__ == "__main__":
    for page in PAGES:
        page.write_text(write_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
