"""The `emotion` command. Its parts are imported where they are used, so that help comes at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

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


@data.command()
def fetch(
    to: Annotated[Path, typer.Option(help="Folder that will hold train/ and test/.")] = Path("data/fer2013"),
) -> None:
    """Download FER2013 as image folders."""
    from emotion.config import exit_on_user_error
    from emotion.data.fetch import fetch as fetch_data

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

    from emotion.config import check, exit_on_user_error, parse_words
    from emotion.data.classes import CLASSES
    from emotion.data.datamodule import EmotionDataModule

    with exit_on_user_error():
        values = parse_words(settings or [])
        check(values)
        counts = EmotionDataModule(**values).counts()
        table = Table("class", *counts, "all")
        for name, *row in zip((*CLASSES, "all"), *counts.values(), strict=True):
            table.add_row(name, *map(str, row), str(sum(row)))
        Console().print(table)


def main() -> None:
    """Runs the command line."""
    app()
