"""Sections of the page: configurations on the same data, split and classes, which alone may be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

from emotion.analysis.exports import file_stem
from emotion.files import hide_home
from emotion.report.configurations import Configuration
from emotion.settings import OWN_DATA

_NAMES = {"fer2013": "FER2013", "fer2013_csv": "FER2013 as CSV", "synthetic": "drawn faces"}
_CLASSES_SHOWN = 30
_PIXELS = ("pack_size", "channels", "image_size", "backbone")
"""Settings that decide on size and colours of the stored images."""


@dataclass(frozen=True)
class Section:
    """Configurations with the same data, split and classes.

    Attributes:
        name: data and split as text, different for each section of a page.
        stem: start of the names of its files, different for each section of a page.
        configurations: at least one, in the order of the page.
        only: whether the page has no other section, so that headings and files need not name the section.
    """

    name: str
    stem: str
    configurations: Sequence[Configuration]
    only: bool = False

    def heading(self, text: str) -> str:
        """Returns the text of a heading of this section, which differs from those of other sections."""
        return text if self.only else f"{text}: {self.name}"

    def file(self, name: str) -> str:
        """Returns the name of a file of this section, without suffix."""
        return name if self.only else f"{self.stem}-{name}"

    @property
    def facts(self) -> str:
        """The name, the numbers of configurations and runs, and the classes, as text."""
        classes = self.configurations[0].classes
        names = ", ".join(classes[:_CLASSES_SHOWN]) + ", …" * (len(classes) > _CLASSES_SHOWN)
        runs = sum(len(configuration.runs) for configuration in self.configurations)
        counts = f"{_counted(len(self.configurations), 'configuration')}, {_counted(runs, 'run')}"
        return f"{self.name}: {counts}. {len(classes)} classes: {names}."


def make_sections(configurations: Sequence[Configuration]) -> list[Section]:
    """Divides configurations by data, split and classes, in their order."""
    groups: list[list[Configuration]] = []
    for configuration in configurations:
        for members in groups:
            if belong_together(configuration, members[0]):
                members.append(configuration)
                break
        else:
            groups.append([configuration])
    names = _unique_names([members[0] for members in groups])
    stems = _numbered([file_stem(name) for name in names], "-{}")
    only = len(groups) == 1
    return [Section(name, stem, members, only) for name, stem, members in zip(names, stems, groups, strict=True)]


def belong_together(configuration: Configuration, other: Configuration) -> bool:
    """Returns whether two configurations have the same data, split and classes."""
    own, theirs = configuration.first.settings, other.first.settings
    if configuration.classes != other.classes or own["split"] != theirs["split"]:
        return False
    if configuration.data == other.data:
        return own["data"] == theirs["data"] or configuration.data is not None
    # The identifier counts pixels, so the same photographs at another size or in grey have another one.
    sizes = [[values.get(name) for name in _PIXELS] for values in (own, theirs)]
    return sizes[0] != sizes[1] and _place(configuration) == _place(other)


def _place(configuration: Configuration) -> tuple[str, str, str]:
    """Returns kind and folder of the data, and the source of its labels, empty for the data itself."""
    settings = configuration.first.settings
    folder = hide_home(str(settings.get("data_dir") or "")).rstrip("/")
    return str(settings["data"]), folder, str(settings.get("labels") or "")


def _name(configuration: Configuration) -> str:
    data, folder, labels = _place(configuration)
    shown = folder or "the default folder" if data in OWN_DATA else _NAMES.get(data, data)
    source = f", labels={labels}" if labels else ""
    return f"{shown}{source}, split={configuration.first.settings['split']}"


def _unique_names(firsts: Sequence[Configuration]) -> list[str]:
    """Returns the names of sections by their first configurations, with the number of classes where names repeat."""
    names = [_name(first) for first in firsts]
    counts = Counter(names)
    named = [
        f"{name}, {len(first.classes)} classes" if counts[name] > 1 else name
        for name, first in zip(names, firsts, strict=True)
    ]
    return _numbered(named, " ({})")


def _numbered(texts: Sequence[str], form: str) -> list[str]:
    """Adds a number from 2 to every text that repeats an earlier one."""
    seen: set[str] = set()
    unique = []
    for text in texts:
        candidates = chain([text], (text + form.format(number) for number in count(2)))
        unique.append(next(candidate for candidate in candidates if candidate not in seen))
        seen.add(unique[-1])
    return unique


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
