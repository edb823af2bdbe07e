"""Which files a dataset's URI names: one file, all below a prefix that ends in `/`, or those that a pattern matches."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from finetune_trainer.storage.store import Entry

_WILD = re.compile(r"[*?]")


@dataclass(frozen=True)
class Selection:
    """A dataset's URI, taken apart."""

    folder: str
    """URI of the folder to look into."""
    pattern: str
    """Path below it; `*` and `?` stay within a folder, `**` does not. Empty: everything below the folder."""

    @property
    def prefix(self) -> str:
        """What the paths of all its files start with."""
        return _WILD.split(self.pattern, maxsplit=1)[0]

    @property
    def single(self) -> bool:
        """Whether it names one file."""
        return self.pattern == self.prefix != ""

    def files(self, listing: list[Entry], readable: Callable[[str], bool]) -> list[Entry]:
        """The files that are meant, sorted by name; hidden ones (a part that starts with . or _) never are.

        A prefix means the files that hold rows, as their names tell; a pattern means whatever it matches.
        """
        if self.pattern:
            wanted = re.compile(_regex(self.pattern))
            chosen = [entry for entry in _seen(listing) if wanted.fullmatch(entry.path)]
        else:
            chosen = [entry for entry in _seen(listing) if readable(entry.path)]
        return sorted(chosen, key=lambda entry: entry.path)

    def left_alone(self, listing: list[Entry], readable: Callable[[str], bool]) -> tuple[str, ...]:
        """Files below a prefix whose names do not tell that they hold rows, sorted."""
        return () if self.pattern else tuple(sorted(e.path for e in _seen(listing) if not readable(e.path)))


def _seen(listing: list[Entry]) -> list[Entry]:
    return [entry for entry in listing if not hidden(entry.path)]


def hidden(path: str) -> bool:
    """Whether a part of the path starts with . or _, as markers, caches and half-written files do."""
    return any(part[:1] in (".", "_") for part in path.split("/"))


def select(uri: str) -> Selection:
    """Take a URI apart at the last `/` before its first wildcard."""
    fixed = _WILD.split(uri, maxsplit=1)[0]
    folder = fixed.rpartition("/")[0]
    return Selection(folder, uri[len(folder) + 1 :])


def _regex(pattern: str) -> str:
    """The pattern as a regular expression; `**/` also matches no folder at all."""
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern))
