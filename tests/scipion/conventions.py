# SPDX-License-Identifier: GPL-3.0-or-later
"""Independent implementations of conventions, for comparison: defocus along a direction, RELION's poses."""
import math

import numpy as np


def defocus(u, v, angle_degrees, direction):
    return (u + v) / 2 + (u - v) / 2 * math.cos(2 * (direction - math.radians(angle_degrees)))


def relion_pose(matrix):
    """RELION's angles (degrees) and origin (px) of a Scipion pose, as scipion-em-relion converts it."""
    from pwem.convert.transformations import euler_from_matrix
    forward = np.linalg.inv(matrix)
    return -np.degrees(euler_from_matrix(forward, axes="szyz")), -forward[:2, 3]


def rotation(rot, tilt, psi):
    """RELION's matrix, from its definition as a product of rotations about z, y, z."""
    def about_z(angle):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    return about_z(psi) @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) @ about_z(rot)
