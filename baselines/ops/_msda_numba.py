"""Multi-threaded CPU kernels of multi-scale deformable attention, compiled by numba.

PyTorch's ``grid_sample`` reads one channel at a time from planes laid out [C, H, W]; at the sizes of a toy model it
needs 2 to 4 times as long as these loops, which read the D channels of a sample from consecutive memory. One task is
one (batch, head) pair: the gradients of its values belong to no other task, so that the sums have one order whatever
the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange

_OPTIONS: dict[str, Any] = dict(
    parallel=True, cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"}
)


@njit(**_OPTIONS)
def forward(value: Any, shapes: Any, starts: Any, locations: Any, weights: Any, out: Any) -> None:
    """out [B,Q,H,D] += sum over levels and points of weight * bilinear(value); arrays as in ``deform_attn``."""
    batch, _, heads, dim = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        for q in range(queries):
            for level in range(levels):
                height, width, start = shapes[level, 0], shapes[level, 1], starts[level]
                for p in range(points):
                    x = locations[b, q, h, level, p, 0] * width - 0.5
                    y = locations[b, q, h, level, p, 1] * height - 0.5
                    if not (x > -1 and y > -1 and x < width and y < height):
                        continue
                    weight = weights[b, q, h, level, p]
                    x0, y0 = math.floor(x), math.floor(y)
                    fx, fy = x - x0, y - y0
                    for corner in range(4):
                        cx, cy = x0 + corner % 2, y0 + corner // 2
                        if cx < 0 or cy < 0 or cx >= width or cy >= height:
                            continue
                        share = (fx if corner % 2 else 1 - fx) * (fy if corner // 2 else 1 - fy) * weight
                        row = np.int64(start + cy * width + cx)
                        for d in range(dim):
                            out[b, q, h, d] += share * value[b, row, h, d]


@njit(**_OPTIONS)
def backward(
    value: Any,
    shapes: Any,
    starts: Any,
    locations: Any,
    weights: Any,
    grad_out: Any,
    grad_value: Any,
    grad_locations: Any,
    grad_weights: Any,
) -> None:
    """Adds the gradients of ``forward`` to the three zero-filled arrays grad_*."""
    batch, _, heads, dim = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        for q in range(queries):
            for level in range(levels):
                height, width, start = shapes[level, 0], shapes[level, 1], starts[level]
                for p in range(points):
                    x = locations[b, q, h, level, p, 0] * width - 0.5
                    y = locations[b, q, h, level, p, 1] * height - 0.5
                    if not (x > -1 and y > -1 and x < width and y < height):
                        continue
                    weight = weights[b, q, h, level, p]
                    x0, y0 = math.floor(x), math.floor(y)
                    fx, fy = x - x0, y - y0
                    along_x = along_y = mixed = weight * 0
                    for corner in range(4):
                        cx, cy = x0 + corner % 2, y0 + corner // 2
                        if cx < 0 or cy < 0 or cx >= width or cy >= height:
                            continue
                        part_x = fx if corner % 2 else 1 - fx
                        part_y = fy if corner // 2 else 1 - fy
                        share = part_x * part_y * weight
                        row = np.int64(start + cy * width + cx)
                        dot = weight * 0
                        for d in range(dim):
                            g = grad_out[b, q, h, d]
                            dot += g * value[b, row, h, d]
                            grad_value[b, row, h, d] += share * g
                        mixed += part_x * part_y * dot
                        along_x += (part_y if corner % 2 else -part_y) * dot
                        along_y += (part_x if corner // 2 else -part_x) * dot
                    grad_weights[b, q, h, level, p] = mixed
                    grad_locations[b, q, h, level, p, 0] = along_x * weight * width
                    grad_locations[b, q, h, level, p, 1] = along_y * weight * height
