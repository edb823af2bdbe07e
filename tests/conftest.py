"""For all tests: one thread per process. On tiny tensors the threads of a busy machine mostly wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, here and in every program a test starts
