"""The SPANK plugin: compiles clean, judges values as Python does, and what is generated is fresh."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from slurmext.errors import SlurmextError, UsageError
from slurmext.options import BY_NAME, OPTIONS, Kind, check, is_valid
from slurmext.spank import generate
from slurmext.spank.build import build, built_for, header_release
from slurmext.spank.generate import HERE
from slurmext.submit.options import sbatch_arguments, sbatch_parameters

STUBS = Path(__file__).parent / "stubs"
HEADERS = [STUBS, *(path for path in (Path("/usr/include"), *Path("/var/cache/slurmext/roots").glob("*/usr/include"))
                    if (path / "slurm" / "spank.h").exists())]  # fmt: skip
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt install gcc")

# Reads "index<TAB>value" and prints the plugin's verdict; the plugin's own file is included to reach its statics.
MAIN = r"""
#include "slurmext.c"
#include <stdarg.h>
spank_context_t spank_context(void) { return S_CTX_ERROR; }
spank_err_t spank_option_register(spank_t s, struct spank_option *o) { (void)s; (void)o; return 0; }
spank_err_t spank_setenv(spank_t s, const char *n, const char *v, int o) { (void)s; (void)n; (void)v; return o; }
spank_err_t spank_unsetenv(spank_t s, const char *n) { (void)s; (void)n; return 0; }
spank_err_t spank_job_control_setenv(spank_t s, const char *n, const char *v, int o)
{ return spank_setenv(s, n, v, o); }
void slurm_error(const char *f, ...) { (void)f; }
void slurm_debug(const char *f, ...) { (void)f; }
int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	return is_valid(&sx_options[atoi(argv[1])], argv[2]) ? 0 : 1;
}
"""


def test_generated_files_are_fresh() -> None:
    """Every file made from the option table is what the table says now."""
    assert generate.run(check=True) == 0


@needs_compiler
@pytest.mark.parametrize(
    "include", HEADERS, ids=lambda path: f"{header_release(path)[0]}.{header_release(path)[1]:02d}"
)
def test_the_plugin_compiles_without_a_warning(include: Path) -> None:
    """-Wall -Wextra -Werror against the headers of every release at hand."""
    plugin = build(include, header_release(include))
    assert plugin.startswith(b"\x7fELF")
    assert built_for(plugin) == header_release(include)


def test_missing_headers_are_explained(tmp_path: Path) -> None:
    """The message names the package and the flag."""
    with pytest.raises(SlurmextError, match=r"libslurm-dev.*--spank-include"):
        build(tmp_path)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: apt install gcc")
    folder = tmp_path_factory.mktemp("judge")
    (folder / "main.c").write_text(MAIN)
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-fsanitize=address,undefined", "-fno-sanitize-recover", "-g", "-I",
               str(HERE), "-I", str(HERE / "generated"), "-I", str(STUBS), "-o", str(folder / "judge"),
               str(folder / "main.c")]  # fmt: skip
    subprocess.run(command, check=True)
    return folder / "judge"


CASES = [(option, value) for option in OPTIONS for value in (*option.good, *option.bad)]


@pytest.mark.parametrize(("option", "value"), CASES, ids=lambda case: str(getattr(case, "name", case))[:20])
def test_the_plugin_and_python_agree(judge: Path, option, value: str) -> None:
    """The same verdict in C and in Python, and it is the one the table's row says."""
    expected = value in option.good
    assert is_valid(option, value) is expected
    done = subprocess.run([judge, str(OPTIONS.index(option)), value], capture_output=True, check=False)
    assert done.returncode == (0 if expected else 1), done.stderr.decode()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_row_is_complete(option) -> None:
    """The example and the default follow the rule; names follow each other."""
    assert is_valid(option, option.example)
    assert not option.default or is_valid(option, option.default)
    assert option.env == "SLURMEXT_" + option.name.upper().replace("-", "_")
    assert option.good
    assert option.bad
    assert (option.metavar == "") is (option.kind is Kind.FLAG)


def test_a_bad_value_names_value_rule_and_example() -> None:
    """One line that teaches."""
    with pytest.raises(
        UsageError, match=r"^--sx-gang-min=0: must be a whole number of tasks.*for example --sx-gang-min=4$"
    ):
        check(BY_NAME["gang-min"], "0", "sx-")


def test_keyword_arguments_become_sbatch_arguments() -> None:
    """Lists join, True means the default, None and False are left out."""
    assert sbatch_arguments(
        queue="prod/chat", ckpt=True, ckpt_dir=Path("/s"), gpu_types=["h100", "a100"], gang_min=2, no_preempt=True
    ) == ["--queue=prod/chat", "--ckpt=auto", "--ckpt-dir=/s", "--gpu-types=h100,a100", "--gang-min=2", "--no-preempt"]
    assert sbatch_arguments() == []
    assert sbatch_parameters(queue="a", prefix="sx-") == {"sx-queue": "a"}


def test_submitit_writes_the_options() -> None:
    """slurm_additional_parameters become #SBATCH lines."""
    slurm = pytest.importorskip("submitit.slurm.slurm")
    text = slurm._make_sbatch_string(
        command="true", folder="/tmp", additional_parameters=sbatch_parameters(queue="prod/chat", no_preempt=True)
    )
    assert "#SBATCH --queue=prod/chat\n" in text
    assert "#SBATCH --no-preempt\n" in text


def test_a_bad_keyword_argument_is_refused() -> None:
    """Before anything is submitted."""
    with pytest.raises(UsageError, match="must be a queue path"):
        sbatch_parameters(queue="a b")
