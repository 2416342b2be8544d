"""Device code: lists of the splats that reach each part of the image, in depth order, without sorting any pairs.

A parent (a view, or a bin of it) has a list of splats in depth order and is divided into children (its bins, or a bin's
tiles). Each chunk of the parent's list is tested against each child; counts go to a place such that one running sum over
all of them gives every (chunk, child) the start of its part of the child's list. A second pass repeats the tests and fills.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from renderers.triton.projection import SPLAT


@triton.jit
def _box_reaches(splats, k, valid, left, top, right, bottom):
    """[G, T]: whether the bounding box of splats k [G] overlaps rectangles [T]; a fifth of the work of ``_reaches``.

    For the first division, where most of many pairs are far apart; what this lets through too much, the next tests again.
    """
    s = splats + k * SPLAT
    cx, cy = tl.load(s, valid, 0.0), tl.load(s + 1, valid, 0.0)
    a, b, c = tl.load(s + 2, valid, 1.0), tl.load(s + 3, valid, 0.0), tl.load(s + 4, valid, 1.0)
    limit = tl.where(valid, tl.load(s + 7, valid, 0.0) / tl.maximum(a * c - b * b, 1e-30), 0.0)
    # Variances are c and a over the determinant, of which cancellation leaves two digits for the thinnest needles.
    half_x, half_y = 1.05 * tl.sqrt(limit * c) + 1, 1.05 * tl.sqrt(limit * a) + 1
    x0, x1, y0, y1 = cx - half_x, cx + half_x, cy - half_y, cy + half_y
    hit = (x0[:, None] < right.to(tl.float32)[None, :]) & (x1[:, None] > left.to(tl.float32)[None, :])
    hit &= (y0[:, None] < bottom.to(tl.float32)[None, :]) & (y1[:, None] > top.to(tl.float32)[None, :])
    return hit & valid[:, None]


@triton.jit
def _reaches(splats, bounds, k, valid, left, top, right, bottom, TILE3SIGMA: tl.constexpr):
    """[G, T]: whether splats k [G] reach a pixel of rectangles [T] (px, right and bottom excluded).

    The least Mahalanobis distance over the rectangle of pixel centres lies at the splat's centre or on an edge that faces
    it. What float32 may have rounded away is allowed for: a pixel's alpha decides, here nothing must be lost.
    """
    s = splats + k * SPLAT
    cx, cy = tl.load(s, valid, 0.0)[:, None], tl.load(s + 1, valid, 0.0)[:, None]
    a, b, c = tl.load(s + 2, valid, 1.0)[:, None], tl.load(s + 3, valid, 0.0)[:, None], tl.load(s + 4, valid, 1.0)[:, None]
    limit = tl.load(s + 7, valid, -1.0)[:, None]
    x0, x1 = (left.to(tl.float32) + 0.5)[None, :], (right.to(tl.float32) - 0.5)[None, :]
    y0, y1 = (top.to(tl.float32) + 0.5)[None, :], (bottom.to(tl.float32) - 0.5)[None, :]
    ex, ey = tl.minimum(tl.maximum(cx, x0), x1) - cx, tl.minimum(tl.maximum(cy, y0), y1) - cy
    dy = tl.minimum(tl.maximum(cy - b / c * ex, y0), y1) - cy  # lowest on the vertical edge
    dx = tl.minimum(tl.maximum(cx - b / a * ey, x0), x1) - cx  # on the horizontal one
    terms_x, terms_y = a * ex * ex + c * dy * dy, a * dx * dx + c * ey * ey
    slack = 0.01 + 1e-6 * tl.maximum(terms_x, terms_y)
    least = tl.minimum(terms_x + 2 * b * ex * dy, terms_y + 2 * b * dx * ey)
    hit = (least <= limit + slack) & valid[:, None] & (x0 <= x1) & (y0 <= y1)
    if TILE3SIGMA:
        e = bounds + k * 4
        hit &= (tl.load(e, valid, 0)[:, None] < right[None, :]) & (tl.load(e + 2, valid, 0)[:, None] > left[None, :])
        hit &= (tl.load(e + 1, valid, 0)[:, None] < bottom[None, :]) & (tl.load(e + 3, valid, 0)[:, None] > top[None, :])
    return hit


@triton.jit
def divide(
    splats,
    bounds,
    ids,  # the parents' lists, unused if FIRST: there the list of a view is all its splats
    starts,  # [parents + 1] int64 into ids
    chunk_starts,  # [parents + 1] int64
    chunk_parents,  # [chunks] int64; ``parents`` for a chunk that does not exist
    counts,  # [chunks * children] int32 out (not FILL)
    offsets,  # [chunks * children + 1] int64 (FILL)
    child_ids,  # int32 out (FILL)
    parents,
    children,
    across,  # children in a row
    bins,  # bins of a view
    bins_across,
    width,
    height,
    FIRST: tl.constexpr,
    FILL: tl.constexpr,
    TILE3SIGMA: tl.constexpr,
    PARENT: tl.constexpr,  # edge of a bin in pixels, unused if FIRST
    CHILD: tl.constexpr,  # edge of a child
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chunk = tl.program_id(0)
    parent = tl.load(chunk_parents + chunk)
    if parent < parents:
        first = tl.load(chunk_starts + parent)
        chunks = tl.load(chunk_starts + parent + 1) - first
        item = tl.load(starts + parent) + (chunk - first) * CHUNK + tl.arange(0, CHUNK)
        valid = item < tl.load(starts + parent + 1)
        child = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        exists = child < children
        left, top = child % across * CHILD, child // across * CHILD
        if FIRST:
            k = item
            end_x, end_y = left * 0 + width, top * 0 + height
        else:
            k = tl.load(ids + item, valid, 0).to(tl.int64)
            at = (parent % bins).to(tl.int32)
            corner_x, corner_y = at % bins_across * PARENT, at // bins_across * PARENT
            left, top = left + corner_x, top + corner_y
            end_x, end_y = left * 0 + tl.minimum(corner_x + PARENT, width), top * 0 + tl.minimum(corner_y + PARENT, height)
        right, bottom = tl.minimum(left + CHILD, end_x), tl.minimum(top + CHILD, end_y)
        if FIRST:
            hit = _box_reaches(splats, k, valid, left, top, right, bottom)
        else:
            hit = _reaches(splats, bounds, k, valid, left, top, right, bottom, TILE3SIGMA)
        hit = (hit & exists[None, :]).to(tl.int32)
        place = first * children + child * chunks + (chunk - first)
        if FILL:
            target = tl.load(offsets + place, exists, 0)[None, :] + tl.cumsum(hit, 0) - 1
            tl.store(child_ids + target, k.to(tl.int32)[:, None] + tl.zeros_like(hit), hit > 0)
        else:
            tl.store(counts + place, tl.sum(hit, 0), exists)
