"""Minimal, reversible edits of Slurm's configuration text.

What is ours stands in one marked block at the end; a line whose value we replace is kept, commented out. `strip` gives
back exactly the text before the edit. Names are case-insensitive, the last one given wins (slurm.conf(5)).
"""

from __future__ import annotations

import re

from slurmext.errors import SlurmextError

BEGIN = "# >>> slurmext: written by `slurmext install`, removed by `slurmext uninstall` >>>"
BEGIN_NO_NEWLINE = BEGIN + " (the line before had no newline)"
END = "# <<< slurmext <<<"
KEPT = "#slurmext# "
_OBJECTS = ("nodename", "partitionname", "nodeset", "downnodes", "frontendname", "include", "switchname")


def strip(text: str) -> str:
    """The text without anything of ours."""
    for begin, before in ((BEGIN_NO_NEWLINE, "\n"), (BEGIN, "")):
        text = re.sub(rf"{before}^{re.escape(begin)}\n.*?^{re.escape(END)}\n", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(rf"^{re.escape(KEPT)}", "", text, flags=re.MULTILINE)


def add_block(text: str, lines: list[str]) -> str:
    """`text` with our block at the end; unchanged when there is nothing to say."""
    if not lines:
        return text
    begin, gap = (BEGIN, "") if text.endswith("\n") or not text else (BEGIN_NO_NEWLINE, "\n")
    return f"{text}{gap}{begin}\n" + "".join(f"{line}\n" for line in lines) + f"{END}\n"


def values_of(text: str, key: str) -> list[str]:
    """Every value the text gives a global key, in order, quotes taken off."""
    return [value for _, _, value in _assignments(text, key)]


def includes_of(text: str) -> list[str]:
    """The files that the text includes, as written."""
    return [line.split(None, 1)[1].strip() for line in text.splitlines() if re.match(r"(?i)\s*include\s+\S", line)]


def comment_out(text: str, key: str) -> str:
    """The text with every line that sets `key` kept as a comment.

    Raises SlurmextError when the line sets something else too: taking it out would lose that.
    """
    lines = text.splitlines(keepends=True)
    for first, last, _ in _assignments(text, key):
        whole = _joined(lines[first : last + 1])
        if len(re.findall(r"(?:^|\s)[A-Za-z]\w*\s*=", whole)) > 1:
            raise SlurmextError(
                f"slurm.conf line {first + 1} sets {key} together with other parameters: put {key} on a line of its own"
            )
        for index in range(first, last + 1):
            lines[index] = KEPT + lines[index]
    return "".join(lines)


def _joined(lines: list[str]) -> str:
    return " ".join(line.split("#", 1)[0].rstrip().removesuffix("\\") for line in lines)


def _assignments(text: str, key: str) -> list[tuple[int, int, str]]:
    """(first line, last line, value) of each assignment; a backslash at a line's end continues it."""
    found: list[tuple[int, int, str]] = []
    lines = text.splitlines()
    pattern = re.compile(rf"(?:^|\s){key}\s*=\s*(\"[^\"]*\"|\S*)", re.IGNORECASE)
    index = 0
    while index < len(lines):
        first = index
        while lines[index].split("#", 1)[0].rstrip().endswith("\\") and index + 1 < len(lines):
            index += 1
        whole = _joined(lines[first : index + 1])
        word = re.match(r"\s*(\w+)", whole)
        if word and word[1].lower() not in _OBJECTS:
            found += [(first, index, value.strip('"')) for value in pattern.findall(whole)]
        index += 1
    return found
