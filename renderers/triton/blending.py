"""Device code: a tile of pixels and its list of splats, blended forward and backward as matrix products.

A chunk of splats makes a matrix of alphas [CHUNK, pixels]. A running product along the chunk gives what each pixel lets
through; the weights times the chunk's features is the chunk's part of the image. Splats run along the first axis, so that
with Triton's default layout a thread holds a pixel's whole chunk and scans without talking to others.

Payload is features and then depth; its columns are held in two blocks of widths C1 and C2 (0: none), of which more than one
pair is needed beyond 128 columns.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from renderers.triton.projection import MOMENTS, SPLAT

LEAST = tl.constexpr(2.0**-24)  # least 1 - alpha: the smallest there is in float32 for an alpha below 1


@triton.jit
def _pixels(tile, width, height, bins, bins_across, BIN: tl.constexpr, TILE: tl.constexpr):
    """View, columns, rows and indices in the image [P] of a tile's pixels, and which of them exist."""
    side: tl.constexpr = BIN // TILE
    p = tl.arange(0, TILE * TILE)
    inner, at = tile % (side * side), tile // (side * side) % bins
    x = at % bins_across * BIN + inner % side * TILE + p % TILE
    y = at // bins_across * BIN + inner // side * TILE + p // TILE
    view = (tile // (side * side) // bins).to(tl.int64)
    return x, y, (view * height + y) * width + x, (x < width) & (y < height)


@triton.jit
def _density(splats, bounds, k, valid, x, y, TILE3SIGMA: tl.constexpr):
    """[G, P] opacity times the Gaussian's value at the centres of pixels (x, y), 0 beyond its bounds."""
    s = splats + k * SPLAT
    cx, cy = tl.load(s, valid, 0.0), tl.load(s + 1, valid, 0.0)
    a, b, c = tl.load(s + 2, valid, 1.0), tl.load(s + 3, valid, 0.0), tl.load(s + 4, valid, 1.0)
    opacity = tl.load(s + 5, valid, 0.0)
    dx, dy = cx[:, None] - (x.to(tl.float32) + 0.5)[None, :], cy[:, None] - (y.to(tl.float32) + 0.5)[None, :]
    power = -0.5 * (a[:, None] * dx * dx + c[:, None] * dy * dy) - b[:, None] * dx * dy
    density = tl.where(power <= 0, opacity[:, None] * tl.exp(power), 0.0)
    if TILE3SIGMA:
        e = bounds + k * 4
        left, top, right, bottom = (
            tl.load(e, valid, 0),
            tl.load(e + 1, valid, 0),
            tl.load(e + 2, valid, 0),
            tl.load(e + 3, valid, 0),
        )
        within_x = (x[None, :] >= left[:, None]) & (x[None, :] < right[:, None])
        density = tl.where(within_x & (y[None, :] >= top[:, None]) & (y[None, :] < bottom[:, None]), density, 0.0)
    return density


@triton.jit
def _payload(splats, rows, features, k, valid, channels, first, WIDTH: tl.constexpr):
    """[G, WIDTH] columns ``first`` to ``first + WIDTH`` of features and depth, 0 beyond."""
    column = first + tl.arange(0, WIDTH)
    row = tl.load(rows + k, valid, 0).to(tl.int64)
    z = tl.load(splats + k * SPLAT + 6, valid, 0.0)
    known = valid[:, None] & (column < channels)[None, :]
    payload = tl.load(features + row[:, None] * channels + column[None, :], known, 0.0)
    return tl.where((column == channels)[None, :], z[:, None], payload)


@triton.jit
def _image_gradient(grad_features, grad_depth, pixel, inside, channels, first, WIDTH: tl.constexpr):
    """[P, WIDTH] gradients of the image's columns ``first`` to ``first + WIDTH`` of features and depth, 0 beyond."""
    column = first + tl.arange(0, WIDTH)
    known = inside[:, None] & (column < channels)[None, :]
    gradient = tl.load(grad_features + pixel[:, None] * channels + column[None, :], known, 0.0)
    depth = tl.load(grad_depth + pixel, inside, 0.0)
    return tl.where((column == channels)[None, :], depth[:, None], gradient)


@triton.jit
def _write_image(
    out_features, out_depth, background, sums, left, pixel, inside, channels, first, BACKGROUND, WIDTH: tl.constexpr
):
    column = first + tl.arange(0, WIDTH)
    if BACKGROUND:
        sums += left[:, None] * tl.load(background + column, column < channels, 0.0)[None, :]
    known = inside[:, None] & (column < channels)[None, :]
    tl.store(out_features + pixel[:, None] * channels + column[None, :], sums, known)
    deep = inside[:, None] & (column == channels)[None, :]
    tl.store(out_depth + pixel[:, None] + tl.zeros_like(column)[None, :], sums, deep)


@triton.jit
def blend(
    splats,  # [K, 8]
    bounds,  # [K, 4] int32 (TILE3SIGMA)
    rows,  # [K] int32 rows of ``features``
    ids,  # int32 lists of the tiles, one after another
    starts,  # [tiles + 1] int64
    features,  # [B * N, channels]
    background,  # [channels], unused unless BACKGROUND
    out_features,  # [W, H, width, channels]
    out_depth,  # [W, H, width]
    out_alpha,
    left_over,  # [W, H, width] transmittance behind the last splat
    lasts,  # [W, H, width] int32 how much of its tile's list a pixel has taken in
    reached,  # [tiles] int32 the most that a pixel of the tile has
    width,
    height,
    bins,
    bins_across,
    channels,
    alpha_min,
    alpha_max,
    transmittance_min,
    BACKGROUND: tl.constexpr,
    TILE3SIGMA: tl.constexpr,
    PRECISION: tl.constexpr,
    BIN: tl.constexpr,
    TILE: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One tile and one pair of column blocks."""
    tile, block = tl.program_id(0), tl.program_id(1)
    x, y, pixel, inside = _pixels(tile, width, height, bins, bins_across, BIN, TILE)
    if tl.max(inside.to(tl.int32), 0) == 0:  # beyond the edge of the image
        return
    first = block * (C1 + C2)
    begin, end = tl.load(starts + tile), tl.load(starts + tile + 1)
    through = tl.full([TILE * TILE], 1.0, tl.float32)
    going = inside.to(tl.int32)
    last = tl.zeros([TILE * TILE], tl.int32)
    sums1 = tl.zeros([TILE * TILE, C1], tl.float32)
    if C2 > 0:
        sums2 = tl.zeros([TILE * TILE, C2], tl.float32)
    item = begin
    while (item < end) & (tl.max(going, 0) > 0):
        at = item + tl.arange(0, CHUNK)
        valid = at < end
        k = tl.load(ids + at, valid, 0)
        alpha = tl.minimum(_density(splats, bounds, k, valid, x, y, TILE3SIGMA), alpha_max)
        alpha = tl.where(alpha >= alpha_min, alpha, 0.0)
        lets = tl.maximum(1 - alpha, LEAST)
        behind = through[None, :] * tl.cumprod(lets, 0)
        # Never growing, so what is still bright enough behind a splat marks those before the stop.
        included = (behind >= transmittance_min) & (going > 0)[None, :]
        weights = tl.where(included, alpha * behind / lets, 0.0)
        chunk1 = _payload(splats, rows, features, k, valid, channels, first, C1)
        sums1 = tl.dot(tl.trans(weights), chunk1, sums1, input_precision=PRECISION)
        if C2 > 0:
            chunk2 = _payload(splats, rows, features, k, valid, channels, first + C1, C2)
            sums2 = tl.dot(tl.trans(weights), chunk2, sums2, input_precision=PRECISION)
        through = tl.min(tl.where(included, behind, through[None, :]), 0)
        taken = tl.sum((included & valid[:, None]).to(tl.int32), 0)
        last += taken
        going = tl.where(taken == tl.minimum(end - item, CHUNK).to(tl.int32), going, 0)
        item += CHUNK
    if block == 0:
        tl.store(out_alpha + pixel, 1 - through, inside)
        tl.store(left_over + pixel, through, inside)
        tl.store(lasts + pixel, last, inside)
        tl.store(reached + tile, tl.max(last, 0))
    _write_image(out_features, out_depth, background, sums1, through, pixel, inside, channels, first, BACKGROUND, C1)
    if C2 > 0:
        _write_image(out_features, out_depth, background, sums2, through, pixel, inside, channels, first + C1, BACKGROUND, C2)


@triton.jit
def _give(sums, row, valid, values, column, known, SLOTS: tl.constexpr):
    """Add values [G, columns] to rows of ``sums`` that begin at ``row``, or (SLOTS) be the only one to write there."""
    address = sums + row[:, None] + column[None, :]
    mask = valid[:, None] & known[None, :]
    if SLOTS:
        tl.store(address, values, mask)
    else:
        tl.atomic_add(address, values, mask, sem="relaxed")


@triton.jit
def blend_backward(
    splats,
    bounds,
    rows,
    ids,
    starts,
    features,
    background,
    left_over,
    lasts,
    reached,
    grad_features,  # [W, H, width, channels]
    grad_depth,  # [W, H, width]
    grad_alpha,
    sums,  # [K, channels + 1 + 6] zeros; or, with SLOTS, [sum of reached, same]: see ``project_backward``
    slot_starts,  # [tiles + 1] int64 (SLOTS)
    owners,  # [sum of reached] int32 out (SLOTS): the splat that a slot belongs to
    width,
    height,
    bins,
    bins_across,
    channels,
    alpha_min,
    alpha_max,
    BACKGROUND: tl.constexpr,
    TILE3SIGMA: tl.constexpr,
    CLAMP_GRADIENT: tl.constexpr,
    PAYLOAD: tl.constexpr,  # whether gradients of features and depth are wanted
    GEOMETRY: tl.constexpr,  # 0: none, 1: of opacity only, 2: all
    SLOTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BIN: tl.constexpr,
    TILE: tl.constexpr,
    BLOCKS: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One tile, from the last chunk that any pixel reached to the first.

    With s = payload . image gradient, the weights w = alpha T and R = what all splats behind add to the loss,
    dL/dalpha = T s - R / (1 - alpha). T is what it was behind the chunk, divided by the chunk's product.
    """
    tile = tl.program_id(0)
    x, y, pixel, inside = _pixels(tile, width, height, bins, bins_across, BIN, TILE)
    begin, many = tl.load(starts + tile), tl.load(reached + tile)
    if many == 0:
        return
    columns = channels + 1 + MOMENTS
    through = tl.load(left_over + pixel, inside, 1.0)
    last = tl.load(lasts + pixel, inside, 0)
    beyond = -tl.load(grad_alpha + pixel, inside, 0.0)
    image1 = _image_gradient(grad_features, grad_depth, pixel, inside, channels, 0, C1)
    if C2 > 0:
        image2 = _image_gradient(grad_features, grad_depth, pixel, inside, channels, C1, C2)
    if BACKGROUND:
        for block in range(BLOCKS):
            column = block * (C1 + C2) + tl.arange(0, C1)
            gradient = _image_gradient(grad_features, grad_depth, pixel, inside, channels, block * (C1 + C2), C1)
            beyond += tl.sum(gradient * tl.load(background + column, column < channels, 0.0)[None, :], 1)
            if C2 > 0:
                column = block * (C1 + C2) + C1 + tl.arange(0, C2)
                gradient = _image_gradient(grad_features, grad_depth, pixel, inside, channels, block * (C1 + C2) + C1, C2)
                beyond += tl.sum(gradient * tl.load(background + column, column < channels, 0.0)[None, :], 1)
    beyond *= through
    if GEOMETRY == 2:
        # Moments about the middle of the tile: powers of at most 7.5.
        middle_x, middle_y = tl.min(x, 0) + TILE // 2, tl.min(y, 0) + TILE // 2
        px, py = (x - middle_x).to(tl.float32)[:, None] + 0.5, (y - middle_y).to(tl.float32)[:, None] + 0.5
        power = tl.arange(0, 16)[None, :]
        basis = tl.where(power == 1, px, 1.0) * tl.where(power == 2, py, 1.0)
        basis *= tl.where(power == 3, px * px, 1.0) * tl.where(power == 4, px * py, 1.0) * tl.where(power == 5, py * py, 1.0)
    for step in range(tl.cdiv(many, CHUNK)):
        position = (tl.cdiv(many, CHUNK) - 1 - step) * CHUNK + tl.arange(0, CHUNK)
        valid = position < many
        k = tl.load(ids + begin + position, valid, 0)
        density = _density(splats, bounds, k, valid, x, y, TILE3SIGMA)
        alpha = tl.minimum(density, alpha_max)
        counts = (alpha >= alpha_min) & (position[:, None] < last[None, :])
        alpha = tl.where(counts, alpha, 0.0)
        lets = tl.maximum(1 - alpha, LEAST)
        product = tl.cumprod(lets, 0)
        before = through / tl.min(product, 0)
        front = before[None, :] * product / lets
        weights = alpha * front
        if SLOTS:
            row = (tl.load(slot_starts + tile) + position) * columns
            tl.store(owners + tl.load(slot_starts + tile) + position, k, valid)
        else:
            row = k.to(tl.int64) * columns
        if PAYLOAD:
            for block in range(BLOCKS):
                start = block * (C1 + C2)
                if BLOCKS > 1:
                    image1 = _image_gradient(grad_features, grad_depth, pixel, inside, channels, start, C1)
                column = start + tl.arange(0, C1)
                values = tl.dot(weights, image1, input_precision=PRECISION)
                _give(sums, row, valid, values, column, column <= channels, SLOTS)
                if C2 > 0:
                    if BLOCKS > 1:
                        image2 = _image_gradient(grad_features, grad_depth, pixel, inside, channels, start + C1, C2)
                    column = start + C1 + tl.arange(0, C2)
                    values = tl.dot(weights, image2, input_precision=PRECISION)
                    _give(sums, row, valid, values, column, column <= channels, SLOTS)
        if GEOMETRY > 0:
            gains = tl.zeros([CHUNK, TILE * TILE], tl.float32)
            for block in range(BLOCKS):
                start = block * (C1 + C2)
                if BLOCKS > 1:
                    image1 = _image_gradient(grad_features, grad_depth, pixel, inside, channels, start, C1)
                chunk1 = _payload(splats, rows, features, k, valid, channels, start, C1)
                gains = tl.dot(chunk1, tl.trans(image1), gains, input_precision=PRECISION)
                if C2 > 0:
                    if BLOCKS > 1:
                        image2 = _image_gradient(grad_features, grad_depth, pixel, inside, channels, start + C1, C2)
                    chunk2 = _payload(splats, rows, features, k, valid, channels, start + C1, C2)
                    gains = tl.dot(chunk2, tl.trans(image2), gains, input_precision=PRECISION)
            added = weights * gains
            behind = beyond[None, :] + tl.cumsum(added, 0, reverse=True) - added
            slope = tl.where(counts, (front * gains - behind / lets) * density, 0.0)  # dL/d(exponent)
            if not CLAMP_GRADIENT:
                slope = tl.where(density > alpha_max, 0.0, slope)
            beyond += tl.sum(added, 0)
            one = tl.arange(0, 1)
            always = one >= 0
            at = channels + 1 + one
            if GEOMETRY == 1:
                _give(sums, row, valid, tl.sum(slope, 1)[:, None], at, always, SLOTS)
            else:
                # Few outputs of many terms: tensor cores would repeat them in every warp, and spill.
                moments = tl.dot(slope, basis, input_precision="ieee")
                m0, mx, my = _column(moments, 0), _column(moments, 1), _column(moments, 2)
                mxx, mxy, myy = _column(moments, 3), _column(moments, 4), _column(moments, 5)
                # About the splat's centre c instead: of c - p.
                cx, cy = (
                    tl.load(splats + k * SPLAT, valid, 0.0) - middle_x,
                    tl.load(splats + k * SPLAT + 1, valid, 0.0) - middle_y,
                )
                _give(sums, row, valid, m0[:, None], at, always, SLOTS)
                _give(sums, row, valid, (cx * m0 - mx)[:, None], at + 1, always, SLOTS)
                _give(sums, row, valid, (cy * m0 - my)[:, None], at + 2, always, SLOTS)
                _give(sums, row, valid, (cx * cx * m0 - 2 * cx * mx + mxx)[:, None], at + 3, always, SLOTS)
                _give(sums, row, valid, (cx * cy * m0 - cx * my - cy * mx + mxy)[:, None], at + 4, always, SLOTS)
                _give(sums, row, valid, (cy * cy * m0 - 2 * cy * my + myy)[:, None], at + 5, always, SLOTS)
        through = before


@triton.jit
def _column(matrix, index: tl.constexpr):
    """[G] column ``index`` of [G, 16]."""
    return tl.sum(tl.where(tl.arange(0, 16)[None, :] == index, matrix, 0.0), 1)


@triton.jit
def add_slots(
    slots,  # [slots, columns]
    order,  # [slots] int64: slots by splat, each splat's in the order of the tiles
    ends,  # [K + 1] int64 where a splat's slots begin in ``order``
    sums,  # [K, columns] out
    total,
    columns,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Each splat's slots, added one after another."""
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < columns
    begin, end = tl.load(ends + k, k < total, 0), tl.load(ends + k + 1, k < total, 0)
    added = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for step in range(tl.max(end - begin, 0)):
        more = begin + step < end
        slot = tl.load(order + begin + step, more, 0)
        added += tl.load(slots + slot[:, None] * columns + column[None, :], more[:, None] & known[None, :], 0.0)
    tl.store(sums + k[:, None] * columns + column[None, :], added, (k < total)[:, None] & known[None, :])
