"""JSON Schemas of the files people write, for editors and validators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slurmext.config.policy_document import PolicyDocument
from slurmext.config.site import SiteConfig
from slurmext.config.wire import plan_schema, snapshot_schema

FOLDER = Path(__file__).parent.parent / "config" / "schemas"


def schemas() -> dict[Path, str]:
    """Path and wanted content of each schema."""
    return {
        FOLDER / f"{name}.schema.json": _text({"$schema": "https://json-schema.org/draft/2020-12/schema", **model})
        for name, model in (
            ("policy", _empty_allowed(PolicyDocument.model_json_schema())),
            ("site", SiteConfig.model_json_schema()),
            ("snapshot", snapshot_schema()),
            ("plan", plan_schema()),
        )
    }


def _empty_allowed(schema: Any) -> Any:
    """`research:` with nothing after it is a queue at its defaults, so null may stand where a mapping is expected."""
    if isinstance(schema, list):
        return [_empty_allowed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("$ref") in {"#/$defs/QueueDocument", "#/$defs/SettingsDocument"}:
        reference = {"$ref": schema["$ref"]}
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return {"anyOf": [reference, {"type": "null"}], **rest}
    return {key: _empty_allowed(value) for key, value in schema.items()}


def _text(schema: object) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
