"""A thread that works beside the training, on one thing at a time. Its errors come out where somebody waits or asks."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Does one job while the caller goes on; the next one waits for it."""

    def __init__(self) -> None:
        # At its end the interpreter waits for this thread, so that a run that fails loses nothing that was saved.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Begin a job, once the last one is done; raises what that one raised."""
        self.finish()
        self._job = self._pool.submit(job)

    def check(self) -> None:
        """Raise what the last job raised, if it is over; never waits."""
        if self._job and self._job.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the job, if there is one, and raise what it raised: once."""
        job, self._job = self._job, None
        if job:
            job.result()
