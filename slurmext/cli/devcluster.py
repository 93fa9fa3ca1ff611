"""`slurmext devcluster`: a real Slurm on this machine."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slurmext.cli.base import Command, Group, program

if TYPE_CHECKING:
    from slurmext.devcluster import Devcluster

ENVIRONMENT = "SLURMEXT_DEVCLUSTER"
_RELEASES = click.Choice(["native", "trixie", "forky"])


def _which(command):  # noqa: ANN001, ANN202  a click decorator
    command = click.option(
        "--dir", "directory", type=click.Path(path_type=Path), help="Its directory, when that is not the usual one."
    )(command)
    return click.option("--name", help="Which cluster.  [default: that of this shell, else dev]")(command)


def _attach(name: str | None, directory: Path | None) -> Devcluster:
    from slurmext.devcluster import Devcluster
    from slurmext.devcluster.spec import BASE

    if directory is None and name is None and os.environ.get(ENVIRONMENT):
        directory = Path(os.environ[ENVIRONMENT])
    return Devcluster.attach((directory or BASE / (name or "dev")).absolute())


def _words(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(word for word in value.split(",") if word)


def _pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    bad = next((value for value in values if "=" not in value), None)
    if bad is not None:
        raise click.BadParameter(f"{bad!r} is not KEY=VALUE, e.g. --set KillWait=5")
    return {key: value for key, _, value in (text.partition("=") for text in values)}


@click.group("devcluster", cls=Group)
def cli() -> None:
    """A real Slurm on this machine: simulated nodes and GPUs, everything in a directory of its own."""


@cli.command(
    cls=Command,
    examples=[
        ("slurmext devcluster up --nodes 4 --gpus 8", "seconds later: 4 idle nodes; then `slurmext devcluster shell`"),
        ("slurmext devcluster up --name new --release forky", "another beside it, of another Slurm"),
    ],
)
@click.option("--name", default="dev", show_default=True, help="Clusters of other names run beside it.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Directory.  [default: …/slurmext-dev/NAME]")
@click.option("--nodes", default=4, show_default=True, help="Simulated nodes, n1 to nN.")
@click.option("--gpus", default=8, show_default=True, help="Simulated GPUs on each node.")
@click.option("--gpu-type", "gpu_types", default="h100", show_default=True, callback=_words,
              help="Their type; several (h100,a100) are dealt to the nodes in order.")  # fmt: skip
@click.option("--cpus", type=int, help="CPUs on each node.  [default: two for each GPU]")
@click.option("--release", type=_RELEASES, default="native", show_default=True,
              help="This host's Slurm, Debian 13's (24.11) or forky's (26.05); fetched once.")  # fmt: skip
@click.option("--netns", is_flag=True, help="Give each node a network of its own with a limited link.")
@click.option("--rate", default="1gbit", show_default=True, help="That link's rate in each direction.")
@click.option(
    "--dbd", is_flag=True, help="With slurmdbd on a private MariaDB, account `team` with the test users in it."
)
@click.option(
    "--users", default="", callback=_words, help="Ordinary users to create on this host where absent: alice,bob."
)
@click.option("--plain", is_flag=True, help="Slurm without slurmext.")
@click.option(
    "--set", "conf", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="Set a global key of slurm.conf."
)
def up(name: str, directory: Path | None, release: str, **options: object) -> None:
    """Boot a cluster; returns when every node is idle. Missing packages are installed with apt."""
    from slurmext.devcluster import ClusterSpec, Devcluster
    from slurmext.devcluster.spec import chosen

    spec = ClusterSpec(name=name, dir=directory.absolute() if directory else None, release=release, **options)  # pyright: ignore[reportArgumentType]
    cluster = Devcluster.up(spec, lambda text: click.echo(text, err=True))
    which = chosen(cluster.dir)
    click.echo(f"{cluster.dir}: use it with `{program()} devcluster shell{which}`, end it with `… down{which}`")


@cli.command(cls=Command, examples=[("slurmext devcluster status", "each process, its state and its log")])
@_which
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(name: str | None, directory: Path | None, as_json: bool) -> None:
    """Show each process and Slurm's nodes. Exit code 1 when a process is gone."""
    cluster = _attach(name, directory)
    pids = cluster.status()
    down = [part for part, pid in pids.items() if pid is None]
    if as_json:
        click.echo(json.dumps({
            "name": cluster.spec.name, "dir": str(cluster.dir), "release": cluster.spec.release,
            "slurm": ".".join(f"{number:02d}" for number in cluster.record.version),
            "ready_s": cluster.record.ready_s, "components": pids,
        }))  # fmt: skip
    else:
        major, minor = cluster.record.version
        click.echo(f"{cluster.spec.name}: Slurm {major}.{minor:02d} in {cluster.dir}")
        for part, pid in pids.items():
            log = cluster.components[part].log
            click.echo(f"  {part:<12} {pid if pid is not None else 'not running':<12} {log}")
        if pids["slurmctld"] is not None and pids["munged"] is not None:
            listed = cluster.run(["sinfo", "--Node", "--format=%6N %12T %24G %C %E"], check=False)
            click.echo(listed.stdout or listed.stderr, nl=False)
    raise SystemExit(1 if down else 0)


@cli.command("list", cls=Command, examples=[("slurmext devcluster list", "what runs, and where")])
def list_() -> None:
    """List the clusters in the usual directory."""
    from slurmext.devcluster import Devcluster

    for cluster in Devcluster.list():
        pids = cluster.status().values()
        running = sum(pid is not None for pid in pids)
        major, minor = cluster.record.version
        click.echo(f"{cluster.spec.name:<12} {major}.{minor:02d}  {running}/{len(pids)} processes  {cluster.dir}")


@cli.command(
    cls=Command, examples=[('eval "$(slurmext devcluster env)"', "this shell's sbatch, squeue … are the cluster's")]
)
@_which
def env(name: str | None, directory: Path | None) -> None:
    """Print what a shell needs to use the cluster: `eval "$(slurmext devcluster env)"`."""
    cluster = _attach(name, directory)
    exports = cluster.env | {"PATH": f"{cluster.bin}:$PATH"}
    for key, value in exports.items():
        click.echo(f'export {key}="{value}"' if key == "PATH" else f"export {key}={shlex.quote(value)}")


@cli.command(
    cls=Command,
    examples=[
        ("slurmext devcluster shell --user alice", "a shell as alice, in her directory of the cluster"),
        ("slurmext devcluster shell -- sinfo", "one command"),
    ],
)
@_which
@click.option("--user", help="As this user, in their directory of the cluster.")
@click.argument("command", nargs=-1)
def shell(name: str | None, directory: Path | None, user: str | None, command: tuple[str, ...]) -> None:
    """Open a shell in which sbatch, squeue … are the cluster's, or run COMMAND in it (after --)."""
    cluster = _attach(name, directory)
    if user is not None:
        cluster.become(user)
        os.chdir(cluster.home(user))
    environment = cluster.environment(user)
    argv = list(command)
    if not argv:
        environment["PS1"] = f"[{cluster.spec.name}] \\u:\\w\\$ "
        # Without its start-up files, which may put other directories first in PATH.
        argv = ["bash", "--norc", "--noprofile"]
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606  the shell replaces us
    except FileNotFoundError as error:
        raise click.UsageError(f"{argv[0]!r} is no command") from error


@cli.command(cls=Command, examples=[("slurmext devcluster restart slurmextd", "stop it where it runs, start it anew")])
@_which
@click.argument("component")
def restart(name: str | None, directory: Path | None, component: str) -> None:
    """Stop and start one process: slurmctld, slurmd@n1, agent@n1, slurmextd ….

    Without slurmext there are no agents and no slurmextd; with --dbd there are mariadbd and slurmdbd.
    """
    cluster = _attach(name, directory)
    cluster.restart(component)
    click.echo(f"{component} runs anew, pid {cluster.pid(component)}")


@cli.command(cls=Command, examples=[("slurmext devcluster stop agent@n1", "as if n1's agent had died")])
@_which
@click.argument("component")
def stop(name: str | None, directory: Path | None, component: str) -> None:
    """Stop one process; `restart` brings it back."""
    ran = _attach(name, directory).stop(component)
    click.echo(f"{component} is stopped; `restart {component}` brings it back" if ran else f"{component} did not run")


_FAULTS = {"none": 0, "driver": 9, "lost": 15}


@cli.command(
    cls=Command,
    examples=[
        ("slurmext devcluster gpus n1 --utilisation 0", "all GPUs of n1 idle, whatever jobs do"),
        ("slurmext devcluster gpus n1 --gpu 0 --gpu 1 --utilisation job", "0 and 1 work again while a job has them"),
        ("slurmext devcluster gpus n1 --gpu 3 --fault lost", "GPU 3 has fallen off the bus; --fault none mends it"),
        ("slurmext devcluster gpus n1 --mig on", "MIG mode on all GPUs, as a boot script sets it (A100: the only way)"),
    ],
)
@_which
@click.argument("node")
@click.option("--gpu", "indices", type=click.IntRange(0), multiple=True, help="Only this one; may be repeated.")
@click.option("--utilisation", metavar="PERCENT", help="How much they work; 'job': fully while a job has them.")
@click.option("--memory", type=click.IntRange(0), metavar="MIB", help="Memory in use on each.")
@click.option("--fault", type=click.Choice([*_FAULTS]), help="What NVML says: the GPUs are lost, or no driver there.")
@click.option("--mig", type=click.Choice(["on", "off"]), help="MIG mode after a reset: instances on it are gone.")
def gpus(
    name: str | None,
    directory: Path | None,
    *,
    node: str,
    indices: tuple[int, ...],
    utilisation: str | None,
    memory: int | None,
    fault: str | None,
    mig: str | None,
) -> None:
    """Say what the simulated GPUs of NODE do; the node's agent sees it through NVML."""
    simulated = _attach(name, directory).gpus(node)
    said = {"utilisation": utilisation, "memory": memory, "fault": fault, "mig": mig}
    given = [f"{key} {value}" for key, value in said.items() if value is not None]
    if not given:
        raise click.UsageError(f"nothing is said of {node}'s GPUs; e.g. --utilisation 0, --memory 4000, --fault lost")
    if wrong := [index for index in indices if index >= len(simulated)]:
        raise click.UsageError(f"--gpu {wrong[0]}: {node} has {len(simulated)} GPUs, counted from 0")
    if utilisation is not None:
        if utilisation != "job" and not (utilisation.isdecimal() and int(utilisation) <= 100):  # noqa: PLR2004
            raise click.UsageError(f"--utilisation {utilisation}: 0 to 100, or 'job'")
        simulated.set_utilisation(None if utilisation == "job" else int(utilisation), *indices)
    if memory is not None:
        simulated.set_memory(memory, *indices)
    if fault is not None:
        simulated.set_fault(_FAULTS[fault], *(indices or (() if fault == "driver" else range(len(simulated)))))
        if fault == "none" and not indices:
            simulated.set_fault(0)
    if mig is not None:
        simulated.set_mig(mig == "on", *indices)
    which = f"GPU {', '.join(map(str, indices))}" if indices else f"all {len(simulated)} GPUs"
    click.echo(f"{node}, {which}: {', '.join(given)}")


@cli.command(
    cls=Command,
    examples=[
        ("slurmext devcluster down", "stop the cluster of this shell, else dev"),
        ("slurmext devcluster down --all --keep", "every one, its logs stay"),
    ],
)
@_which
@click.option("--keep", is_flag=True, help="Keep the directory, to read its logs.")
@click.option("--all", "everyone", is_flag=True, help="Every cluster in the usual directory.")
def down(name: str | None, directory: Path | None, keep: bool, everyone: bool) -> None:
    """Stop everything, jobs included, check that nothing is left, and remove the directory."""
    from slurmext.devcluster import Devcluster
    from slurmext.devcluster.errors import BadSpec

    try:
        clusters = Devcluster.list() if everyone else [_attach(name, directory)]
    except BadSpec as error:
        if name is not None or directory is not None:
            raise  # a name that is mistyped; the usual one may well be down already
        click.echo(f"{str(error).partition(':')[0]}: nothing to do")
        return
    for cluster in clusters:
        cluster.down(keep=keep)
        click.echo(f"{cluster.spec.name} is down" + (f", its files are in {cluster.dir}" if keep else ""))


@cli.command(cls=Command, examples=[("slurmext devcluster fetch trixie forky", "Slurm 24.11 and 26.05")])
@click.argument("release", type=click.Choice(["trixie", "forky"]), nargs=-1, required=True)
def fetch(release: tuple[str, ...]) -> None:
    """Fetch other releases now rather than at their first `up`."""
    from slurmext.devcluster.roots import ensure_root

    for name in release:
        click.echo(ensure_root(name, lambda text: click.echo(text, err=True)))
