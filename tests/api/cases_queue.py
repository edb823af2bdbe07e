"""Cases of the queue that a job waits in."""

from tests.api.jobtext import Case, job

ACCEPTED = [
    Case("a queue", job("queueName: team-a")),
    Case("a place in a queue", job("queueName: team-a\nworkloadPriorityClassName: high")),
]
REFUSED = [
    Case("a queue that no label can name", job("queueName: Team_A"), "spec.queueName"),
    Case("a queue with a name too long for a label", job("queueName: " + "q" * 64), "spec.queueName"),
    Case("a place in no queue", job("workloadPriorityClassName: high"), "spec.workloadPriorityClassName"),
]
