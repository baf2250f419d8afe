# SPDX-License-Identifier: GPL-3.0-or-later
"""Matching of picks to particles, one to one."""
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = ["match_positions"]


def match_positions(picks: NDArray[np.float64], particles: NDArray[np.float64], radius: float) -> NDArray[np.int64]:
    """Match the picks and the particles of one micrograph, one to one.

    The members of a pair are closer than the radius. A pair at distance d scores radius² - d², and the matching with
    the largest sum of scores is taken, as in ``topaz precision_recall_curve``. The pickers' own scores have no effect
    on the matching. (Benchmarks of object detection in photographs let the pick with the best score choose first. The
    two rules differ only where several picks compete for one particle.)

    Picks and particles that share no possible pair are matched separately, each group exactly. The time therefore grows
    with the number of picks, and not with its cube.

    Parameters
    ----------
    picks, particles
        Positions (n, 2) and (m, 2), in the unit of the radius.
    radius
        Limit of the distance of a pair; a pair at exactly this distance does not count.

    Returns
    -------
    For each pick the index of its particle (n,); -1 for a pick without one.

    References
    ----------
    doi:10.1038/s41592-019-0575-8
    """
    assigned = np.full(len(picks), -1)
    if not len(picks) or not len(particles):
        return assigned
    near = cKDTree(picks).sparse_distance_matrix(cKDTree(particles), radius, output_type="coo_matrix")
    # Rounding must not decide on a pair at exactly the radius.
    gain = radius**2 - near.data**2
    possible = gain > 1e-9 * radius**2
    rows, columns, gain = near.row[possible], near.col[possible], gain[possible]
    count = len(picks) + len(particles)
    graph = coo_array((np.ones(len(rows)), (rows, columns + len(picks))), shape=(count, count))
    _, groups = connected_components(graph, directed=False)
    order = np.argsort(groups[rows], kind="stable")
    starts = np.flatnonzero(np.diff(groups[rows][order], prepend=-1))
    for members in np.split(order, starts[1:]) if len(order) else []:
        group_picks, row = np.unique(rows[members], return_inverse=True)
        group_particles, column = np.unique(columns[members], return_inverse=True)
        gains = np.zeros((len(group_picks), len(group_particles)))
        gains[row, column] = gain[members]
        chosen, partners = linear_sum_assignment(gains, maximize=True)
        paired = gains[chosen, partners] > 0
        assigned[group_picks[chosen[paired]]] = group_particles[partners[paired]]
    return assigned
