"""Write what is generated from the option table, or say what is stale."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path

import jinja2

from slurmext.options import OPTIONS, SIGNALS, Kind

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGETS = {
    "options.h.j2": HERE / "generated" / "options.h",
    "options.lua.j2": HERE / "generated" / "options.lua",
    "completion.bash.j2": HERE / "generated" / "completion.bash",
    "completion.zsh.j2": HERE / "generated" / "completion.zsh",
    "submit_options.py.j2": ROOT / "slurmext" / "submit" / "options.py",
    "options.md.j2": ROOT / "docs" / "reference" / "options.md",
    "slurmext-options.7.j2": ROOT / "docs" / "man" / "slurmext-options.7",
}


def quoted(text: str) -> str:
    """A string literal that C and Lua read alike."""
    return json.dumps(text, ensure_ascii=False)


def roff(text: str) -> str:
    """Plain text as man(7) prints it literally."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def environment() -> jinja2.Environment:
    """The jinja2 environment of all templates of this folder; an undefined name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  C, Lua, roff, not HTML
    )
    made.filters["c"] = quoted
    made.filters["roff"] = roff
    made.filters["py"] = repr
    return made


def rendered() -> dict[Path, str]:
    """Path and wanted content of each generated file."""
    made = environment()
    values = {"options": OPTIONS, "kinds": [kind.value for kind in Kind], "signals": SIGNALS}
    return {path: made.get_template(name).render(values) for name, path in TARGETS.items()}


def run(*, check: bool) -> int:
    """Write the files; with `check` only report, 1 when a file is stale."""
    stale = 0
    for path, wanted in rendered().items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found == wanted:
            continue
        stale += 1
        if check:
            sys.stderr.writelines(
                difflib.unified_diff(
                    found.splitlines(keepends=True), wanted.splitlines(keepends=True), str(path), "generated", n=1
                )
            )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    if check and stale:
        sys.stderr.write(f"{stale} generated files are stale: run `python -m slurmext.options generate`\n")
    return int(bool(check and stale))
