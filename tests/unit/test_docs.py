"""The documentation is complete and fresh: what the code has, the pages have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from slurmext.cli.reasons import LEAVING, PENDING
from slurmext.config.policy_document import PolicyDocument
from slurmext.config.site import SiteConfig
from slurmext.docs import cli_page, config_pages, reasons_page
from slurmext.docs.generate import ROOT, wanted
from slurmext.docs.schemas import FOLDER
from slurmext.model.plan import Reason

DOCS = ROOT / "docs"


@pytest.mark.parametrize("path", wanted(), ids=lambda path: path.name)
def test_generated_files_are_fresh(path: Path) -> None:
    """`python -m slurmext.docs generate` was run after the last change."""
    assert path.read_text() == wanted()[path], "stale: run python -m slurmext.docs generate"


def test_every_reason_has_words_of_its_own_and_stands_on_the_page() -> None:
    """Meaning and remedy for each code, pending or leaving, none twice."""
    assert set(PENDING) | set(LEAVING) == set(Reason)
    assert not set(PENDING) & set(LEAVING)
    meanings = [words.meaning for words in (*PENDING.values(), *LEAVING.values())]
    assert len(set(meanings)) == len(meanings)
    for reason in Reason:
        assert f"### {reason.value}\n" in reasons_page.page()


def test_every_command_and_option_stands_on_the_page() -> None:
    """Walks the command tree."""
    page = cli_page.page()
    for path, command in cli_page.commands():
        assert f"# {path}\n" in page
        for parameter in command.params:
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert not name.startswith("-") or name in page, (path, name)


def test_every_command_shows_an_example() -> None:
    """In its --help and on the page: how it is typed, and what that does."""
    for path, command in cli_page.commands():
        if not isinstance(command, click.Group):
            assert getattr(command, "examples", ()), path
            assert all(line and meaning for line, meaning in command.examples), path


def test_every_key_of_policy_and_site_file_has_a_meaning() -> None:
    """No row of the tables is without words."""
    for page in (config_pages.policy_page(), config_pages.site_page()):
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        assert len(rows) > 15
        for row in rows:
            assert len(row.rstrip("| ").rsplit("|", 1)[1].strip()) > 5, row


@pytest.mark.parametrize(
    "page", [page for page in wanted() if page.parent.name == "reference"], ids=lambda page: page.name
)
def test_no_page_shows_what_only_python_understands(page: Path) -> None:
    """A type has words of its own."""
    assert not re.search(r"<(class|function|enum|module) ", wanted()[page])


def test_schemas_name_every_key(tmp_path: Path) -> None:
    """The shipped JSON Schema is the model's."""
    for name, model in (("policy", PolicyDocument), ("site", SiteConfig)):
        schema = json.loads((FOLDER / f"{name}.schema.json").read_text())
        assert schema["properties"].keys() == model.model_fields.keys()
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "guide",
    sorted([*DOCS.glob("*.md"), *DOCS.glob("guides/*.md"), ROOT / "policies" / "README.md", ROOT / "README.md"]),
    ids=lambda p: p.name,
)
def test_guides_name_only_commands_options_and_fields_that_exist(guide: Path) -> None:
    """A `slurmext …` line in a guide is one the program understands."""
    known = {path.removeprefix("slurmext "): command for path, command in cli_page.commands()}
    text = guide.read_text().replace(" -- slurmext ", "\nslurmext ")  # a command that another one runs
    for line in re.findall(r"slurmext ((?:[a-z-]+)(?: [a-z]+)?[^`|;>\n]*)", text):
        words = line.split()
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in known), None)
        if words[0] not in {path.split()[0] for path in known}:
            continue  # prose: "slurmext gives …"
        assert name or len(words) == 1 or not re.fullmatch(r"[a-z]+", words[1]), f"{guide.name}: slurmext {line}"
        if name:
            options = {
                option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
            }
            for word in words:
                option = word.strip("),.:").split("=")[0]
                if re.fullmatch(r"--[a-z][a-z0-9-]+|-[a-zA-Z]", option):
                    assert option in {*options, "--help"}, f"{guide.name}: slurmext {line}"
                elif re.fullmatch(r"-[nP]+o?", option):
                    assert {"-n", "-P"} <= options, f"{guide.name}: slurmext {line}"


@pytest.mark.skipif(
    shutil.which("mkdocs", path=str(Path(sys.executable).parent)) is None, reason="mkdocs is not installed"
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Mkdocs --strict: links and navigation are right."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
