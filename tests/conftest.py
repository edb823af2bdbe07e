"""For all tests: one thread per process, as on tiny tensors threads mostly wait for each other; no limits of time."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, here and in every program a test starts
settings.register_profile("any machine", deadline=None)  # a busy one takes long, and is not wrong
settings.load_profile("any machine")
