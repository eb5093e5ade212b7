"""Class names: those of FER2013 and FER+, and how the labels of other data become class ids.

A label is the text in the data: the name of a folder, or a value in the label column of a table. Class names belong to
the data, in the order of the class ids.
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Literal

from emotion.errors import UserError

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""Class names in alphabetical order, as image folders sort; the position of a name is its class id."""

FERPLUS = ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The classes of the votes of FER+."""

CSV_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The order of the ids in the CSV files of the challenge, which differs: neutral is 6."""

SPELLINGS = {
    "angry": ("angry", "anger"),
    "contempt": ("contempt", "contemptuous"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful"),
    "happy": ("happy", "happiness"),
    "neutral": ("neutral", "neutrality"),
    "sad": ("sad", "sadness"),
    "surprise": ("surprise", "surprised"),
}
_NAMES = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}
LONGEST_NAME, MOST_CLASSES = 64, 1000
SIMILAR = 0.85
"""Least similarity (0..1, see `difflib.get_close_matches`) of a misspelling and the spelling that is meant."""
SHOWN = 20
"""Largest number of names that a message lists."""

log = logging.getLogger(__name__)
ClassesSetting = str | Sequence[str | int]
"""`auto`, `ferplus`, or the names in the order of the class ids."""
Others = Literal["error", "skip"]


def canonical(label: str) -> str:
    """Returns the form in which labels are compared: without case, known spellings as in `FERPLUS`, 07 as 7."""
    text = unicodedata.normalize("NFC", label).strip().casefold()
    return str(int(text)) if _is_number(text) else _NAMES.get(text, text)


@dataclass(frozen=True)
class ClassMap:
    """The classes of a source, and the class of each of its labels.

    Attributes:
        names: class names in the order of the class ids.
        ids: class id of each label of the source, None for labels that are left out.
        skipped: the labels that are left out because they are none of the classes; excluded ones are not among them.
    """

    names: tuple[str, ...]
    ids: Mapping[str, int | None]
    skipped: tuple[str, ...] = ()

    def describe_skipped(self, counts: Mapping[str, int]) -> str:
        """Returns a text that names the skipped labels with their numbers of images and the class of a similar name."""
        parts = []
        for label in self.skipped:
            near = closest(label, self.names)
            parts.append(f"{label} ({count_images(counts[label])}{f'; is it {near}?' if near else ''})")
        return f"left out, since they are none of the classes {listed(self.names)}: {', '.join(parts)}"


@dataclass(frozen=True)
class ClassRule:
    """The settings that turn labels into classes.

    Args:
        classes: `auto`: the seven of FER2013 if all labels are spellings of them, otherwise the labels themselves,
            sorted. `ferplus`: the eight of FER+. Or a list of names: labels match names without regard to case or by a
            known spelling. Labels that are numbers count along the list, from 0 if a 0 occurs, otherwise from 1.
        exclude: labels (or the classes of numbered labels) that are left out. Their names leave the classes.
        others: what to do with a label that is none of the classes: `error`, or `skip` to leave it out.
        counts: whether numbers count along the list; only if the user wrote it for this data.
        guess: whether numbers that may count from 0 or from 1 count from 1, with a warning; else they are refused.
    """

    classes: ClassesSetting = "auto"
    exclude: Sequence[str | int] = ()
    others: Others = "error"
    counts: bool = True
    guess: bool = True

    @cached_property
    def excluded(self) -> tuple[str, ...]:
        """The excluded labels in their canonical form, sorted."""
        return tuple(sorted({canonical(str(label)) for label in self.exclude}))

    def resolve(self, found: Mapping[str, str]) -> ClassMap:
        """Returns the classes of a source.

        Args:
            found: its labels, each with the place where it was found, as the path of a folder.

        Raises:
            UserError: an excluded label does not occur, numbered labels have no names, a label is none of the classes,
                or the names are not 2 to 1000 different texts of 1 to 64 characters.
        """
        listed_names = self._listed_names()
        numbers = self._numbers(found, listed_names)
        seven = CLASSES if all(canonical(label) in CLASSES for label in found) else ()
        left_out = self._left_out(found, numbers, listed_names or seven)
        kept = [label for label in found if label not in left_out]
        names = listed_names or self._automatic_names({label: found[label] for label in kept})
        positions = {canonical(name): name for name in names}
        wanted = {label: numbers[label] if label in numbers else positions.get(canonical(label)) for label in kept}
        skipped = tuple(label for label in kept if wanted[label] is None)
        if skipped and self.others == "error":
            raise self._outside(skipped[0], found[skipped[0]], names, bool(numbers))
        gone = {*self.excluded, *(canonical(numbers[label] or "") for label in left_out if label in numbers)}
        names = tuple(name for name in names if canonical(name) not in gone)
        require_classes(names)
        ids = {label: names.index(name) if name is not None else None for label, name in wanted.items()}
        return ClassMap(names, ids | dict.fromkeys(left_out), skipped)

    def of_seven(self) -> "ClassRule":
        """Returns the rule for FER2013, for which `auto` means its seven classes."""
        return replace(self, classes=CLASSES, counts=False) if self.classes == "auto" else self

    def _listed_names(self) -> tuple[str, ...]:
        """Returns the names that the setting lists, none for `auto`."""
        if isinstance(self.classes, str):
            if self.classes not in ("auto", "ferplus"):
                raise UserError(f"classes={self.classes}: not auto, ferplus or a list of names, as [happy,sad]")
            return FERPLUS if self.classes == "ferplus" else ()
        names = tuple(str(name).strip() for name in self.classes)
        return require_classes(names)

    def _numbers(self, found: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str | None]:
        """Returns the name of each label if all are numbers that count along the list, None beyond it.

        Excluded labels that are no numbers do not count.
        """
        counted = [label for label in found if _is_number(label) or canonical(label) not in self.excluded]
        # The order of numbers along FERPLUS would be a guess, since the columns of its votes have another one.
        if isinstance(self.classes, str) or not self.counts or not _all_numbers(counted) or any(map(_is_number, names)):
            return {}
        first = self._first_number(counted)
        if first == 1 and counted and max(map(int, counted)) < len(names):
            if not self.guess:
                numbers = sorted(counted, key=int)
                raise UserError(
                    f"{found[numbers[0]]}: the numbers {listed(numbers)} count from 0 or from 1, which no 0 and no "
                    f"{len(names)} tells; write the names in place of the numbers"
                )
            log.warning("classes: numbers count from 1, since there is no 0: 1 is %s", names[0])
        places = {label: int(label) - first for label in counted}
        return {label: names[place] if place < len(names) else None for label, place in places.items()}

    def _first_number(self, found: Iterable[str]) -> int:
        # Excluded labels count, too: exclude=[0] must not move the others along the list.
        return 0 if any(int(label) == 0 for label in found) else 1

    def _left_out(self, found: Mapping[str, str], numbers: Mapping[str, str | None], names: Sequence[str]) -> list[str]:
        """Returns the excluded labels; each must occur or be the name of a class, which need not have images."""
        forms = {label: {canonical(label), canonical(numbers.get(label) or label)} for label in found}
        known = {canonical(name) for name in names}.union(*forms.values())
        for excluded in self.exclude:
            if canonical(str(excluded)) not in known:
                raise UserError(
                    f"exclude={excluded}: no such class; found: {listed(sorted(found, key=_in_order)) or 'none'}"
                )
        return [label for label, form in forms.items() if form.intersection(self.excluded)]

    def _automatic_names(self, found: Mapping[str, str]) -> tuple[str, ...]:
        labels = sorted(found, key=_in_order)
        if all(canonical(label) in CLASSES for label in labels):
            return CLASSES
        if _all_numbers(labels):
            raise UserError(
                f"{found[labels[0]]}: the classes are numbers ({listed(labels)}); name every number up to {labels[-1]} "
                "with classes=[<name>,<name>,...]"
            )
        for label in labels:
            if (near := closest(label, CLASSES)) and canonical(label) not in FERPLUS:
                log.warning("%s: %s is a class of its own; is it %s?", found[label], label, near)
        spellings: dict[str, list[str]] = {}
        for label in labels:
            spellings.setdefault(canonical(label), []).append(label.strip())
        return tuple(sorted(own[0] if len(own) == 1 else form for form, own in spellings.items()))

    def _outside(self, label: str, place: str, names: tuple[str, ...], numbered: bool) -> UserError:
        remedy = f"exclude=[{label}] leaves it out"
        if numbered:
            return UserError(
                f"{place}: class {label} is beyond the names {listed(names)}; name every number up to it, or {remedy}"
            )
        if _is_number(label):
            remedy = f"name numbered classes with classes=[<name>,<name>,...], or {remedy}"
        if not self.counts:
            remedy = f"data=folder takes any classes, and {remedy}"
        near = closest(label, names)
        hint = f" (is it {near}?)" if near else ""
        return UserError(f"{place}: class {label!r} is not one of {listed(names)}{hint}; {remedy}")


AUTO = ClassRule()


def require_same_classes(names: Sequence[str | Path], classes: Sequence[tuple[str, ...]]) -> None:
    """Checks that networks can be averaged or compared.

    Args:
        names: what the message calls each network.
        classes: the names of the classes of each network.

    Raises:
        UserError: the classes, or their orders, differ.
    """
    for name, own in zip(names, classes, strict=True):
        if own != classes[0]:
            raise UserError(f"{names[0]} and {name} have different classes: {listed(classes[0])}; {listed(own)}")


def listed(names: Sequence[str]) -> str:
    """Returns the names separated by commas, at most the first `SHOWN`; one that contains a comma is in quotes."""
    text = ", ".join(f"'{name}'" if "," in name else name for name in names[:SHOWN])
    return text if len(names) <= SHOWN else f"{text} and {len(names) - SHOWN:,} more"


def count_images(number: int) -> str:
    """Returns a number with the word image or images."""
    return "1 image" if number == 1 else f"{number:,} images"


def closest(label: str, names: Sequence[str]) -> str | None:
    """Returns the class name of which a label seems to be a misspelling, or None if there is none.

    A misspelling has the first letter of a known spelling and `SIMILAR` letters: tearful and unhappy are words of their
    own.
    """
    text = label.strip().casefold()
    spellings = {
        spelling: name
        for name in names
        for spelling in (name.casefold(), *SPELLINGS.get(canonical(name), ()))
        if spelling[:1] == text[:1]
    }
    near = get_close_matches(text, spellings, 1, SIMILAR)
    return spellings[near[0]] if near else None


def require_classes(names: object) -> tuple[str, ...]:
    """Returns class names, of a setting or of a file, which may hold anything.

    Raises:
        UserError: they are not a list of 2 to `MOST_CLASSES` texts of 1 to `LONGEST_NAME` printable characters, or two
            of them are the same class (see `canonical`).
    """
    if not isinstance(names, list | tuple):
        raise UserError(f"classes: {type(names).__name__}; a list of names is needed")
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            legal = f"one has 1 to {LONGEST_NAME} printable characters"
            raise UserError(f"classes: {repr(name)[: LONGEST_NAME + 2]} is no class name; {legal}")
    if not 2 <= len(names) <= MOST_CLASSES:
        raise UserError(f"classes: {len(names):,} ({listed(names) or 'none'}); 2 to {MOST_CLASSES:,} are legal")
    forms = [canonical(name) for name in names]
    twice = [name for name, form in zip(names, forms, strict=True) if forms.count(form) > 1]
    if twice:
        raise UserError(f"classes: {listed(twice)} are the same class; name each once")
    return tuple(names)


def _is_number(label: str) -> bool:
    return re.fullmatch(r"\s*[0-9]{1,9}\s*", label) is not None


def _all_numbers(labels: Iterable[str]) -> bool:
    return all(map(_is_number, labels))


def _in_order(label: str) -> tuple[int, str]:
    return (int(label), "") if _is_number(label) else (0, label)
