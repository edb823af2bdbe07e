"""How often each row is seen in an epoch, where a dataset has several sources of unequal weight."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def order_of(sources: NDArray[np.int32], weights: Sequence[float], seed: int) -> NDArray[np.int64]:
    """The rows of an epoch.

    A row of a source with weight 2 is there twice. Of weight 0.5 half the rows of the source are there (rounded), by
    `seed`; of 2.5 each twice and half of them once more.

    Args:
        sources: The number of its source for each row, shape [rows].
        weights: Of each source.
        seed: Chooses the rows of a part.

    Returns:
        Numbers of rows, in their order, shape [rows of an epoch].
    """
    parts = []
    for number, weight in enumerate(weights):
        members = np.flatnonzero(sources == number)
        whole, part = int(weight), weight - int(weight)
        chance = np.random.default_rng([seed, number])
        some = chance.choice(members, round(part * len(members)), replace=False)
        parts += [np.repeat(members, whole), some]
    return np.sort(np.concatenate(parts)).astype(np.int64)
