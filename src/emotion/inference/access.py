"""Which host names and which pages of other sites the HTTP service answers."""

import re
from collections.abc import Collection, Sequence

from fastapi import Request

from emotion.errors import UserError

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine in addresses."""
ALL = "*"
ORIGIN = re.compile(r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.ASCII)
HOST = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*|\[[0-9a-f:.]+\]", re.ASCII)


def parse_origins(text: str) -> list[str]:
    """Returns the origins in a list with commas, in lower case; `*` stands for every origin.

    Raises:
        UserError: an entry is not an origin.
    """
    return _parse(text, ORIGIN, "--cors", "an origin such as https://example.org, or * for every origin")


def parse_hosts(text: str) -> list[str]:
    """Returns the host names in a list with commas, in lower case; `*` stands for every name.

    Raises:
        UserError: an entry is not a host name.
    """
    return _parse(text, HOST, "--hosts", "a host name without a port, *.example.org, or * for every name")


def _parse(text: str, legal: re.Pattern[str], option: str, needed: str) -> list[str]:
    entries = [entry.strip().lower() for entry in text.split(",") if entry.strip()]
    for entry in entries:
        if entry != ALL and not legal.fullmatch(entry):
            raise UserError(f"{option} {entry}: {needed} is needed")
    return entries


def answered_hosts(host: str, names: Sequence[str]) -> Sequence[str]:
    """Returns the host names under which requests are answered.

    Args:
        host: the address to listen on, IPv6 in brackets.
        names: the names that the user allows; names of this machine are always added, for example for health checks.
            Without any, every name is answered, unless only this machine can connect.
    """
    if names:
        return [*names, *LOCAL_HOSTS]
    return LOCAL_HOSTS if host in LOCAL_HOSTS else (ALL,)


def is_answered(host: str, hosts: Collection[str]) -> bool:
    """Checks whether a `Host` header, with or without a port, is one of the names; `*.` stands for every subdomain."""
    name = without_port(host)
    return ALL in hosts or name in hosts or any(name.endswith(own[1:]) for own in hosts if own.startswith("*."))


def without_port(host: str) -> str:
    """Returns the name in a `Host` header, in lower case."""
    return re.sub(r":\d*$", "", host.lower(), flags=re.ASCII)


def is_of_other_site(request: Request, origins: Collection[str]) -> bool:
    """Checks whether a request comes from a page of another site whose origin is not among the allowed ones."""
    origin = request.headers.get("origin")
    if origin is None or origin.partition("://")[2] == request.headers.get("host"):
        return False
    return ALL not in origins and origin not in origins
