"""The contract: what a FineTuneJob is, what the trainer is told, and how a run ends.

Imports pydantic, yaml and the standard library, nothing else, so that every other part can stand on it.
"""

__version__ = "0.1.0"
"""Of the whole project: the packages here, both images and the chart. An image carries no package metadata."""
