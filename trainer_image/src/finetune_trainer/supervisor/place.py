"""Which of the nodes of a run this one is, and where the first one is reached."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError

LOOPBACK = "127.0.0.1"  # a pod may have no DNS, and its own name may not resolve
_INDEX = "JOB_COMPLETION_INDEX"  # Kubernetes sets it in the pods of an Indexed Job


@dataclass(frozen=True)
class Place:
    """This node among those of its run."""

    node: int = 0
    nodes: int = 1
    host: str = LOOPBACK
    """Of the first node, as this one sees it."""
    port: int = 0
    """The first node's PID 1 listens here."""

    @staticmethod
    def of(run: RunFile, environment: Mapping[str, str]) -> "Place":
        """Read the number of this node from the environment.

        Raises:
            RunError: InvalidConfiguration where it is missing, or no number of a node of this run.
        """
        if run.nodes == 1:
            return Place()
        text = environment.get(_INDEX, "")
        if not run.coordinator or not text.isdigit() or int(text) >= run.nodes:
            raise RunError(
                Reason.INVALID_CONFIGURATION,
                f"this is a run of {run.nodes} nodes with coordinator {run.coordinator!r}, and {_INDEX} is {text!r}",
                f"Start it as an Indexed Job, as the operator does, or set {_INDEX} to 0 .. {run.nodes - 1}.",
            )
        host = run.coordinator if int(text) else LOOPBACK
        return Place(int(text), run.nodes, host, run.coordinator_port)

    @property
    def first(self) -> bool:
        """Whether this node tells the result and has the checkpoints."""
        return self.node == 0

    @property
    def master_port(self) -> int:
        """The first worker of the first node listens here."""
        return self.port + 1
