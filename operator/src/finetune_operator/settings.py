"""The operator's settings: one class, read from environment variables with the prefix FINETUNE_."""

import inspect
import os
import re
import socket
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from finetune_operator.errors import SettingsError

PREFIX = "FINETUNE_"
Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _split(value: object) -> object:
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Settings(BaseModel):
    """Everything that can be set; the chart's values end here."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trainer_image: Annotated[str, Field(min_length=1)]
    """Image of the trainer where a FineTuneJob names none. Required."""
    namespaces: Names = ()
    """Namespaces to serve, separated by commas; none means all of the cluster."""
    log_format: Literal["text", "json"] = "text"
    """text for people, json for log collectors."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe log line to write."""
    http_host: str = "0.0.0.0"  # noqa: S104 - a pod's probes and scrapes come from other addresses
    """Address of /metrics, /healthz and /readyz."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port of /metrics, /healthz and /readyz; 0 takes a free one."""
    workers: Annotated[int, Field(ge=1, le=64)] = 8
    """FineTuneJobs that are reconciled at the same time."""
    resync_seconds: Seconds = 600
    """Time between two looks at everything, by lists, whether or not anything was heard of it."""
    progress_seconds: Seconds = 3.5
    """Time between two looks at a running trainer's progress."""
    status_seconds: Seconds = 3
    """Least time between two status writes that bring nothing but progress."""
    retry_seconds: Seconds = 10
    """Pause before the second attempt; doubles with every failure that counts."""
    retry_max_seconds: Seconds = 300
    """Longest pause between two attempts."""
    refused_seconds: Seconds = 15
    """Pause before a Job that could not be created is tried again."""
    termination_grace_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Time a trainer has to save a checkpoint after SIGTERM."""
    request_seconds: Seconds = 30
    """Time limit of one request to the API server."""
    leader_election: bool = True
    """Whether a Lease decides which replica works; without it, this must be the only process."""
    lease_namespace: str = ""
    """Namespace of the Lease; empty means the pod's own, or outside a pod the kubeconfig's."""
    lease_name: Annotated[str, Field(min_length=1)] = "finetune-operator"
    """Name of the Lease; replicas that serve the same FineTuneJobs share one."""
    lease_seconds: Annotated[int, Field(ge=1, le=3600)] = 15
    """Time after which another replica takes over from one that is not heard of."""
    lease_renew_seconds: Seconds = 10
    """Time after which a leader that cannot renew the Lease writes nothing more and exits; less than lease_seconds."""
    lease_retry_seconds: Seconds = 2
    """Time between two looks at the Lease; less than half of lease_renew_seconds."""
    pod_name: str = "finetune-operator"
    """Name of this replica in Events; the chart sets it to the pod's own."""

    @model_validator(mode="after")
    def _lease_times_nest(self) -> Self:
        if not 2 * self.lease_retry_seconds < self.lease_renew_seconds < self.lease_seconds:
            found = f"{self.lease_seconds:g}, {self.lease_renew_seconds:g}, {self.lease_retry_seconds:g}"
            raise ValueError(
                f"FINETUNE_LEASE_SECONDS > FINETUNE_LEASE_RENEW_SECONDS > 2 x FINETUNE_LEASE_RETRY_SECONDS must hold, "
                f"not {found}"
            )
        return self

    def identity(self) -> str:
        """Who this replica is: a pod's name, which no other pod has and a restarted container keeps, or a new one."""
        return (
            self.pod_name if "pod_name" in self.model_fields_set else f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the settings; raises SettingsError that names every bad variable."""
        environment = os.environ if environment is None else environment
        given: dict[str, Any] = {
            key: environment[variable(key)] for key in cls.model_fields if environment.get(variable(key))
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            lines = (
                f"{variable(str(found['loc'][0]))}: {found['msg']}" if found["loc"] else found["msg"]
                for found in error.errors()
            )
            raise SettingsError("\n".join(lines)) from error


def variable(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()


def help_text() -> str:
    """What `python -m finetune_operator --help` prints: every variable, its default and what it does."""
    lines = ["Settings are environment variables:", ""]
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else f"default: {field.default!r}"
        lines += [f"  {variable(name)}  ({default})", f"      {inspect.cleandoc(field.description or '')}"]
    return "\n".join(lines)
