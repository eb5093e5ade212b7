"""Sections of the page: configurations on the same data, split and classes, which alone may be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from emotion.analysis.exports import file_stem
from emotion.files import hide_home
from emotion.report.configurations import Configuration
from emotion.report.runs import OWN_DATA

_NAMES = {"fer2013": "FER2013", "fer2013_csv": "FER2013", "synthetic": "drawn faces"}
_CLASSES_SHOWN = 30


@dataclass(frozen=True)
class Section:
    """Configurations with the same data, split and classes.

    Attributes:
        name: data and split as text, different for each section of a page.
        configurations: at least one, in the order of the page.
        only: whether the page has no other section, so that headings and files need not name the section.
    """

    name: str
    configurations: Sequence[Configuration]
    only: bool = False

    def heading(self, text: str) -> str:
        """Returns the text of a heading of this section, which differs from those of other sections."""
        return text if self.only else f"{text}: {self.name}"

    def file(self, name: str) -> str:
        """Returns the name of a file of this section, without suffix."""
        return name if self.only else f"{file_stem(self.name)}-{name}"

    @property
    def facts(self) -> str:
        """The numbers of configurations and runs, and the classes, as text."""
        classes = self.configurations[0].classes
        names = ", ".join(classes[:_CLASSES_SHOWN]) + ", …" * (len(classes) > _CLASSES_SHOWN)
        runs = sum(len(configuration.runs) for configuration in self.configurations)
        counts = f"{_count(len(self.configurations), 'configuration')}, {_count(runs, 'run')}"
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
    names = _unique_names([_name(members[0]) for members in groups], [len(members[0].classes) for members in groups])
    return [Section(name, members, len(groups) == 1) for name, members in zip(names, groups, strict=True)]


def belong_together(configuration: Configuration, other: Configuration) -> bool:
    """Returns whether two configurations have the same data, split and classes."""
    own, theirs = configuration.first.settings, other.first.settings
    if configuration.classes != other.classes or own["split"] != theirs["split"]:
        return False
    if configuration.data == other.data:
        return own["data"] == theirs["data"] or configuration.data is not None
    # The identifier counts pixels, so the same photographs at another size or in grey have another one.
    sizes = [(values.get("pack_size"), values.get("channels")) for values in (own, theirs)]
    return sizes[0] != sizes[1] and _place(configuration) == _place(other)


def _place(configuration: Configuration) -> tuple[str, str]:
    settings = configuration.first.settings
    return str(settings["data"]), hide_home(str(settings.get("data_dir") or "")).rstrip("/")


def _name(configuration: Configuration) -> str:
    data, folder = _place(configuration)
    shown = folder or "the default folder" if data in OWN_DATA else _NAMES.get(data, data)
    return f"{shown}, split={configuration.first.settings['split']}"


def _unique_names(names: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Adds the number of classes to names that repeat, and to those that still repeat a number."""
    counts = Counter(names)
    named = [f"{name}, {size} classes" if counts[name] > 1 else name for name, size in zip(names, sizes, strict=True)]
    seen: Counter[str] = Counter()
    unique = []
    for name in named:
        seen[name] += 1
        unique.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return unique


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
