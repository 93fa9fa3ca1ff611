"""YAML with line numbers: every problem of a file is reported as `file:line: key: message`."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from slurmext.errors import SlurmextError

Loc = tuple[str | int, ...]
M = typing.TypeVar("M", bound=BaseModel)

_EMPTY = "is empty; it must start with 'version: 1'"
_MOST_NODES = 100_000  # aliases of aliases can grow without bound; no honest file comes near this


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in a file. `line` counts from 1; None when the file as a whole is meant."""

    source: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class ConfigError(SlurmextError):
    """A configuration file is wrong; the message has one line for each problem, `file:line: key: message`."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed YAML text and the line of each of its keys and items."""

    data: object
    lines: Mapping[Loc, int]
    source: str

    def line(self, loc: Loc) -> int | None:
        """Line of `loc`, or of the nearest thing around it that stands in the text."""
        for end in range(len(loc), -1, -1):
            if loc[:end] in self.lines:
                return self.lines[loc[:end]]
        return None

    def problem(self, loc: Loc, message: str) -> Problem:
        """A problem at `loc`."""
        return Problem(source=self.source, line=self.line(loc), key=dotted(loc), message=message)


def dotted(loc: Loc) -> str:
    """`('queues', 'a', 'acl', 'users', 0)` -> `queues.a.acl.users[0]`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'X'?` when a known word is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def load_yaml(text: str, source: str) -> Document:
    """Parse one YAML 1.2 document. Raises ConfigError on a syntax error, a duplicate key or a key that is no text."""
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(filter(None, (error.context, error.problem)))
        line = None if mark is None else mark.line + 1
        raise ConfigError([Problem(source=source, line=line, key="", message=f"not valid YAML: {words}")]) from error
    except YAMLError as error:
        message = f"not valid YAML: {' '.join(str(error).split())}"
        raise ConfigError([Problem(source=source, line=None, key="", message=message)]) from error
    if root is None:
        raise ConfigError(
            [Problem(source=source, line=None, key="", message="is empty; it must start with 'version: 1'")]
        )
    lines: dict[Loc, int] = {(): 1}
    data = _Walk(yaml, source, lines).value(root, ())
    return Document(data=data, lines=lines, source=source)


class _Walk:
    """Builds plain data from nodes and notes the line of each."""

    def __init__(self, yaml: YAML, source: str, lines: dict[Loc, int]) -> None:
        self._yaml, self._source, self._lines = yaml, source, lines
        self._open: set[int] = set()
        self._count = 0

    def _fail(self, node: Node, loc: Loc, message: str) -> typing.NoReturn:
        raise ConfigError(
            [Problem(source=self._source, line=node.start_mark.line + 1, key=dotted(loc), message=message)]
        )

    def value(self, node: Node, loc: Loc) -> object:
        self._count += 1
        if self._count > _MOST_NODES:
            self._fail(node, loc, f"the file grows to more than {_MOST_NODES} values; use fewer aliases (*name)")
        if isinstance(node, ScalarNode):
            try:
                return self._yaml.constructor.construct_object(node)
            except (ValueError, YAMLError) as error:
                self._fail(node, loc, f"{node.value!r} is no value: {' '.join(str(error).split())}")
        if id(node) in self._open:
            self._fail(node, loc, "an alias contains itself")
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode):
                return [self._item(child, (*loc, index)) for index, child in enumerate(node.value)]
            return self._mapping(typing.cast("MappingNode", node), loc)
        finally:
            self._open.discard(id(node))

    def _item(self, node: Node, loc: Loc) -> object:
        self._lines[loc] = node.start_mark.line + 1
        return self.value(node, loc)

    def _mapping(self, node: MappingNode, loc: Loc) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self.value(key_node, loc) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                given = key_node.value if isinstance(key_node, ScalarNode) else "?"
                self._fail(key_node, loc, f"the key {given} is no text; write it in quotes: '{given}':")
            here = (*loc, key)
            if key in result:
                self._fail(key_node, here, f"is there twice; the first is at line {self._lines[here]}, keep one")
            self._lines[here] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, here)
        return result


def check(document: Document, model: type[M]) -> M:
    """The document as `model`. Raises ConfigError with every problem pydantic finds, in order of line."""
    if not isinstance(document.data, dict):
        raise ConfigError([document.problem((), "must be a mapping of keys to values, starting with 'version: 1'")])
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = [_translate(document, model, item) for item in error.errors(include_url=False)]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0)) from None


def _translate(document: Document, model: type[BaseModel], error: Mapping[str, typing.Any]) -> Problem:
    loc: Loc = tuple(error["loc"])
    in_key = "[key]" in loc
    if in_key:
        loc = loc[: loc.index("[key]")]
    loc = _standing(document, loc)
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        known = fields_at(model, loc[:-1])
        close = nearest(str(loc[-1]), known)
        listed = "" if close else f"; known: {', '.join(known)}"
        return document.problem(loc, f"unknown key{close}{listed}")
    if kind == "missing":
        return document.problem(loc[:-1], f"the key {error['loc'][-1]!r} is missing")
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind in {"literal_error", "enum"}:
        allowed = str(error["ctx"]["expected"])
        words = [word.strip(" '") for word in allowed.replace(" or ", ",").split(",")]
        message = f"must be {allowed}{nearest(given, words) if isinstance(given, str) else ''}"
    shown = "" if isinstance(given, dict | list) or kind == "value_error" else f" (it is {given!r})"
    return document.problem(loc, message + shown)


def _standing(document: Document, loc: Loc) -> Loc:
    """`loc` without the names pydantic adds for branches of a union, which are no keys of the text."""
    kept: Loc = ()
    for index, part in enumerate(loc):
        if (*kept, part) in document.lines or index == len(loc) - 1:
            kept = (*kept, part)
    return kept


def fields_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Names of the keys that may stand at `loc` of a document of type `model`; empty when any may."""
    here: object = model
    for part in loc:
        if isinstance(here, type) and issubclass(here, BaseModel):
            by_alias = {(field.alias or name): field for name, field in here.model_fields.items()}
            here = _container(by_alias[str(part)].annotation) if str(part) in by_alias else None
        elif isinstance(here, tuple):
            here = _container(here[0])
    if isinstance(here, type) and issubclass(here, BaseModel):
        return [field.alias or name for name, field in here.model_fields.items()]
    return []


@cache
def _container(annotation: object) -> object:
    """The model in an annotation, or (element annotation,) of a mapping or sequence of something."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation
    arguments = [item for item in typing.get_args(annotation) if item is not type(None)]
    origin = typing.get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping | Sequence) and arguments:
        return (arguments[-1] if arguments[-1] is not Ellipsis else arguments[0],)
    for item in arguments:
        found = _container(item)
        if found is not None:
            return found
    return None
