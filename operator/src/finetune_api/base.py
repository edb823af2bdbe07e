"""The building blocks of the API types: the base class, cross-field rules, and the strings with a form of their own.

A rule is written once and judged twice: as CEL by the API server, as a Python predicate outside a cluster.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, PydanticUndefined


@dataclass(frozen=True)
class Rule:
    """One `x-kubernetes-validations` entry and the same law in Python.

    https://kubernetes.io/docs/reference/using-api/cel/
    """

    cel: str
    holds: Callable[[Any], bool]
    """Called with the validated model instance."""
    message: str
    """Names the field and the remedy, as seen from the object that carries the rule."""
    field: str = ""
    """The field at fault, camelCase, relative to the object that carries the rule."""


class Object(BaseModel):
    """A JSON object of the API: camelCase on the wire, no unknown fields, no coercion, as the API server judges."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _judge_nulls(cls, value: Any) -> Any:
        """As the API server does: a null takes the field's default, and is refused where there is none."""
        if not isinstance(value, dict) or None not in value.values():
            return value
        defaults = {field.alias: field.default for field in cls.model_fields.values()}
        for name, member in value.items():
            if member is None and defaults.get(name) in (None, PydanticUndefined):
                raise PydanticCustomError("null", "must not be null: leave it out", {"field": name})
        return {name: member for name, member in value.items() if member is not None}

    @model_validator(mode="after")
    def _judge_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message, "field": rule.field})
        return self


DECIMAL = r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
Decimal = Annotated[str, Field(pattern=DECIMAL, min_length=1, max_length=24)]
"""A non-negative decimal number in a string: JSON floats do not survive every client unchanged."""

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]

LIST_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
LIST_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}


def _distinct(items: list[str]) -> list[str]:
    twice = next((item for item in items if items.count(item) > 1), None)
    if twice is not None:
        raise PydanticCustomError("twice", "has {item} twice", {"item": twice})
    return items


DISTINCT = AfterValidator(_distinct)
"""As the API server judges a list that is a set; goes with LIST_SET."""

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
ObjectName = Annotated[str, Field(pattern=NAME, min_length=1, max_length=63)]

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_KEY = f"({_DNS_LABEL}([.]{_DNS_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
LABEL_KEY, KEY_OR_NONE = f"^{_LABEL_KEY}$", f"^({_LABEL_KEY})?$"
"""Of labels and taints. https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax"""
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]

_QUANTITY_LENGTH = 24
_UNIT = r"(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?" + _UNIT
_SIZE = r"^(0*[1-9][0-9]*(\.[0-9]+)?|0+\.0*[1-9][0-9]*)" + _UNIT


def _quantity(value: object) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or len(text) > _QUANTITY_LENGTH or not re.fullmatch(_QUANTITY, text):
        raise PydanticCustomError("quantity", "should be a quantity such as 500m, 2 or 8Gi")
    return text


def _size(text: str) -> str:
    if not re.fullmatch(_SIZE, text):
        raise PydanticCustomError("size", "should be more than 0, such as 8Gi")
    return text


def _int_or_string(pattern: str, minimum: int) -> WithJsonSchema:
    """The API server judges a string by the pattern, and an integer by the minimum."""
    judged = {"pattern": pattern, "maxLength": _QUANTITY_LENGTH, "minimum": minimum}
    return WithJsonSchema({"x-kubernetes-int-or-string": True, **judged})


Quantity = Annotated[str, BeforeValidator(_quantity), _int_or_string(_QUANTITY, 0)]
"""A Kubernetes resource quantity; a bare integer is allowed as everywhere in Kubernetes."""
Size = Annotated[str, BeforeValidator(_quantity), AfterValidator(_size), _int_or_string(_SIZE, 1)]
"""A quantity of memory or disk: there is no room in 0 bytes, and for Kubernetes 0 is no limit."""

_UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str) -> float:
    """The number that a Quantity stands for: 24Gi is 25769803776."""
    number = text.rstrip("kKmMgGtTi")
    return float(number) * _UNITS.get(text[len(number) :], 1)


_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_CLAIM = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PATH = r"(/[A-Za-z0-9._=+@ /-]*)?"
_GLOB = r"(/[A-Za-z0-9._=+@ /*?-]*)?"
SOURCE_URI = rf"^(s3://{_BUCKET}{_PATH}|hf://[A-Za-z0-9][A-Za-z0-9._/-]*|pvc://{_CLAIM}{_PATH})$"
DATA_URI = rf"^(s3://{_BUCKET}{_GLOB}|hf://[A-Za-z0-9][A-Za-z0-9._/*?-]*|pvc://{_CLAIM}{_GLOB})$"
TARGET_URI = rf"^(s3://{_BUCKET}{_PATH}|pvc://{_CLAIM}{_PATH})$"
LOCAL = {"local": True}
"""Validation context of runs outside a cluster: there, file:// URIs are allowed too."""


def _uri(pattern: str, forms: str) -> Any:
    compiled = re.compile(pattern)

    def check(value: str, info: ValidationInfo) -> str:
        local = isinstance(info.context, dict) and info.context.get("local")
        if compiled.fullmatch(value) or (local and re.fullmatch(r"file:///.+", value)):
            return value
        wanted = f"{forms} or file:///path" if local else forms
        raise PydanticCustomError("uri", "'{value}' should be {wanted}", {"value": value, "wanted": wanted})

    return AfterValidator(check)


SourceURI = Annotated[
    str,
    _uri(SOURCE_URI, "s3://bucket/path, hf://owner/name or pvc://claim/path"),
    Field(max_length=1024, json_schema_extra={"pattern": SOURCE_URI}),
]
DataURI = Annotated[
    str,
    _uri(DATA_URI, "s3://bucket/path, hf://datasets/owner/name/path or pvc://claim/path"),
    Field(max_length=1024, json_schema_extra={"pattern": DATA_URI}),
]
"""A source that may also be a pattern with * and ?."""
TargetURI = Annotated[
    str,
    _uri(TARGET_URI, "s3://bucket/prefix or pvc://claim/path"),
    Field(max_length=1024, json_schema_extra={"pattern": TARGET_URI}),
]
