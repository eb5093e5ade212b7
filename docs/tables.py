"""Writes the tables of README.md and docs/ from what was measured, and the list of settings: `make tables`.

A page holds a table between `<!-- table: NAME -->` and `<!-- end -->`. What stands between the two lines is replaced by
the answer of the function NAME in `TABLES`, which counts it from results/ and benchmarks/results/. The settings in
conf/config.yaml, with their comments, are written from `emotion.settings`.
"""

import re
from collections.abc import Callable

import accuracy
import agreement
import others
import speed
import trials
from layout import ROOT

from emotion.settings import as_yaml

CONFIG = ROOT / "conf/config.yaml"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {
    "summary": others.summary,
    "peers": others.parts,
    "peers-installed": others.installed,
    "published": others.published,
    "paper": accuracy.paper,
    "recipes": accuracy.recipes,
    "duplicates": accuracy.duplicates,
    "agreement": agreement.agreement,
    "ingredients": accuracy.ingredients,
    "transfer": accuracy.transfer,
    "distillation": accuracy.distillation,
    "fast": speed.fast,
    "inference": speed.inference,
    "service": speed.service,
    "load": speed.load,
    "detector": speed.detector,
    "detector-kinds": speed.detector_kinds,
    "levelling": speed.levelling,
    "film-speed": speed.film,
    "batches": speed.batches,
    "eight-bits": speed.eight_bits,
    "speed-cnn": lambda: speed.speed("cnn"),
    "speed-vgg16": lambda: speed.speed("vgg16_ft"),
    "speed-features": speed.speed_on_features,
    "floors": speed.floors,
    "scaling": speed.scaling,
    "overhead": speed.overhead,
    "curves": speed.curves,
    "activation-scale": speed.activation_scale,
    "trust": trials.trust,
}


def write_tables(text: str) -> str:
    """Replaces all tables of a page."""
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def write_settings(text: str) -> str:
    """Replaces the settings of a configuration, which lie between the list of defaults and the settings of Hydra."""
    start, end = text.index("\n\n") + 2, text.index("\nhydra:")
    return f"{text[:start]}{as_yaml()}{text[end:]}"


if __name__ == "__main__":
    CONFIG.write_text(write_settings(CONFIG.read_text(encoding="utf-8")), encoding="utf-8")
    for page in PAGES:
        page.write_text(write_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
