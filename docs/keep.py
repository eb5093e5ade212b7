"""Copies a finished run into results/, from which `make tables` makes the tables.

    python docs/keep.py runs/report/cnn_1111-seed0-<hash> table1/cnn_1111

Settings, environment, curves, metrics and predictions are copied; checkpoints and figures are not, nor losses of steps.
tests/test_run_folders.json gets the name that the settings give to the folder, so that no later version changes it.
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

from layout import ROOT
from omegaconf import DictConfig, OmegaConf

from emotion.config import run_dir
from emotion.errors import UserError, exit_on_user_error
from emotion.training.folder import RunFolder

KEPT = ("config.yaml", "environment.json", "metrics.json", "predictions.npz", "csv/*/metrics.csv")
NAMES = Path("tests/test_run_folders.json")


def keep(run: Path, target: str, root: Path = ROOT) -> Path:
    """Copies the files of a run to results/<target>/<name of the run>, and returns that folder.

    Raises:
        UserError: the run is not finished.
    """
    if RunFolder(run).state != "finished":
        raise UserError(f"{run}: not a finished run")
    run = run.resolve()
    folder = root / "results" / target / run.name
    shutil.rmtree(folder, ignore_errors=True)  # curves of an earlier training would be read with those of this one
    for file in (file for pattern in KEPT for file in sorted(run.glob(pattern))):
        copy = folder / file.relative_to(run)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        if copy.suffix == ".csv":
            drop_single_steps(copy)
    names = json.loads((root / NAMES).read_text(encoding="utf-8"))
    settings = OmegaConf.load(run / "config.yaml")
    assert isinstance(settings, DictConfig)
    settings.resume = None
    runs = names["kept runs"] | {f"{target}/{run.name}": Path(run_dir(settings)).name}
    names["kept runs"] = {name: runs[name] for name in sorted(runs, key=Path)}
    (root / NAMES).write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    return folder


def drop_single_steps(file: Path) -> None:
    """Removes the rows of metrics.csv with values of single steps only, which no curve shows."""
    with file.open(newline="", encoding="utf-8") as source:
        header, *rows = csv.reader(source)
    shown = [column for column, name in enumerate(header) if not name.endswith("step") and name != "epoch"]
    with file.open("w", newline="", encoding="utf-8") as target:
        csv.writer(target).writerows([header, *(row for row in rows if any(row[i] for i in shown))])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("target", help="folder below results/ for all seeds of its settings, as table1/cnn_1111")
    options = parser.parse_args()
    with exit_on_user_error():
        print(keep(options.run, options.target))
