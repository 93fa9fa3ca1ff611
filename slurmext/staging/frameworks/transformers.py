"""Hugging Face transformers on a staged model: `from_pretrained` reads its directory, and mapping it is loading it.

from slurmext.staging.frameworks.transformers import from_pretrained

model = from_pretrained(AutoModelForCausalLM, "org/model@rev", dtype="auto")
tokenizer = from_pretrained(AutoTokenizer, "org/model@rev")
"""

from __future__ import annotations

import os
from typing import Any

from slurmext.staging.loader import path


def from_pretrained(
    kind: Any, model: str | os.PathLike[str], *, roots: str | None = None, wait_s: float = 0.0, **arguments: Any
) -> Any:
    """`kind.from_pretrained(directory, **arguments)` of a staged model, or of its storage when staging it failed.

    Nothing is fetched from a hub. `kind` is a model, tokenizer, processor or configuration class of transformers;
    `roots` and `wait_s` as in `load`. Raises NotStaged.
    """
    directory = path(model, roots=roots, wait_s=wait_s)
    return kind.from_pretrained(str(directory), local_files_only=True, **arguments)
