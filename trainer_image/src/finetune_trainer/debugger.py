"""A debugger's server in the first worker process."""

import threading
from collections.abc import Callable

from finetune_api.v1alpha1 import Debugpy

HOST = "127.0.0.1"  # kubectl port-forward comes from the pod itself; nobody else shall run code here
SAY_SECONDS = 30.0


def listen(wanted: Debugpy, say: Callable[[str], None]) -> None:
    """Start the server and, where the run says so, wait for a client; a signal ends the waiting.

    debugpy has been looked for before (`extensions.check_image`), and is imported only here.
    """
    import debugpy  # noqa: PLC0415

    debugpy.listen((HOST, wanted.port))
    if not wanted.wait:
        say(f"a debugger may attach to port {wanted.port}")
        return
    over = threading.Event()
    threading.Thread(target=_repeat, args=(over, wanted.port, say), name="debugger", daemon=True).start()
    try:
        debugpy.wait_for_client()
    finally:
        over.set()
    say("a debugger is attached")


def _repeat(over: threading.Event, port: int, say: Callable[[str], None]) -> None:
    """Whoever watches the run sees that it waits, and for what."""
    while True:
        say(f"waiting for a debugger on port {port} of this machine")
        if over.wait(SAY_SECONDS):
            return
