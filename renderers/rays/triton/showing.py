"""Device code over channels: features along rays from the records of ``marching.march``, and the gradients that go back.

A program is a warp and takes a ray, a lane a channel: the channels of a voxel are one stretch of memory, a record eight of them
that are on their way at once, and no warp waits for another. With few channels a warp takes several rays.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

SIZES = ["first", "count", "samples", "voxels", "step_x", "step_y", "step_z"]
"""Arguments of whose values kernels are not compiled anew."""


@triton.jit
def _rays(order, scene, records, first, count, voxels, RAYS: tl.constexpr):
    """Places, rays, first voxels of their scenes and numbers of records of this program's rays."""
    at = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    valid = at < count
    ray = tl.load(order + first + at, valid, 0)
    return at.to(tl.int64), ray, tl.load(scene + ray, valid, 0) * voxels, tl.load(records + at, valid, 0), valid


@triton.jit
def _voxels(cells, shares, at, start, number, n, samples, step_x, step_y, step_z):
    """Of record ``n`` of each ray: addresses of its eight shares, its eight voxels, the shares, and whether there is one."""
    k = tl.arange(0, 8)
    there = n < number
    row = at * samples + n
    offset = (k // 4) * step_x + (k // 2 % 2) * step_y + (k % 2) * step_z
    voxel = (start + tl.load(cells + row, there, 0))[None, :] + offset[:, None]
    address = shares + row[None, :] * 8 + k[:, None]
    return address, voxel, tl.load(address, there[None, :], 0.0), there


@triton.jit(do_not_specialize=SIZES)
def show(
    order,  # [R] int64: which ray is at which place
    scene,  # [R] int64
    cells,  # [count, S] int32, see ``march``
    shares,  # [count, S, 8]
    records,  # [count] int32
    features,  # [B, X, Y, Z, C]
    out,  # [R, C]
    first,
    count,
    samples,
    voxels,  # of a scene
    channels,
    step_x,
    step_y,
    step_z,
    RAYS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """WIDTH channels of RAYS rays."""
    at, ray, start, number, valid = _rays(order, scene, records, first, count, voxels, RAYS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    known = column < channels
    total = tl.zeros([RAYS, WIDTH], tl.float32)
    for n in range(tl.max(number, 0)):
        _, voxel, share, there = _voxels(cells, shares, at, start, number, n, samples, step_x, step_y, step_z)
        mask = there[None, :, None] & known[None, None, :]
        values = tl.load(features + voxel[:, :, None] * channels + column[None, None, :], mask, 0.0)
        total += tl.sum(share[:, :, None] * values, 0)
    tl.store(out + ray[:, None] * channels + column[None, :], total, valid[:, None] & known[None, :])


@triton.jit(do_not_specialize=SIZES)
def give_back(
    order,  # as of ``show``
    scene,
    cells,
    shares,  # become the products of each voxel with the gradient (PRODUCTS)
    records,
    features,
    grad_out,  # [R, C]
    worth,  # [R] float64 out: sum of shares times products (PRODUCTS)
    grad_features,  # [B, X, Y, Z, C] is added to (FEATURES)
    first,
    count,
    samples,
    voxels,
    channels,
    step_x,
    step_y,
    step_z,
    PRODUCTS: tl.constexpr,
    FEATURES: tl.constexpr,
    RAYS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """All channels of RAYS rays, WIDTH at a time."""
    at, ray, start, number, valid = _rays(order, scene, records, first, count, voxels, RAYS)
    total = tl.zeros([RAYS], tl.float64)
    for n in range(tl.max(number, 0)):
        address, voxel, share, there = _voxels(cells, shares, at, start, number, n, samples, step_x, step_y, step_z)
        product = tl.zeros([8, RAYS], tl.float32)
        for begin in range(0, channels, WIDTH):
            column = begin + tl.arange(0, WIDTH)
            known = column < channels
            mask = there[None, :, None] & known[None, None, :]
            gradient = tl.load(grad_out + ray[None, :, None] * channels + column[None, None, :], mask, 0.0)
            place = voxel[:, :, None] * channels + column[None, None, :]
            if PRODUCTS:
                product += tl.sum(tl.load(features + place, mask, 0.0) * gradient, 2)
            if FEATURES:
                tl.atomic_add(grad_features + place, share[:, :, None] * gradient, mask, sem="relaxed")
        if PRODUCTS:
            total += tl.sum((share * product).to(tl.float64), 0)
            tl.debug_barrier()  # all lanes have read their shares
            tl.store(address, product, there[None, :])
    if PRODUCTS:
        tl.store(worth + ray, total, valid)
