"""What every source of labelled images has: its images, classes and fingerprint."""

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emotion.data.classes import CLASSES, ClassMap, ClassRule
from emotion.data.decode import BadImageError
from emotion.errors import UserError
from emotion.files import hide_home
from emotion.settings import FER_SIZE

log = logging.getLogger(__name__)

Part = Literal["train", "val", "test", "public", "private"]
"""The part of its source that an image belongs to; public and private are FER2013's two official test sets."""

FER_PARTS: dict[str, Part] = {"Training": "train", "PublicTest": "public", "PrivateTest": "private"}
PART_FOLDERS: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class LabelledImage:
    """One image of a source: pixels uint8 [C, S, S], class id, part, and a name that is unique in the source."""

    pixels: NDArray[np.uint8]
    label: int
    part: str
    name: str


class Source(ABC):
    """A set of labelled images.

    Attributes:
        size: height and width of all images, pixels.
        channels: 1 (grey) or 3 (RGB).
        classes: class names in the order of the class ids.
        excluded: labels that the settings leave out, in their canonical form, sorted.
        left_out: a sentence on the images that are left out since they are of none of the classes; empty without them.
    """

    size: int = FER_SIZE
    channels: int = 1
    classes: tuple[str, ...] = CLASSES
    excluded: tuple[str, ...] = ()
    left_out: str = ""

    @property
    @abstractmethod
    def location(self) -> str:
        """Text that identifies the source among sources of its class, such as the path of its folder."""

    @property
    def variant(self) -> tuple[object, ...]:
        """The settings beyond size and channels that the labels depend on; nothing for the plain seven classes."""
        return () if self.classes == CLASSES and not self.excluded else (self.classes, self.excluded)

    @abstractmethod
    def stamp(self) -> object:
        """Returns a value that changes whenever the content may have changed, such as file sizes and times."""

    @abstractmethod
    def __len__(self) -> int:
        """Returns how many items the iteration yields."""

    @abstractmethod
    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        """Yields the images in a fixed order; an unusable image is replaced by an error with the reason."""

    def groups(self, names: Sequence[str], group_by: str) -> list[str]:
        """Returns the group of each image, such as the person that it shows.

        Args:
            names: names of images of this source.
            group_by: a regular expression that is searched in each name. The group is what its first parentheses match,
                or the whole match without parentheses.

        Raises:
            UserError: the pattern is broken, or finds nothing in a name.
        """
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise UserError(f"group_by={group_by}: not a regular expression ({error})") from None
        matches = map(pattern.search, names)
        groups = [match[min(pattern.groups, 1)] or "" if match else "" for match in matches]
        missing = [name for name, group in zip(names, groups, strict=True) if not group]
        if missing:
            raise UserError(f"group_by={group_by}: finds nothing in {len(missing):,} names of images, as {missing[0]}")
        return groups

    def _apply(self, rule: ClassRule, found: Mapping[str, str]) -> ClassMap:
        """Sets `classes` and `excluded` by a rule, from labels and where they were found."""
        classes = rule.resolve(found)
        self.classes, self.excluded = classes.names, rule.excluded
        return classes

    def _leave_out(self, classes: ClassMap, counts: Mapping[str, int], place: str) -> None:
        """Says how many images have a label that is none of the classes.

        Args:
            classes: the classes.
            counts: number of images of each label.
            place: where the images are.
        """
        if classes.skipped:
            self.left_out = classes.describe_skipped(counts)
            log.warning("%s: %s", hide_home(place), self.left_out)


def fingerprint(source: Source) -> tuple[str, str]:
    """Returns two hashes (hex) of a source: one of its identity, one of its present content."""
    identity = digest(type(source).__name__, source.location, source.size, source.channels, *source.variant)
    return identity, digest(source.stamp())


def digest(*values: object) -> str:
    """Returns a hash (hex) of the values' representations."""
    return hashlib.blake2b(repr(values).encode(), digest_size=8).hexdigest()
