"""Bring the adapter that a run trains on, where there is one."""

from dataclasses import replace

from finetune_trainer.methods.given import method_of
from finetune_trainer.storage.fetch import fetch_adapter
from finetune_trainer.training.session import Session


def bring_adapter(session: Session) -> Session:
    """Download the adapter (one process a node); return the session with the method that the adapter has.

    Raises:
        RunError: A reason of storage, or InvalidConfiguration for a method that the adapter contradicts.
    """
    given, run = session.run.model.adapter, session.run
    if given is None:
        return session
    folder = session.work.given_adapter
    if session.processes.leads:
        fetch_adapter(given.uri, run.storage, folder, session.reporter.chatter)
    session.processes.barrier()
    method = method_of(folder, run.method)
    session.reporter.say(f"training goes on from the adapter at {given.uri}")
    return replace(session, run=run.model_copy(update={"method": method}))
