"""The `emotion` command. Its parts are imported where they are used, so that help comes at once."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from emotion.data.datamodule import EmotionDataModule

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(no_args_is_help=True, help="Facial emotion recognition: train, evaluate, look at data.")
data = typer.Typer(no_args_is_help=True, help="Get and inspect data.")
app.add_typer(data, name="data")


@app.command(context_settings=PASS_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train a network: `emotion train model=vgg16_ft unfreeze=6` (`--help` lists all settings)."""
    from emotion.training.run import main as train_main

    sys.argv = ["emotion train", *context.args]
    train_main()


@app.command(context_settings=PASS_ON, add_help_option=False)
def evaluate(context: typer.Context) -> None:
    """Test checkpoints: `emotion evaluate ckpt=runs/.../best.ckpt` (`--help` says more)."""
    from emotion.training.evaluate import main as evaluate_main

    sys.argv = ["emotion evaluate", *context.args]
    evaluate_main()


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders in which runs lie at any depth.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.md and the pictures.")] = Path(
        "runs/report-page"
    ),
) -> None:
    """Put the published report's figures beside those of our runs, on one page."""
    from emotion.errors import exit_on_user_error
    from emotion.report.page import write_report

    with exit_on_user_error():
        page, verdict = write_report(paths, out)
        typer.echo(f"{verdict}\nreport: {page}")


@app.command()
def publish(
    checkpoint: Annotated[Path, typer.Argument(help="A best.ckpt.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("network.safetensors"),
    views: Annotated[str, typer.Option(help="Whose mean counts: none, flip, shifts or ten_crop.")] = "flip",
) -> None:
    """Turn a checkpoint into a small file that `emotion.load` reads: weights, temperature, figures, no code."""
    import json
    from typing import cast, get_args

    from emotion.errors import exit_on_user_error, require_choice
    from emotion.models.views import ViewsName
    from emotion.training.publish import publish as publish_network

    with exit_on_user_error():
        require_choice("--views", views, get_args(ViewsName))
        classifier = publish_network(checkpoint, out, cast("ViewsName", views))
        typer.echo(f"{json.dumps(classifier.card.facts, indent=2)}\n{out}: {out.stat().st_size / 2**20:.1f} MiB")


@app.command()
def audit(
    settings: Annotated[
        list[str] | None, typer.Argument(help="Where the data lies, and settings: photos data=folder pack_size=96 ...")
    ] = None,
    near: Annotated[float, typer.Option(help="Correlation of pixels from which images are near copies.")] = 0.95,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="runs/audit/<data>")] = None,
) -> None:
    """Find copies within and across splits, copies with different labels, constant images and rare classes."""
    from functools import partial

    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import track

    from emotion.analysis.document import to_markdown
    from emotion.config import require_known
    from emotion.data.datamodule import SOURCE_SETTINGS
    from emotion.errors import exit_on_user_error
    from emotion.report.audit import run_audit

    console, errors = Console(), Console(stderr=True)
    progress = partial(track, description="comparing images", console=errors, disable=not errors.is_terminal)
    with exit_on_user_error():
        for word in settings or []:
            if "=" in word:
                require_known(word.split("=", 1)[0], SOURCE_SETTINGS, "setting of a source")
        images = _data_module(settings, on_bad_image="skip")
        place = Path(images.hparams["data_dir"] or images.hparams["data"])
        folder = out or Path("runs/audit") / place.resolve().name
        console.print(Markdown(to_markdown(run_audit(images, near, folder, progress), folder)))
        console.print(f"audit: {folder / 'audit.html'}", soft_wrap=True, markup=False, highlight=False)


@data.command()
def fetch(
    to: Annotated[Path, typer.Option(help="Folder that will hold train/ and test/.")] = Path("data/fer2013"),
) -> None:
    """Download FER2013 as image folders."""
    from emotion.data.fetch import fetch as fetch_data
    from emotion.errors import exit_on_user_error

    with exit_on_user_error():
        typer.echo(f"FER2013 is in {fetch_data(to)}")


@data.command()
def info(
    settings: Annotated[
        list[str] | None, typer.Argument(help="As for training: data=folder data_dir=photos split=official ...")
    ] = None,
) -> None:
    """Count the images of every split and class."""
    from rich.console import Console
    from rich.table import Table

    from emotion.data.classes import CLASSES
    from emotion.errors import exit_on_user_error

    with exit_on_user_error():
        counts = _data_module(settings).counts()
        table = Table("class", *counts, "all")
        for name, *row in zip((*CLASSES, "all"), *counts.values(), strict=True):
            table.add_row(name, *map(str, row), str(sum(row)))
        Console().print(table)


def _data_module(words: list[str] | None, **defaults: str) -> "EmotionDataModule":
    """Builds the data that `key=value` words describe; a word without `=` is the place where it lies."""
    from emotion.config import check, parse_words
    from emotion.data.datamodule import EmotionDataModule
    from emotion.errors import UserError

    places = [word for word in words or [] if "=" not in word]
    if len(places) > 1:
        raise UserError(f"{' '.join(places)}: one place of data at a time; settings are given as key=value")
    values = parse_words([word for word in words or [] if "=" in word])
    values = {**defaults, **values, **({"data_dir": places[0]} if places else {})}
    check(values)
    return EmotionDataModule(**values)


def main() -> None:
    """Runs the command line."""
    app()
