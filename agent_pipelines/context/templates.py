"""Templates of prompts: checked when a task is loaded, rendered in a sandbox."""

import difflib
import json
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import JsonValue

from agent_pipelines.core.errors import DefinitionError, ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.secrets import redactor

TEMPLATE_NAMES = frozenset({"logical_time", "due_at", "task", "application", "item", "event", "state", "upstream"})
"""Names that every prompt may use, besides the variables of its task."""

MAX_OUTPUT = 1_000_000
"""Characters that a template may render to, unless its caller says otherwise."""

_MAX_BITS = 100_000  # of an integer that a template computes
_METHODS = frozenset({"get", "items", "keys", "values"})


class TooLong(ExecutionFailed):
    """A template renders to more text than it may."""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        # A payload may well have a field `items` or `values`: it goes before the method of that name.
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]  # pyright: ignore[reportUnknownVariableType]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for repeated, times in ((left, right), (right, left)):
                if isinstance(repeated, str | list | tuple) and isinstance(times, int) and len(repeated) * times > MAX_OUTPUT:  # pyright: ignore[reportUnknownArgumentType]
                    raise OverflowError(f"a text or list repeated {times} times is longer than {MAX_OUTPUT:,}")
        elif isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_BITS:
            raise OverflowError(f"a power with more than {_MAX_BITS:,} bits is too large")
        return super().call_binop(context, operator, left, right)


@pass_context  # with it Jinja cannot evaluate constants while it compiles, outside of all bounds
def _written(_context: Context, value: Any) -> Any:
    """What stands in the text for a value: text and numbers as they are, everything else as JSON."""
    if isinstance(value, bool) or value is None or isinstance(value, Mapping | list | tuple):
        return _as_json(value)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, str | int | float | jinja2.Undefined):
        return value
    raise TypeError(f"a value of type {type(value).__name__} cannot be written; call it, or add `| list` or `| join(', ')`")


def _as_json(value: object, indent: int | None = None) -> str:
    def refuse(part: object) -> NoReturn:
        if isinstance(part, jinja2.Undefined):
            str(part)  # raises the error that names what is missing
        raise TypeError(f"a value of type {type(part).__name__} has no JSON form")

    return json.dumps(value, ensure_ascii=False, indent=indent, default=refuse)


def _environment() -> _Environment:
    environment = _Environment(undefined=jinja2.StrictUndefined, autoescape=False, optimized=False, finalize=_written)
    environment.filters.update(tojson=_as_json)  # pyright: ignore[reportUnknownMemberType]  # Jinja's own escapes for HTML
    environment.globals.pop("lipsum")  # pyright: ignore[reportUnknownMemberType]  # random text
    return environment


_jinja = _environment()


@lru_cache(maxsize=512)
def _compiled(text: str) -> jinja2.Template:
    return _jinja.from_string(text)


@lru_cache(maxsize=512)
def _expression(text: str) -> jinja2.Template | None:
    """The template that assigns the value to `result`, if the text is one expression and nothing else."""
    body = _jinja.parse(text).body
    if len(body) != 1 or not isinstance(body[0], nodes.Output) or len(body[0].nodes) != 1:
        return None
    expression = body[0].nodes[0]
    if isinstance(expression, nodes.TemplateData):
        return None
    assign = nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)
    return _jinja.from_string(nodes.Template([assign], lineno=1))


@lru_cache(maxsize=512)
def _parsed(text: str) -> tuple[nodes.Template, set[str]]:
    """The tree of a template and the names that it takes from outside; many tasks may share one."""
    tree = _jinja.parse(text)
    _jinja.compile(tree, raw=True)  # finds unknown filters and tests
    return tree, meta.find_undeclared_variables(tree)


def check_template(
    text: str,
    *,
    names: Collection[str],
    state_names: Collection[str] = (),
    upstream_paths: Collection[str] = (),
    field: str,
    file: Path | str | None = None,
) -> None:
    """Check a template when its task is loaded; nothing is rendered.

    `names` are those that it may use, `state_names` the fields of `state`, `upstream_paths` the keys of `upstream`.
    Raises DefinitionError with the line for a syntax error, an unknown name, field or path, and for an inclusion.
    """

    def fail(line: int, problem: str, fix: str | None = None) -> NoReturn:
        raise DefinitionError(f"line {line}: {problem}", field=field, file=file, fix=fix)

    _check_characters(text, fail)
    try:
        tree, used = _parsed(text)
    except jinja2.TemplateSyntaxError as error:
        fail(error.lineno, f"not a template: {error.message}")
    for inclusion in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        fail(inclusion.lineno, "a template cannot include or import another", "Write the text here")
    for name in tree.find_all(nodes.Name):
        if name.ctx == "load" and name.name in used and name.name not in names:
            fail(name.lineno, f"`{name.name}` is not a name that this template can use", _suggestion(name.name, names))
    rebound = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    if "state" in names and "state" not in rebound:
        for line, key in _keys_of(tree, "state"):
            if key not in state_names:
                declare = f"Declare it: `remember: [{key}]`" if not state_names else _suggestion(key, state_names)
                fail(line, f"`state.{key}` is not among the fields that `remember` declares", declare)
    if "upstream" in names and "upstream" not in rebound:
        for line, key in _keys_of(tree, "upstream"):
            if key not in upstream_paths:
                fix = (
                    f"Add it: `dependencies: [{key}]`"
                    if not upstream_paths
                    else _suggestion(key, upstream_paths, "upstream['{}']")
                )
                fail(line, f"upstream['{key}'] is not a dependency of this task", fix)


def _check_characters(text: str, fail: Callable[[int, str], NoReturn]) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        if "\0" in line:
            fail(number, "contains a NUL character; remove it")
        try:
            line.encode()
        except UnicodeEncodeError:
            fail(number, "contains half of a surrogate pair, which is not text; remove it")


def _keys_of(tree: nodes.Template, mapping: str) -> Iterator[tuple[int, str]]:
    """Line and key of each constant look-up in a mapping: `m.key`, `m['key']`, `m.get('key')`; methods are none."""
    calls = {id(call.node): call for call in tree.find_all(nodes.Call)}
    for access in tree.find_all((nodes.Getattr, nodes.Getitem)):
        if not isinstance(access.node, nodes.Name) or access.node.name != mapping:
            continue
        if isinstance(access, nodes.Getitem):
            if isinstance(access.arg, nodes.Const) and isinstance(access.arg.value, str):
                yield access.lineno, access.arg.value
            continue
        call = calls.get(id(access))
        if call is None or access.attr not in _METHODS:
            yield access.lineno, access.attr
        elif access.attr == "get" and call.args and isinstance(call.args[0], nodes.Const):
            yield access.lineno, str(call.args[0].value)


def _suggestion(wrong: str, known: Collection[str], form: str = "`{}`") -> str:
    near = [path for path in sorted(known) if path.endswith(f"/{wrong}")]
    near = near or difflib.get_close_matches(wrong, sorted(known), n=3)
    guess = f"Did you mean {' or '.join(form.format(name) for name in near)}? " if near else ""
    return f"{guess}There is: {', '.join(form.format(name) for name in sorted(known)) or 'nothing'}"


def render(text: str, values: Mapping[str, Any], *, name: str = "template", limit: int = MAX_OUTPUT) -> str:
    """Render a template; `name` says in errors which one it is.

    Text and numbers are written as they are, other values as JSON. The sandbox bounds ranges, and more than `limit`
    characters are refused while they are made; the time of nested loops is not bounded.
    Raises ExecutionFailed (context, compose) if it cannot be rendered, TooLong if the result is too long.
    """
    pieces: list[str] = []
    length = 0
    try:
        for piece in _compiled(text).generate(values):
            length += len(piece)
            if length > limit:
                raise TooLong(ErrorClass.CONTEXT, Stage.COMPOSE, f"{name}: the text is longer than {limit:,} characters")
            pieces.append(piece)
    except TooLong:
        raise
    except Exception as error:
        raise _failed(name, error) from error
    return "".join(pieces)


def render_value(value: JsonValue, values: Mapping[str, Any], *, name: str = "value") -> JsonValue:
    """Render the texts inside a JSON value; keys stay as they are.

    A text that is one expression and nothing else keeps the kind of its value: `{{ event.files }}` stays a list.
    Raises ExecutionFailed (context, compose), as `render`.
    """
    if isinstance(value, dict):
        return {key: render_value(item, values, name=f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [render_value(item, values, name=f"{name}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        expression = _expression(value)
        if expression is None:
            return render(value, values, name=name)
        result = vars(expression.make_module(dict(values)))["result"]
        if isinstance(result, jinja2.Undefined):
            str(result)  # raises the error that names what is missing
        return json.loads(_as_json(result))
    except ExecutionFailed:
        raise
    except Exception as error:
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> ExecutionFailed:
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    if isinstance(error, jinja2.TemplateSyntaxError):
        lines = [error.lineno]
    where = f"{name}, line {lines[-1]}" if lines else name
    what = redactor.text(str(error)) or type(error).__name__
    hint = ""
    if what.endswith("is undefined"):
        hint = "; give it a value when launching, or test for it with `is defined`"
    elif what.startswith("'None' has no attribute"):
        hint = "; what is none has no fields, test for it first, as in `{% if event %}`"
    return ExecutionFailed(ErrorClass.CONTEXT, Stage.COMPOSE, f"{where}: {what}{hint}")
