"""One run, from the base model to the verified adapter. `run.py` tells the story from top to bottom."""
