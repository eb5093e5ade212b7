"""How a setting is declared, and what is made of that: checks, messages, the comments of `conf/config.yaml`."""

import textwrap
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from emotion.errors import UserError

CONTROL, NEW, FIXED, SOURCE = "control", "new", "fixed", "source"
"""Marks of settings.

CONTROL: how a run is carried out; runs that differ only in it are the same run.
NEW: younger than the first runs, whose hashes must not move; left out of the hash at its default.
FIXED: a resumed run cannot change it, since its result would be that of neither value.
SOURCE: it defines the images and their labels.
"""


def setting(default: Any, text: str, *marks: str) -> Any:
    """Declares a setting: its default, its meaning in one line, and its marks."""
    return Field(default, description=text, json_schema_extra={"marks": list(marks)})


class Group(BaseModel):
    """A group of settings that are used together; the docstring of a group is its heading in `conf/config.yaml`.

    Raises:
        pydantic.ValidationError: a value is not legal; `of` raises a `UserError` in its place.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    prefix: ClassVar[str] = ""
    """What the names of its settings begin with on the command line."""

    @field_validator("*", mode="before")
    @classmethod
    def _keep_bools_apart(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses `true` where 1 is legal, which Python holds equal."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and not {bool, Any} & {*options_of(annotation)}:
            raise ValueError("not a truth value")
        return value

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Builds the group from a mapping of settings, of which those of other groups are ignored.

        Raises:
            UserError: a value is not legal; the message names the legal ones.
        """
        own = {key: value for key, value in values.items() if key in cls.model_fields}
        try:
            return cls.model_validate(own)
        except ValidationError as error:
            raise UserError(_explain(error, cls, own)) from None

    def flat(self) -> dict[str, Any]:
        """Returns the settings as plain values."""
        return self.model_dump()


def yaml_lines(name: str, group: type[Group]) -> Iterator[str]:
    """Yields the lines of `conf/config.yaml` for a group: its heading, and each setting with its text as a comment."""
    indent = "  " if group.prefix else ""
    yield f"# {(group.__doc__ or '').rstrip('.')}"
    if indent:
        yield f"{name}:"
    for key, field in group.model_fields.items():
        if key != "model":  # which a file of conf/model sets
            yield from _yaml_setting(f"{indent}{key}: {_yaml_value(field.default)}", field.description or "")
    yield ""


def _yaml_setting(assignment: str, text: str) -> Iterator[str]:
    lines = textwrap.wrap(text, 120 - 31, break_long_words=False) or [""]
    yield f"{assignment:<28} # {lines[0]}".rstrip(" #") if text else assignment
    yield from (f"{'':<28} # {line}" for line in lines[1:])


def _yaml_value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def marks_of(field: FieldInfo) -> list[str]:
    """Returns the marks of a setting."""
    extra = field.json_schema_extra
    return list(extra["marks"]) if isinstance(extra, dict) else []  # type: ignore[arg-type]


def options_of(annotation: Any) -> list[Any]:
    """Returns the alternatives of a type: the members of its unions."""
    if get_origin(annotation) in (Union, UnionType):
        return [option for member in get_args(annotation) for option in options_of(member)]
    return [annotation]


def _explain(error: ValidationError, group: type[Group], values: Mapping[str, Any]) -> str:
    """Returns the message for the first setting that is not legal."""
    key = str(error.errors()[0]["loc"][0])
    return f"{group.prefix}{key}={str(values[key])[:100]}: {_legal(group.model_fields[key])}"


def _legal(field: FieldInfo) -> str:
    """Returns the text that names the legal values of a setting."""
    options = options_of(field.annotation)
    names = [str(name).lower() for option in options if get_origin(option) is Literal for name in get_args(option)]
    names += ["true", "false"] if bool in options else []
    others = names + (["null"] if NoneType in options else [])
    options = [option for option in options if not (option is int and float in options)]
    kinds = [text for option in options if (text := _kind(option, field))]
    if not kinds:
        return f"not one of {', '.join(names)}"
    return f"{' or '.join([kinds[0], *others])} is needed"


def _kind(option: Any, field: FieldInfo) -> str | None:
    """Returns the text of a number, a text or a list; None for names."""
    metadata = field.metadata
    if get_origin(option) is Annotated:
        option, *extra = get_args(option)
        metadata = [*metadata, *(one for info in extra for one in info.metadata)]
        option = float if float in options_of(option) else option
    limits = {name: getattr(one, name) for one in metadata for name in ("ge", "gt", "le", "lt") if hasattr(one, name)}
    if option is float:
        return f"a number {_range(limits)}"
    if option is int:
        return f"a whole number from {limits['ge']}" + (f" to {limits['le']}" if "le" in limits else "")
    if option is str:
        return "a name or path"
    if get_origin(option) is list:
        return "a list of whole numbers" if get_args(option) == (int,) else "a list of names, as [a,b],"
    return None


def _range(limits: Mapping[str, float]) -> str:
    if limits.get("gt") == 0 and limits.get("lt") == 1:
        return "between 0 and 1"
    low = "from 0" if "ge" in limits else "above 0"
    if "le" in limits:
        return f"{low} to 1" if "ge" in limits else f"{low}, at most 1,"
    return f"{low}, below 1," if limits["lt"] == 1 else low
