"""Device code along rays: where samples lie, what each weighs, and the gradient of their densities.

A lane takes a ray and goes through its samples, one by one, in double precision: which cell a sample lies in and whether it is
skipped decide about gradients. The samples of a ray that follow one another in one cell are one *record*: the cell, and how
much of each of its eight voxels the ray sees, by which features are added up (``showing``).

``march`` and ``differentiate`` must decide alike, record by record. So they are compiled without fused multiply-adds, which a
compiler makes as it pleases.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

# Places in the array of numbers, in the order of ``op.NUMBERS``; distances of samples follow.
CENTRE = tl.constexpr(0)
HALF = tl.constexpr(3)
RADIUS = tl.constexpr(6)
SHELL = tl.constexpr(7)
TAU = tl.constexpr(8)
FACTOR = tl.constexpr(9)
TERM = tl.constexpr(12)
SKIP = tl.constexpr(15)
SHIFT = tl.constexpr(18)
INTERVAL = tl.constexpr(19)
LAST = tl.constexpr(20)
LEAST_PASSED = tl.constexpr(21)
ALPHA_MIN = tl.constexpr(22)
WEIGHT_MIN = tl.constexpr(23)
TRANSMITTANCE_MIN = tl.constexpr(24)
DISTANCES = tl.constexpr(25)

SPHERE = tl.constexpr(1)  # kinds: places in the tuples of ``renderers.rays.plain``
AXES = tl.constexpr(2)
ACCUMULATED = tl.constexpr(1)
PER_AXIS = tl.constexpr(2)
SHIFTED_SOFTPLUS = tl.constexpr(0)
EXPONENTIAL = tl.constexpr(1)
PROBABILITY = tl.constexpr(2)
CONTRACTED = tl.constexpr(1)
Z = tl.constexpr(2)

SIZES = ["first", "count", "rays", "samples", "X", "Y", "Z_", "step_x", "step_y", "step_z"]
"""Arguments of whose values kernels are not compiled anew."""

SUMS = tl.constexpr(6)  # a ray's sums in double precision: depth, alpha, transmittance, squares, spaced squares, spread
STRIDE = tl.constexpr(8)  # samples between two looks at whether all rays have stopped
LARGEST = tl.constexpr(700.0)  # exponent


@triton.jit
def _numbers(numbers):
    """All of them but the distances, read once."""
    return (
        tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 3), tl.load(numbers + 4),
        tl.load(numbers + 5), tl.load(numbers + 6), tl.load(numbers + 7), tl.load(numbers + 8), tl.load(numbers + 9),
        tl.load(numbers + 10), tl.load(numbers + 11), tl.load(numbers + 12), tl.load(numbers + 13), tl.load(numbers + 14),
        tl.load(numbers + 15), tl.load(numbers + 16), tl.load(numbers + 17), tl.load(numbers + 18), tl.load(numbers + 19),
        tl.load(numbers + 20), tl.load(numbers + 21), tl.load(numbers + 22), tl.load(numbers + 23), tl.load(numbers + 24),
    )  # fmt: skip


@triton.jit
def _on_axis(x, centre, half, tau):
    """A coordinate, contracted, and whether it is within the box."""
    u = (x - centre) / half
    a = tl.abs(u)
    inside = a <= 1
    shell = 1 + (1 - 1 / (tau * (tl.maximum(a, 1.0) - 1) + 1)) / tau
    return tl.where(inside, x, centre + half * tl.where(u < 0, -shell, shell)), inside


@triton.jit
def _contract(c, x, y, z, CONTRACTION: tl.constexpr):
    """Positions, contracted, and whether they lie in the inner region."""
    inside = x == x
    if CONTRACTION == SPHERE:
        cx, cy, cz = c[CENTRE], c[CENTRE + 1], c[CENTRE + 2]
        radius, shell = c[RADIUS], c[SHELL]
        ax, ay, az = x - cx, y - cy, z - cz
        q = tl.sqrt(ax * ax + ay * ay + az * az)
        inside = q <= radius
        far = tl.maximum(q, radius)
        scale = (radius + shell - shell * radius / far) / far
        x, y = tl.where(inside, x, cx + ax * scale), tl.where(inside, y, cy + ay * scale)
        z = tl.where(inside, z, cz + az * scale)
    if CONTRACTION == AXES:
        tau = c[TAU]
        x, inside_x = _on_axis(x, c[CENTRE], c[HALF], tau)
        y, inside_y = _on_axis(y, c[CENTRE + 1], c[HALF + 1], tau)
        z, inside_z = _on_axis(z, c[CENTRE + 2], c[HALF + 2], tau)
        inside = inside_x & inside_y & inside_z
    return x, y, z, inside


@triton.jit
def _distance(numbers, s, samples, offset, JITTER: tl.constexpr):
    """[BLOCK] distance of sample ``s`` or the last one."""
    t = tl.load(numbers + DISTANCES + tl.minimum(s, samples - 1)) + offset
    if JITTER:
        t = tl.maximum(t, 0.0)
    return t


@triton.jit
def _side(index, size):
    """Both sides of one axis of a cell: the lower voxel, the weights of it and of the next one, and whether the grid is near.

    Voxels outside of the grid have the weight 0.
    """
    within = (index > -1) & (index < size)
    low = tl.floor(index)
    part = index - low
    at = tl.where(within, low, 0.0).to(tl.int32)
    cell = tl.maximum(tl.minimum(at, size - 2), 0)
    below = tl.where(at == cell, 1 - part, tl.where(at < cell, part, 0.0))
    above = tl.where(at == cell, part, tl.where(at > cell, 1 - part, 0.0))
    return cell, below, tl.where(size > 1, above, 0.0), within


@triton.jit
def _ray(
    c, order, origins, directions, scene, offsets, cosines, first, count,
    JITTER: tl.constexpr, UNIT: tl.constexpr, DEPTH: tl.constexpr, CONTRACTION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of the rays of this program: which ones they are, and all that does not change along them."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = at < count
    ray = tl.load(order + first + at, valid, 0)
    o, d = origins + ray * 3, directions + ray * 3
    ox, oy = tl.load(o, valid, 0.0).to(tl.float64), tl.load(o + 1, valid, 0.0).to(tl.float64)
    oz, dx = tl.load(o + 2, valid, 0.0).to(tl.float64), tl.load(d, valid, 1.0).to(tl.float64)
    dy, dz = tl.load(d + 1, valid, 0.0).to(tl.float64), tl.load(d + 2, valid, 0.0).to(tl.float64)
    length = tl.sqrt(dx * dx + dy * dy + dz * dz)
    if UNIT:
        dx, dy, dz = dx / length, dy / length, dz / length
        length = tl.full([BLOCK], 1.0, tl.float64)
    offset, cosine = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    if JITTER:
        offset = tl.load(offsets + ray, valid, 0.0).to(tl.float64)
    if DEPTH == Z:
        cosine = tl.load(cosines + ray, valid, 0.0).to(tl.float64)
    grid = tl.load(scene + ray, valid, 0)
    px, py, pz, _ = _contract(c, ox, oy, oz, CONTRACTION)
    return at, valid, ray, grid, (ox, oy, oz, dx, dy, dz, length, offset, cosine), px, py, pz


@triton.jit
def _place(
    c, s, samples, line, t, behind, ahead, way, px, py, pz, alive,
    X, Y, Z_,
    CONTRACTION: tl.constexpr, RULE: tl.constexpr, ACTIVATION: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Sample ``s`` of all rays, at distance t; behind, ahead: distances of its neighbours.

    way  added up since the skip rule kept a sample
    p    where the sample before lies, contracted

    Returns kept; within (the grid, kept and alive); its cell's lower voxel, and the weights of both sides on each axis; depth;
    spacing; the next sample's way and p.
    """
    ox, oy, oz, dx, dy, dz, length, offset, cosine = line
    x, y, z, inside = _contract(c, ox + t * dx, oy + t * dy, oz + t * dz, CONTRACTION)
    gap_x, gap_y, gap_z = x - px, y - py, z - pz
    kept = x == x
    if RULE == ACCUMULATED:
        way = tl.where(s > 0, way + tl.sqrt(gap_x * gap_x + gap_y * gap_y + gap_z * gap_z), way)
        over = way > c[SKIP]
        way = tl.where(over, 0.0, way)
        kept = inside | over
    if RULE == PER_AXIS:
        kept = (tl.abs(gap_x) > c[SKIP]) | (tl.abs(gap_y) > c[SKIP + 1])
        kept = kept | (tl.abs(gap_z) > c[SKIP + 2])

    end = (t - behind) * length
    if ACTIVATION == EXPONENTIAL:
        end = c[LAST]
    spacing = tl.where(s < samples - 1, (ahead - t) * length, end)
    m = t
    if DEPTH == CONTRACTED:
        radius = c[RADIUS]
        m = radius * t / (radius + t)
    if DEPTH == Z:
        m = t * cosine

    bx, x0, x1, in_x = _side(x * c[FACTOR] + c[TERM], X)
    by, y0, y1, in_y = _side(y * c[FACTOR + 1] + c[TERM + 1], Y)
    bz, z0, z1, in_z = _side(z * c[FACTOR + 2] + c[TERM + 2], Z_)
    within = in_x & in_y & in_z & kept & alive
    cell = (bx * Y + by) * Z_ + bz
    return kept, within, cell, (x0, x1, y0, y1, z0, z1), m, spacing, way, x, y, z


@triton.jit
def _interpolate(density, cell, within, sides, step_x, step_y, step_z):
    """Density from the eight voxels of cells [BLOCK], which are counted through the batch."""
    x0, x1, y0, y1, z0, z1 = sides
    v = density + cell
    value = (x0 * y0) * (z0 * tl.load(v, within, 0.0) + z1 * tl.load(v + step_z, within, 0.0))
    value += (x0 * y1) * (z0 * tl.load(v + step_y, within, 0.0) + z1 * tl.load(v + (step_y + step_z), within, 0.0))
    v += step_x
    value += (x1 * y0) * (z0 * tl.load(v, within, 0.0) + z1 * tl.load(v + step_z, within, 0.0))
    value += (x1 * y1) * (z0 * tl.load(v + step_y, within, 0.0) + z1 * tl.load(v + (step_y + step_z), within, 0.0))
    return value


@triton.jit
def _activate(c, value, spacing, ACTIVATION: tl.constexpr):
    """alpha, what the sample lets through, d alpha / d density, and the latter over what it lets through."""
    if ACTIVATION == SHIFTED_SOFTPLUS:
        interval = c[INTERVAL]
        e = tl.exp(tl.minimum(value + c[SHIFT], LARGEST))
        passed = tl.exp(-interval * tl.log(1 + e))
        ratio = interval * (e / (1 + e))
        return 1 - passed, passed, ratio * passed, ratio
    if ACTIVATION == EXPONENTIAL:
        passed = tl.exp(-tl.minimum(tl.maximum(value, 0.0) * spacing, LARGEST))
        ratio = tl.where(value > 0, spacing, 0.0)
        return 1 - passed, passed, ratio * passed, ratio
    e = tl.exp(tl.minimum(-value, LARGEST))
    alpha = 1 / (1 + e)
    return alpha, 1 - alpha, alpha * (e / (1 + e)), alpha


@triton.jit
def _weigh(
    c, s, samples, kept, alpha, passed, slope, through, reached, alive, ACTIVATION: tl.constexpr, CLOSED: tl.constexpr
):  # fmt: skip
    """The weight of a sample, 0 if it is not in the sums, and what is behind it.

    counts (it takes light); counted (it is in the sums); weight; free (what it lets through follows its density); slope; the
    transmittance behind it; the sum of alphas.
    """
    counts = kept & alive & (alpha > c[ALPHA_MIN])
    if CLOSED:
        closes = (s == samples - 1) & alive & (kept == 0)
        alpha, slope = tl.where(closes, 1.0, alpha), tl.where(closes, 0.0, slope)
        counts = counts | closes
    if ACTIVATION == PROBABILITY:
        before = tl.minimum(reached, 1.0)
        reached = tl.where(counts, reached + alpha, reached)
        free = reached <= 1
        weight = tl.minimum(reached, 1.0) - before
        behind = tl.where(counts, 1 - tl.minimum(reached, 1.0), through)
    else:
        free = counts
        if ACTIVATION == EXPONENTIAL:
            least = c[LEAST_PASSED]
            free = counts & (passed >= least)
            passed = tl.maximum(passed, least)
        weight = alpha * through
        behind = tl.where(counts, through * passed, through)
    counted = counts & (weight > c[WEIGHT_MIN])
    return counts, counted, tl.where(counted, weight, 0.0), free, slope, behind, reached


@triton.jit
def _write(rows, mask, k0, k1, k2, k3, k4, k5, k6, k7):
    """Eight numbers of a record."""
    tl.store(rows, k0, mask)
    tl.store(rows + 1, k1, mask)
    tl.store(rows + 2, k2, mask)
    tl.store(rows + 3, k3, mask)
    tl.store(rows + 4, k4, mask)
    tl.store(rows + 5, k5, mask)
    tl.store(rows + 6, k6, mask)
    tl.store(rows + 7, k7, mask)


@triton.jit
def _corners(sides, by):
    """``by`` times the weights of a cell's voxels, x slowest, z fastest; float32."""
    x0, x1, y0, y1, z0, z1 = sides
    x0, x1, y0, y1 = (x0 * by).to(tl.float32), (x1 * by).to(tl.float32), y0.to(tl.float32), y1.to(tl.float32)
    z0, z1 = z0.to(tl.float32), z1.to(tl.float32)
    p, q, r, s = x0 * y0, x0 * y1, x1 * y0, x1 * y1
    return p * z0, p * z1, q * z0, q * z1, r * z0, r * z1, s * z0, s * z1


@triton.jit
def _unless(mask, k0, k1, k2, k3, k4, k5, k6, k7):
    """Eight numbers, 0 where the mask is."""
    return (
        tl.where(mask, 0.0, k0), tl.where(mask, 0.0, k1), tl.where(mask, 0.0, k2), tl.where(mask, 0.0, k3),
        tl.where(mask, 0.0, k4), tl.where(mask, 0.0, k5), tl.where(mask, 0.0, k6), tl.where(mask, 0.0, k7),
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def march(
    numbers,  # [25 + S] float64
    order,  # [R] int64: which ray is at which place
    origins,  # [R, 3]
    directions,  # [R, 3]
    scene,  # [R] int64
    offsets,  # [R] (JITTER)
    cosines,  # [R] (DEPTH == Z)
    density,  # [B, X, Y, Z]
    sums,  # [6, R] float64 out
    seen,  # [R] int64 out: how many weights are in the sums
    cells,  # [count, S] int32 out: the records' cells, by their lower voxel within the scene
    shares,  # [count, S, 8] out: how much of each voxel is seen
    records,  # [count] int32 out: how many records a ray has
    first,  # place of the first ray
    count,  # of rays, from ``first``
    rays,
    samples,
    X,
    Y,
    Z_,
    step_x,  # to the next voxel; 0 where there is none
    step_y,
    step_z,
    CONTRACTION: tl.constexpr,
    RULE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CLOSED: tl.constexpr,
    UNIT: tl.constexpr,
    DEPTH: tl.constexpr,
    JITTER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums and records of BLOCK rays."""
    c = _numbers(numbers)
    at, valid, ray, grid, line, px, py, pz = _ray(
        c, order, origins, directions, scene, offsets, cosines, first, count, JITTER, UNIT, DEPTH, CONTRACTION, BLOCK
    )
    cells_of = grid * X * Y * Z_
    list_of = at.to(tl.int64) * samples
    zero = tl.zeros([BLOCK], tl.float64)
    through, reached, way = zero + 1, zero, zero
    depth, alpha, squares, spaced, spread = zero, zero, zero, zero, zero
    number, seeing = tl.full([BLOCK], -1, tl.int32), tl.zeros([BLOCK], tl.int64)
    current = tl.full([BLOCK], -1, tl.int32)
    none = tl.zeros([BLOCK], tl.float32)
    k0, k1, k2, k3, k4, k5, k6, k7 = none, none, none, none, none, none, none, none
    empty, clear, _s, _r = _activate(c, zero, zero, ACTIVATION)  # outside of the grid, whatever the spacing
    stop = c[TRANSMITTANCE_MIN]
    t = _distance(numbers, 0, samples, line[7], JITTER)
    s = 0
    going = 1
    while (s < samples) & (going > 0):
        for _ in range(STRIDE):
            alive = valid & (through >= stop) & (s < samples)
            # Looked up, not handed on: compiled by Triton 3.6, it was the ray's first one again after STRIDE samples.
            behind = _distance(numbers, tl.maximum(s - 1, 0), samples, line[7], JITTER)
            ahead = _distance(numbers, s + 1, samples, line[7], JITTER)
            kept, within, cell, sides, m, spacing, way, px, py, pz = _place(
                c, s, samples, line, t, behind, ahead, way, px, py, pz, alive, X, Y, Z_,
                CONTRACTION, RULE, ACTIVATION, DEPTH,
            )  # fmt: skip
            some = tl.max(within.to(tl.int32), 0) > 0
            if some:
                value = _interpolate(density, cells_of + cell, within, sides, step_x, step_y, step_z)
                opaque, passed, slope, _r = _activate(c, value, spacing, ACTIVATION)
            else:
                opaque, passed, slope, _r = empty, clear, zero, zero
            counts, counted, weight, _f, _s, through, reached = _weigh(
                c, s, samples, kept, opaque, passed, slope, through, reached, alive, ACTIVATION, CLOSED
            )
            spread += weight * (m * alpha - depth)
            depth += weight * m
            alpha += weight
            squares += weight * weight
            spaced += weight * weight * spacing
            seeing += counted.to(tl.int64)
            entry = within & counts
            if some:
                new = entry & (cell != current)
                full = new & (current >= 0)
                row = list_of + number
                tl.store(cells + row, current, full)
                _write(shares + row * 8, full, k0, k1, k2, k3, k4, k5, k6, k7)
                number += new.to(tl.int32)
                current = tl.where(new, cell, current)
                k0, k1, k2, k3, k4, k5, k6, k7 = _unless(new, k0, k1, k2, k3, k4, k5, k6, k7)
                c0, c1, c2, c3, c4, c5, c6, c7 = _corners(sides, tl.where(entry, weight, 0.0))
                k0, k1, k2, k3 = k0 + c0, k1 + c1, k2 + c2, k3 + c3
                k4, k5, k6, k7 = k4 + c4, k5 + c5, k6 + c6, k7 + c7
            t = ahead
            s += 1
        going = tl.max((valid & (through >= stop)).to(tl.int32), 0)
    row = list_of + number
    tl.store(cells + row, current, current >= 0)
    _write(shares + row * 8, current >= 0, k0, k1, k2, k3, k4, k5, k6, k7)
    tl.store(records + at, number + 1, valid)
    tl.store(seen + ray, seeing, valid)
    out = sums + ray
    tl.store(out, depth, valid)
    tl.store(out + rays, alpha, valid)
    tl.store(out + 2 * rays, through, valid)
    tl.store(out + 3 * rays, squares, valid)
    tl.store(out + 4 * rays, spaced, valid)
    tl.store(out + 5 * rays, 2 * spread, valid)


@triton.jit
def _add(rows, mask, step_x, step_y, step_z, k0, k1, k2, k3, k4, k5, k6, k7):
    """Add to the eight voxels of a cell."""
    tl.atomic_add(rows, k0, mask, sem="relaxed")
    tl.atomic_add(rows + step_z, k1, mask, sem="relaxed")
    tl.atomic_add(rows + step_y, k2, mask, sem="relaxed")
    tl.atomic_add(rows + (step_y + step_z), k3, mask, sem="relaxed")
    rows += step_x
    tl.atomic_add(rows, k4, mask, sem="relaxed")
    tl.atomic_add(rows + step_z, k5, mask, sem="relaxed")
    tl.atomic_add(rows + step_y, k6, mask, sem="relaxed")
    tl.atomic_add(rows + (step_y + step_z), k7, mask, sem="relaxed")


@triton.jit
def _given(gradients, k, rays, ray, valid):
    """Gradient of the k-th sum of each ray."""
    return tl.load(gradients + k * rays + ray, valid, 0.0).to(tl.float64)


@triton.jit(do_not_specialize=SIZES)
def differentiate(
    numbers,  # as of ``march``, up to density
    order,
    origins,
    directions,
    scene,
    offsets,
    cosines,
    density,
    sums,  # [6, R] float64
    worth,  # [R] float64 sum of weight times the product of features and their gradient (FEATURES)
    products,  # [count, S, 8] of each record's voxels with the gradient of features (FEATURES)
    gradients,  # [6, R] of the sums
    grad_density,  # [B, X, Y, Z] is added to
    first,
    count,
    rays,
    samples,
    X,
    Y,
    Z_,
    step_x,
    step_y,
    step_z,
    FEATURES: tl.constexpr,
    CONTRACTION: tl.constexpr,
    RULE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CLOSED: tl.constexpr,
    UNIT: tl.constexpr,
    DEPTH: tl.constexpr,
    JITTER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradient of the density of BLOCK rays, from the first sample to the last.

    With g a weight's gradient and T the transmittance in front of a sample, a sample's alpha gets g T - Q / (1 - alpha), Q being
    what all samples behind and the last transmittance are worth: everything less what has been passed. For ``ShiftedSoftplus``
    everything is a closed form of the sums. ``Exponential`` multiplies what is left by ways of kilometres, hence takes no
    rounding of float32, and a first round adds it up. Probabilities add up to 1: alpha gets g - g', g' of the first sample that
    goes beyond, which a first round finds.
    """
    c = _numbers(numbers)
    at, valid, ray, grid, line, ax, ay, az = _ray(
        c, order, origins, directions, scene, offsets, cosines, first, count, JITTER, UNIT, DEPTH, CONTRACTION, BLOCK
    )
    CLOSED_FORM: tl.constexpr = ACTIVATION == SHIFTED_SOFTPLUS
    cells_of = grid * X * Y * Z_
    list_of = at.to(tl.int64) * samples
    g_depth, g_alpha = _given(gradients, 0, rays, ray, valid), _given(gradients, 1, rays, ray, valid)
    g_last, g_squares = _given(gradients, 2, rays, ray, valid), _given(gradients, 3, rays, ray, valid)
    g_spaced, g_spread = _given(gradients, 4, rays, ray, valid), _given(gradients, 5, rays, ray, valid)
    out = sums + ray
    all_depth, all_alpha = tl.load(out, valid, 0.0), tl.load(out + rays, valid, 0.0)
    left = g_last * tl.load(out + 2 * rays, valid, 0.0)
    if CLOSED_FORM:
        left += g_depth * all_depth + g_alpha * all_alpha
        left += 2 * (g_squares * tl.load(out + 3 * rays, valid, 0.0) + g_spaced * tl.load(out + 4 * rays, valid, 0.0))
        left += 2 * g_spread * tl.load(out + 5 * rays, valid, 0.0)
        if FEATURES:
            left += tl.load(worth + ray, valid, 0.0)
    zero = tl.zeros([BLOCK], tl.float64)
    beyond = g_last  # of the sample that goes beyond 1 (PROBABILITY)
    empty, clear, _s, _r = _activate(c, zero, zero, ACTIVATION)  # outside of the grid, whatever the spacing
    stop = c[TRANSMITTANCE_MIN]
    none = tl.zeros([BLOCK], tl.float32)
    for turn in tl.static_range(2):
        if turn == 1 or not CLOSED_FORM:
            way, px, py, pz = zero, ax, ay, az
            through, reached, depth, alpha = zero + 1, zero, zero, zero
            was_free = valid
            number, current = tl.full([BLOCK], -1, tl.int32), tl.full([BLOCK], -1, tl.int32)
            p0, p1, p2, p3, p4, p5, p6, p7 = none, none, none, none, none, none, none, none
            k0, k1, k2, k3, k4, k5, k6, k7 = none, none, none, none, none, none, none, none
            t = _distance(numbers, 0, samples, line[7], JITTER)
            s = 0
            going = 1
            while (s < samples) & (going > 0):
                for _ in range(STRIDE):
                    alive = valid & (through >= stop) & (s < samples)
                    # Looked up, not handed on: compiled by Triton 3.6, it was the ray's first one again after STRIDE samples.
                    behind = _distance(numbers, tl.maximum(s - 1, 0), samples, line[7], JITTER)
                    ahead = _distance(numbers, s + 1, samples, line[7], JITTER)
                    kept, within, cell, sides, m, spacing, way, px, py, pz = _place(
                        c, s, samples, line, t, behind, ahead, way, px, py, pz, alive, X, Y, Z_,
                        CONTRACTION, RULE, ACTIVATION, DEPTH,
                    )  # fmt: skip
                    some = tl.max(within.to(tl.int32), 0) > 0
                    if some:
                        value = _interpolate(density, cells_of + cell, within, sides, step_x, step_y, step_z)
                        opaque, passed, slope, ratio = _activate(c, value, spacing, ACTIVATION)
                    else:
                        opaque, passed, slope, ratio = empty, clear, zero, zero
                    before = through
                    counts, counted, weight, free, slope, through, reached = _weigh(
                        c, s, samples, kept, opaque, passed, slope, through, reached, alive, ACTIVATION, CLOSED
                    )
                    entry = within & counts
                    new = entry & (cell != current)
                    product = zero
                    if some:
                        if turn == 1:
                            full = new & (current >= 0)
                            rows = grad_density + cells_of + current
                            _add(rows, full, step_x, step_y, step_z, k0, k1, k2, k3, k4, k5, k6, k7)
                            k0, k1, k2, k3, k4, k5, k6, k7 = _unless(new, k0, k1, k2, k3, k4, k5, k6, k7)
                        number += new.to(tl.int32)
                        current = tl.where(new, cell, current)
                        if FEATURES:
                            row = products + (list_of + number) * 8
                            p0, p1, p2, p3, p4, p5, p6, p7 = _unless(new, p0, p1, p2, p3, p4, p5, p6, p7)
                            p0, p1 = p0 + tl.load(row, new, 0.0), p1 + tl.load(row + 1, new, 0.0)
                            p2, p3 = p2 + tl.load(row + 2, new, 0.0), p3 + tl.load(row + 3, new, 0.0)
                            p4, p5 = p4 + tl.load(row + 4, new, 0.0), p5 + tl.load(row + 5, new, 0.0)
                            p6, p7 = p6 + tl.load(row + 6, new, 0.0), p7 + tl.load(row + 7, new, 0.0)
                            x0, x1, y0, y1, z0, z1 = sides
                            product = (x0 * y0) * (z0 * p0 + z1 * p1) + (x0 * y1) * (z0 * p2 + z1 * p3)
                            product += (x1 * y0) * (z0 * p4 + z1 * p5) + (x1 * y1) * (z0 * p6 + z1 * p7)
                            product = tl.where(entry, product, 0.0)
                    pairs = (m * alpha - depth) + ((all_depth - depth - weight * m) - m * (all_alpha - alpha - weight))
                    gradient = product + g_depth * m + g_alpha + 2 * weight * (g_squares + g_spaced * spacing)
                    gradient = tl.where(counted, gradient + 2 * g_spread * pairs, 0.0)
                    depth += weight * m
                    alpha += weight
                    if ACTIVATION == PROBABILITY:
                        if turn == 0:
                            beyond = tl.where(counts & was_free & (free == 0), gradient, beyond)
                            was_free = was_free & free
                        own = tl.where(free, gradient - beyond, 0.0) * slope
                    else:
                        if turn == 0:
                            left += gradient * weight
                        else:
                            left -= gradient * weight
                        own = gradient * before * slope - tl.where(free, left * ratio, 0.0)
                    if turn == 1:
                        if some:
                            c0, c1, c2, c3, c4, c5, c6, c7 = _corners(sides, tl.where(entry, own, 0.0))
                            k0, k1, k2, k3 = k0 + c0, k1 + c1, k2 + c2, k3 + c3
                            k4, k5, k6, k7 = k4 + c4, k5 + c5, k6 + c6, k7 + c7
                    t = ahead
                    s += 1
                going = tl.max((valid & (through >= stop)).to(tl.int32), 0)
            if turn == 1:
                rows = grad_density + cells_of + current
                _add(rows, current >= 0, step_x, step_y, step_z, k0, k1, k2, k3, k4, k5, k6, k7)
