"""Reads job files outside a cluster and judges them as the API server would.

YAML is read the way kubectl reads it: `2e-4` without quotes is a number (and so refused where a string is wanted),
dates stay strings, and a key given twice is an error.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from finetune_api.base import LOCAL
from finetune_api.names import API_VERSION, KIND, MAX_NAME_LENGTH
from finetune_api.v1alpha1 import FineTuneJob


@dataclass(frozen=True)
class Problem:
    """One reason why a document is refused."""

    document: int
    """Counts from 1 within the file."""
    field: str
    """JSON path, for instance `spec.training.learningRate`; empty for the document itself."""
    message: str

    def __str__(self) -> str:
        where = f"document {self.document}" + (f", {self.field}" if self.field else "")
        return f"{where}: {self.message}"


class InvalidJobFileError(ValueError):
    """A job file that the API server would refuse; `problems` holds every reason found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load_jobs(text: str, *, local: bool = False) -> list[FineTuneJob]:
    """All FineTuneJobs of a YAML text, in order; documents of other kinds are left out.

    Args:
        text: One or more YAML documents.
        local: Allow file:// URIs, as runs outside a cluster do.

    Raises:
        InvalidJobFileError: A document is no valid FineTuneJob, the text is no YAML, or it holds no FineTuneJob.
    """
    jobs: list[FineTuneJob] = []
    problems: list[Problem] = []
    try:
        documents = [document for document in yaml.load_all(text, Loader=KubernetesLoader) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidJobFileError([Problem(1, "", f"is not valid YAML: {error}")]) from error
    for number, document in enumerate(documents, start=1):
        if isinstance(document, dict) and document.get("kind", KIND) != KIND:
            continue
        try:
            jobs.append(parse_job(document, local=local))
        except ValidationError as error:
            problems += [Problem(number, field, message) for field, message in describe(error)]
    if not jobs and not problems:
        problems.append(Problem(1, "", f"the file holds no {KIND} (apiVersion {API_VERSION})"))
    if problems:
        raise InvalidJobFileError(problems)
    return jobs


def parse_job(document: Any, *, local: bool = False) -> FineTuneJob:
    """Judge one object as read from YAML or from the API server; raises pydantic.ValidationError."""
    return FineTuneJob.model_validate(document, context=LOCAL if local else None)


def describe(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yield (JSON path, sentence) for each finding of a ValidationError, in the words a user of YAML knows."""
    for details in error.errors(include_url=False):
        path = ".".join(str(part) for part in details["loc"])
        yield _field_path(path, details), _sentence(details, path)


def _field_path(path: str, details: ErrorDetails) -> str:
    field = details.get("ctx", {}).get("field") if details["type"] in ("rule", "null") else None
    return f"{path}.{field}" if field else path


def _sentence(details: ErrorDetails, path: str) -> str:
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        return f"unknown field (given {value!r})"
    if kind == "missing":
        return "is required"
    if path == "metadata.name":
        return f"{value!r} must be at most {MAX_NAME_LENGTH} characters of a-z, 0-9 and '-', with no dot"
    if kind == "string_type" and isinstance(value, int | float):
        return f'must be a string: write it in quotes, "{value}"'
    if kind in ("rule", "uri", "null"):
        return details["msg"]
    return f"{details['msg']} (given {value!r})"


class KubernetesLoader(yaml.SafeLoader):
    """PyYAML that reads scalars and mappings as kubectl's YAML library does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is given twice: kubectl lets the last one win, but nothing is lost in silence here."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_UNLIKE_KUBECTL = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
KubernetesLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _UNLIKE_KUBECTL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
KubernetesLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)
