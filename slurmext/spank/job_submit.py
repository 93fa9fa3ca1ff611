"""job_submit.lua of one site, made from its template, the generated option table and the site's values."""

from __future__ import annotations

from dataclasses import dataclass

from slurmext.spank.generate import HERE, environment


@dataclass(frozen=True, slots=True, kw_only=True)
class LuaSite:
    """What job_submit.lua knows of the site. `former` is the path of the site's own script, called first; `transparent`
    the program that runs the script of a job of --ckpt=transparent.
    """

    run_dir: str
    stale_s: float
    partitions: tuple[str, ...] = ()
    require_gpu: bool = True
    prefix: str = ""
    trusted_uids: tuple[int, ...] = (0,)
    former: str | None = None
    transparent: str | None = None


PARTS = ("values", "gpus", "files", "queues", "sizes", "slices", "nodes", "decide", "act")
"""What the script is made of, in the order of use."""


def render(site: LuaSite) -> str:
    """The whole script."""
    options_lua = (HERE / "generated" / "options.lua").read_text(encoding="utf-8")
    parts = "".join((HERE / "lua" / f"{part}.lua").read_text(encoding="utf-8") for part in PARTS)
    return environment().get_template("job_submit.lua.j2").render(site=site, options_lua=options_lua, parts=parts)
