"""Declare configuration keys with default, constraints and documentation.

A configuration is a pydantic model derived from `Settings`; fields are made by `key` or `group` (a nested
model). Its defaults, validation, typed object, JSON schema and table in docs/configuration.md follow.
"""

import difflib
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo

from util.errors import UserError

MAX_WHOLE = 2**31 - 1  # of integers without a bound of their own
Model = TypeVar("Model", bound="Settings")


class Settings(BaseModel):
    """A frozen group of configuration keys, strictly typed and without unknown keys."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class SettingsError(UserError):
    """Invalid configuration values.

    Attributes:
        problems: one text per invalid key; each starts with the key.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def key(
    default: Any, meaning: str, *, old_name: str | None = None, must_be: str | None = None, **constraints: Any
) -> Any:
    """Declare a configuration key.

    Args:
        default: of the key; `...` if it is required.
        meaning: documentation.
        old_name: the key's name in earlier versions.
        must_be: completes "must be ..."; None: derived from type and constraints.
        **constraints: of `pydantic.Field`, such as `ge` and `le`.
    """
    extra = {"old_name": old_name, "must_be": must_be}
    extra = {name: value for name, value in extra.items() if value is not None}
    return Field(default, description=meaning, json_schema_extra=extra or None, **constraints)


def group(model: type[Settings]) -> Any:
    """Declare a nested group of keys."""
    return Field(default_factory=model)


def with_defaults(model: type[Model], **defaults: Any) -> type[Model]:
    """Derive a group with other defaults of some of its keys.

    Raises:
        KeyError: the group has no such key.
    """
    changed = {name: copy_key(model.model_fields[name], default) for name, default in defaults.items()}
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **changed)


def copy_key(field: FieldInfo, default: Any) -> tuple[Any, Any]:
    """Return a key with another default, as `create_model` takes it."""
    kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return kind, Field(default, description=field.description, json_schema_extra=field.json_schema_extra)


@dataclass(frozen=True)
class MustBe:
    """Annotate a type with the text that completes "must be ..."."""

    text: str

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Add the text to the type's JSON schema."""
        return {**handler(core_schema), "must_be": self.text}


def _tuple_of_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_order(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("low is above high")
    return pair


Whole = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
Count = Annotated[int, Field(ge=1, le=MAX_WHOLE)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
# Without NUL, which no path may contain.
Text = Annotated[str, Field(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$"), MustBe("a non-empty text")]
ListAsTuple = BeforeValidator(_tuple_of_list)
Counts = Annotated[tuple[Count, ...], ListAsTuple]
Range = Annotated[
    tuple[Positive, Positive],
    ListAsTuple,
    AfterValidator(_check_order),
    MustBe("[low, high] with low at most high, each a number above 0"),
]
TextOrNumber = Annotated[
    Text,
    BeforeValidator(lambda value: str(value) if type(value) is int and value >= 1 else value),
    MustBe("a text or a whole number of at least 1"),
]


def default_values(model: type[Settings]) -> dict[str, Any]:
    """Return the defaults as a nested dict of plain values; tuples become lists."""
    return plain_values(model())


def plain_values(config: Settings) -> dict[str, Any]:
    """Convert a configuration object to nested dicts and lists."""
    return config.model_dump(mode="json")


def parse_values(model: type[Model], values: Mapping[str, Any], *, prefix: str = "") -> Model:
    """Validate a nested mapping and build the configuration object.

    Raises:
        SettingsError: keys are unknown or missing, or values are invalid; all of them are named.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = find_problems(model, values, error)
        raise SettingsError([f"{prefix}{problem}" for problem in problems]) from None


def find_problems(model: type[Settings], values: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Describe what pydantic found in `values`: one text per key, unknown keys first."""
    unknown, invalid = {}, {}
    for fault in error.errors(include_url=False):
        problems = unknown if fault["type"] in ("extra_forbidden", "invalid_key") else invalid
        name, text = _describe_fault(model, values, fault)
        problems.setdefault(name, text)
    return [*unknown.values(), *invalid.values()]


def _describe_fault(model: type[Settings], values: Any, fault: Mapping[str, Any]) -> tuple[str, str]:
    """Return the dotted key of a fault and its description, prefixed with the key."""
    path, kind, value = list(map(str, fault["loc"])), fault["type"], values
    for depth, part in enumerate(path, start=1):
        name, value = ".".join(path[:depth]), value.get(part) if isinstance(value, Mapping) else value
        field = model.model_fields.get(part)
        if field is None:
            return name, f"{name}: unknown configuration key; {_hint(model, part, name.removesuffix(part))}"
        nested = _group_of(field)
        if nested is None or depth == len(path):
            break
        model = nested
    if nested is not None and kind == "model_type":
        return name, (
            f"{name}={_format_value(value)}: is a group of keys; set them one by one, as {name}.<key>=<value>"
        )
    if kind == "missing" and depth == len(path):
        example = f"; set it, as {name}={field.examples[0]}" if field.examples else ""
        return name, f"{name}: missing key{example}"
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    is_huge = is_integer and (fault.get("ctx", {}).get("le") == MAX_WHOLE or kind == "float_type")
    too_large = "is too large; " if is_huge else ""
    return name, f"{name}={_format_value(value)}: {too_large}must be {_requirement(model, part)}"


def _hint(model: type[Settings], name: str, prefix: str) -> str:
    renamed = renamed_keys(model).get(name)
    if renamed is not None:
        return f"it is now called {prefix}{renamed}"
    near = difflib.get_close_matches(name, model.model_fields, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(model.model_fields)}"


def _requirement(model: type[Settings], name: str) -> str:
    return describe_schema(model.model_json_schema()["properties"][name])


def describe_schema(schema: Mapping[str, Any]) -> str:
    """Complete "must be ..." from the JSON schema of a value."""
    if "must_be" in schema:
        return schema["must_be"]
    if "anyOf" in schema:
        texts = [describe_schema(option) for option in schema["anyOf"] if option.get("type") != "null"]
        return f"{', or '.join(texts)}, or None"
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(map(str, schema.get('enum') or [schema['const']]))}"
    match schema["type"]:
        case "boolean":
            return "True or False"
        case "array":
            items = schema.get("prefixItems")
            number = f"{len(items)} values" if items else "values"
            return f"a list of {number}, each {describe_schema(items[0] if items else schema['items'])}"
        case "integer" | "number" as kind:
            noun = "a whole number" if kind == "integer" else "a number"
            bounds = []
            if "exclusiveMinimum" in schema:
                bounds.append(f"above {schema['exclusiveMinimum']}")
            if "minimum" in schema:
                bounds.append(f"of at least {schema['minimum']}")
            if schema.get("maximum", MAX_WHOLE) != MAX_WHOLE:
                bounds.append(f"at most {schema['maximum']}")
            return f"{noun} {' and '.join(bounds)}"
    raise ValueError(f"no description of {schema}; give it one with must_be")


def renamed_keys(model: type[Settings]) -> dict[str, str]:
    """Map the former names of a group's own keys to the present ones."""
    extras = {name: field.json_schema_extra or {} for name, field in model.model_fields.items()}
    return {extra["old_name"]: name for name, extra in extras.items() if "old_name" in extra}


def with_present_names(
    model: type[Settings], values: Mapping[str, Any], *, prefix: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Rename the keys of a configuration that an earlier version saved.

    Returns:
        The nested values under the present names, and a text for each renamed key, such as
        "optim.average_decay: now optim.ema_decay".
    """
    renamed = renamed_keys(model)
    result, notes = {}, []
    for name, value in values.items():
        present = renamed.get(name, name)
        if present != name:
            notes.append(f"{prefix}{name}: now {prefix}{present}")
        nested = _group_of(model.model_fields[present]) if present in model.model_fields else None
        if nested is not None and isinstance(value, Mapping):
            value, group_notes = with_present_names(nested, value, prefix=f"{prefix}{present}.")
            notes += group_notes
        result[present] = value
    return result, notes


def describe_keys(model: type[Settings], *, prefix: str = "") -> Iterator[tuple[str, Any, str, str]]:
    """Yield the dotted name, default, requirement and meaning of each key, in order."""
    for name, field in model.model_fields.items():
        nested = _group_of(field)
        if nested is not None:
            yield from describe_keys(nested, prefix=f"{prefix}{name}.")
        else:
            default = None if field.is_required() else field.default
            default = list(default) if isinstance(default, tuple) else default
            yield f"{prefix}{name}", default, _requirement(model, name), field.description


def markdown_table(model: type[Settings]) -> str:
    """Format all keys, defaults, requirements and meanings as a Markdown table."""
    lines = ["| key | default | must be | what it is |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | `{default}` | {requirement} | {meaning} |"
        for name, default, requirement, meaning in describe_keys(model)
    ]
    return "\n".join(lines)


def _group_of(field: FieldInfo) -> type[Settings] | None:
    """Return the model of a nested group; None for a key."""
    model = field.annotation
    return model if isinstance(model, type) and issubclass(model, Settings) else None


def _format_value(value: Any) -> str:
    """Format a value, eliding the middle of a long one."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxlong = shortener.maxother = 120
    return shortener.repr(value)


def merge_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with changes applied; raises KeyError for unknown keys."""
    result = dict(values)
    for name, value in changes.items():
        if name not in values:
            raise KeyError(name)
        result[name] = merge_values(result[name], value) if isinstance(value, Mapping) else value
    return result
