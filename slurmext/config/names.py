"""Names in the policy file, and the templates that make queue names of them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from slurmext.config.yaml_errors import nearest
from slurmext.model.policy import PLACEHOLDERS

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def _queue_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value):
        raise ValueError(
            f"{value!r} is no queue name: letters, digits, '.', '_' and '-', at most 63, the first a letter or digit"
            + ("; a queue below another goes under its 'children:'" if "/" in value else "")
        )
    return value


def _type_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"{value!r} is no GPU type: write it as in gres.conf, for example h100")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[^\s,#/]+", value):
        raise ValueError(f"{value!r} is no name: one word without spaces, commas, '#' or '/'")
    return value


def _template(value: str) -> str:
    for found in _PLACEHOLDER.findall(value):
        if found not in PLACEHOLDERS:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"'{{{found}}}' stands for nothing; known: {known}{nearest(found, PLACEHOLDERS)}")
    if set(_PLACEHOLDER.sub("", value)) & set("{}"):
        raise ValueError(f"{value!r} has a brace without its other; write for example research/{{user}}")
    return value


def is_template(value: str) -> bool:
    """Whether a placement target has placeholders."""
    return "{" in value


QueueName = Annotated[str, AfterValidator(_queue_name)]
TypeName = Annotated[str, AfterValidator(_type_name)]
Name = Annotated[str, AfterValidator(_name)]
Template = Annotated[str, AfterValidator(_template)]
