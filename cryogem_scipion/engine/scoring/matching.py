# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pick is which particle."""
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = ["match"]


def match(picks: NDArray[np.float64], particles: NDArray[np.float64], radius: float) -> NDArray[np.int64]:
    """Assign picks and particles of one micrograph to each other, one to one.

    A pair must be closer than the radius, and of all ways to pair, the one is taken that gains most, where a pair at
    distance d gains radius² - d². This is the rule of ``topaz precision_recall_curve``; scores play no part in it, so
    picks with and without scores are judged alike, and no order of equal scores matters. (Detection benchmarks of
    photographs let the best pick choose first instead; the two differ only where several picks compete for one
    particle.) A tree of neighbours divides the problem into groups that share no possible pair, each of which is
    solved exactly, so the time grows with the number of picks and not with its cube.

    Parameters
    ----------
    picks, particles
        Positions (n, 2) and (m, 2), in the unit of the radius.
    radius
        Largest distance of a pair, exclusive.

    Returns
    -------
    For each pick the index of its particle (n,), -1 where it has none.

    References
    ----------
    doi:10.1038/s41592-019-0575-8
    """
    assigned = np.full(len(picks), -1)
    if not len(picks) or not len(particles):
        return assigned
    near = cKDTree(picks).sparse_distance_matrix(cKDTree(particles), radius, output_type="coo_matrix")
    # What lies at the radius itself must not depend on rounding.
    gain = radius**2 - near.data**2
    possible = gain > 1e-9 * radius**2
    rows, columns, gain = near.row[possible], near.col[possible], gain[possible]
    count = len(picks) + len(particles)
    graph = coo_array((np.ones(len(rows)), (rows, columns + len(picks))), shape=(count, count))
    _, groups = connected_components(graph, directed=False)
    order = np.argsort(groups[rows], kind="stable")
    starts = np.flatnonzero(np.diff(groups[rows][order], prepend=-1))
    for some in np.split(order, starts[1:]) if len(order) else []:
        here, row = np.unique(rows[some], return_inverse=True)
        there, column = np.unique(columns[some], return_inverse=True)
        gains = np.zeros((len(here), len(there)))
        gains[row, column] = gain[some]
        chosen, partners = linear_sum_assignment(gains, maximize=True)
        paired = gains[chosen, partners] > 0
        assigned[here[chosen[paired]]] = there[partners[paired]]
    return assigned
