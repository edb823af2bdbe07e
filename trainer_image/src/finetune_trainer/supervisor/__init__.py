"""PID 1 of the trainer: starts the worker, looks after it, and says how it ended. Never imports torch."""
