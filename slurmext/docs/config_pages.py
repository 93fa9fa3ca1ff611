"""docs/reference/policy.md and site-config.md: every key with its type, default and meaning."""

from __future__ import annotations

import types
import typing
from datetime import date
from enum import Enum
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from slurmext.config.policy_document import (
    AclDocument,
    PlacementDocument,
    PolicyDocument,
    QueueDocument,
    SettingsDocument,
    TypeDocument,
    UserDocument,
    WindowDocument,
)
from slurmext.config.quota import Share
from slurmext.config.site import (
    AgentSite,
    CopiesSite,
    DaemonSite,
    ManagedSite,
    OptionsSite,
    SiteConfig,
    SlicesSite,
    SlurmSite,
    StagingSite,
)
from slurmext.config.sizes import SizeDocument
from slurmext.config.slices import PoolDocument, PoolWindowDocument, SlicesDocument

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

POLICY_HEAD = """\
# Policy file

The policy says which queues there are and what each may use. `slurmext policy check FILE` checks a file anywhere,
`slurmext policy apply FILE` makes it the policy in force, `slurmext queue set` changes single numbers and keeps the
comments. An unknown key, a number that does not add up and a queue that does not exist are errors with file and line.
`policies/` in the repository has files to start from.

```yaml
{example}```

Rules:

- `reserved <= guaranteed <= max` for every queue, in all and for each GPU type.
- The children of a queue may not guarantee more than the queue itself does.
- Both hold at any time of the calendars in the year to come; an error names the windows and the time.
- A share such as `50%` is of the parent's number of the same name, rounded down. Queues at the top have numbers.
- Jobs go to queues without children. The least `max` on the way up holds.
- An ACL holds for the queues below until one has its own. A user passes who is listed, is a member of a listed Unix
  group, or submits under a listed account.

The JSON Schema is `slurmext/config/schemas/policy.schema.json`; editors with a YAML language server use it with
`# yaml-language-server: $schema=…` in the first line.
"""

SITE_HEAD = """\
# Site file

`/etc/slurmext/slurmext.yaml`, or what `SLURMEXT_CONF` or `--config` names: where Slurm, the state database and the
daemons are. `slurmext install` writes it. Every user's commands read it, so it holds no password: a database URL with
one goes into a file of mode 0600, named as `database: file:/etc/slurmext/database.url`. Run as root, slurmext refuses a
site file that anyone else could have written.

```yaml
version: 1
cluster: mycluster
database: sqlite:////var/lib/slurmext/state.db
daemon: {address: "ctl:6830"}
```
"""


def policy_page() -> str:
    """The page's text."""
    example = (Path(__file__).parent.parent.parent / "policies" / "two-teams.yaml").read_text(encoding="utf-8")
    parts = (
        ("Top level", PolicyDocument),
        ("settings", SettingsDocument),
        ("placement", PlacementDocument),
        ("queues.NAME", QueueDocument),
        ("queues.NAME.calendar", WindowDocument),
        ("queues.NAME.by_type.TYPE", TypeDocument),
        ("queues.NAME.users.USER, queues.NAME.groups.GROUP, queues.NAME.each_user", UserDocument),
        ("queues.NAME.acl", AclDocument),
        ("sizes.NAME", SizeDocument),
        ("slices", SlicesDocument),
        ("slices.pools.TYPE", PoolDocument),
        ("slices.pools.TYPE.calendar", PoolWindowDocument),
    )
    return POLICY_HEAD.replace("{example}", example) + "".join(_tables(parts))


def site_page() -> str:
    """The page's text."""
    parts = (
        ("Top level", SiteConfig),
        ("slurm", SlurmSite),
        ("daemon", DaemonSite),
        ("agent", AgentSite),
        ("agent.slices", SlicesSite),
        ("agent.copies", CopiesSite),
        ("staging", StagingSite),
        ("managed", ManagedSite),
        ("options", OptionsSite),
    )
    return SITE_HEAD + "".join(_tables(parts))


def _tables(parts: tuple[tuple[str, type[BaseModel]], ...]) -> Iterator[str]:
    for title, model in parts:
        yield f"\n## {title}\n\n{(model.__doc__ or '').strip()}\n\n"
        yield "| Key | Type | Default | Meaning |\n|---|---|---|---|\n"
        for name, info in model.model_fields.items():
            meaning = info.description or _documented(info.annotation)
            yield f"| `{name}` | {_type(info.annotation)} | {_default(info)} | {meaning.replace('|', '/')} |\n"


def _documented(annotation: object) -> str:
    return (getattr(annotation, "__doc__", "") or "").strip() if _is_model(annotation) else ""


def _is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


_NAMES = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "absolute path",
    date: "day `YYYY-MM-DD`",
    Share: "share `50%`",
}


def _type(annotation: object) -> str:
    if annotation in _NAMES:
        return _NAMES[annotation]  # pyright: ignore[reportArgumentType]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_type(item) for item in arguments if item is not type(None))
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of name to {_type(arguments[1])}"
    if origin is typing.Annotated:
        return _type(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{item.value}`" for item in annotation)
    if isinstance(annotation, typing.ForwardRef) or _is_model(annotation):
        return "mapping"
    raise TypeError(f"no words for {annotation!r}: give it some in _NAMES")


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return "required"
    value = info.default
    if isinstance(value, BaseModel) or value in ((), {}):
        return "empty"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value.value if isinstance(value, Enum) else value}`" if str(value) else "empty"
