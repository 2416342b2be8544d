"""Device code: Gaussians to splats, and the gradients of splats back to Gaussians.

A camera is 21 floats: rotation (9, row by row), translation (3), fx, fy, cx, cy, the limits on x/z and y/z in the
Jacobian (4), and the fy of the Jacobian. A splat is 8 floats: centre (2, px), conic (3, px^-2), opacity, depth (m), and the
largest Mahalanobis distance squared at which alpha still reaches alpha_min. Formulas: ``renderers.reference.project``.
"""

# Triton compiles these functions; Python's type system has no words for their arguments.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

CAMERA = tl.constexpr(21)
SPLAT = tl.constexpr(8)
MOMENTS = tl.constexpr(6)


@triton.jit
def _in_camera(cameras, w, means, row, mask):
    """Mean in camera coordinates (m); w, row: view and row of ``means`` [rows, 3]."""
    c, m = cameras + w * CAMERA, means + row * 3
    px, py, pz = tl.load(m, mask, 0.0), tl.load(m + 1, mask, 0.0), tl.load(m + 2, mask, 0.0)
    x = tl.load(c + 0) * px + tl.load(c + 1) * py + tl.load(c + 2) * pz + tl.load(c + 9)
    y = tl.load(c + 3) * px + tl.load(c + 4) * py + tl.load(c + 5) * pz + tl.load(c + 10)
    z = tl.load(c + 6) * px + tl.load(c + 7) * py + tl.load(c + 8) * pz + tl.load(c + 11)
    return x, y, z


@triton.jit
def _image_axes(cameras, w, x, y, z):
    """The rows u, v of Jacobian times rotation, u = k (r0 - m r2), and what of them depends on the mean: kx, ky, mx, my."""
    c = cameras + w * CAMERA
    kx, ky = tl.load(c + 12) / z, tl.load(c + 20) / z
    mx = tl.minimum(tl.maximum(x / z, tl.load(c + 16)), tl.load(c + 17))
    my = tl.minimum(tl.maximum(y / z, tl.load(c + 18)), tl.load(c + 19))
    r0, r1, r2 = tl.load(c + 6), tl.load(c + 7), tl.load(c + 8)
    u0, u1, u2 = kx * (tl.load(c) - mx * r0), kx * (tl.load(c + 1) - mx * r1), kx * (tl.load(c + 2) - mx * r2)
    v0, v1, v2 = ky * (tl.load(c + 3) - my * r0), ky * (tl.load(c + 4) - my * r1), ky * (tl.load(c + 5) - my * r2)
    return kx, ky, mx, my, u0, u1, u2, v0, v1, v2


@triton.jit
def _unit_quaternion(quaternions, row, mask):
    q = quaternions + row * 4
    w, x, y, z = tl.load(q, mask, 1.0), tl.load(q + 1, mask, 0.0), tl.load(q + 2, mask, 0.0), tl.load(q + 3, mask, 0.0)
    # Scaled first: squares of tiny or huge components would leave float32's range.
    largest = tl.maximum(tl.maximum(tl.abs(w), tl.abs(x)), tl.maximum(tl.abs(y), tl.abs(z)))
    w, x, y, z = w / largest, x / largest, y / largest, z / largest
    length = tl.sqrt(w * w + x * x + y * y + z * z)
    return w / length, x / length, y / length, z / length, 1.0 / (length * largest)


@triton.jit
def _rotated(w, x, y, z, a0, a1, a2):
    """The row vector a times the rotation matrix of a unit quaternion."""
    b0 = a0 * (1 - 2 * (y * y + z * z)) + a1 * (2 * (x * y + w * z)) + a2 * (2 * (x * z - w * y))
    b1 = a0 * (2 * (x * y - w * z)) + a1 * (1 - 2 * (x * x + z * z)) + a2 * (2 * (y * z + w * x))
    b2 = a0 * (2 * (x * z + w * y)) + a1 * (2 * (y * z - w * x)) + a2 * (1 - 2 * (x * x + y * y))
    return b0, b1, b2


@triton.jit
def project(
    flat,  # [K] int64 view * count + Gaussian, or unused (MEASURE)
    means,  # [rows, 3]
    scales,  # [B * N, 1 or 3]
    quaternions,  # [B * N, 4], unused if ISOTROPIC
    opacities,  # [B * N]
    visible,  # [W, N] uint8, unused unless VISIBLE
    cameras,  # [W, 21]
    slices,  # [W] int64 first row of ``means`` that a view shows
    depths,  # [W * N] out (MEASURE): depth, or -1 where the view does not see the Gaussian
    splats,  # [K, 8] out
    rows,  # [K] int32 out: row of opacities, scales, features
    bounds,  # [K, 4] int32 out (TILE3SIGMA): first column, first row, end column, end row of pixels it may reach
    total,
    count,
    views,
    width,
    height,
    tile_size,
    near,
    far,
    low_pass,
    alpha_min,
    MEASURE: tl.constexpr,
    ISOTROPIC: tl.constexpr,
    VISIBLE: tl.constexpr,
    TILE3SIGMA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Pass 1 (MEASURE) finds which Gaussians each view sees, and how deep; pass 2 writes those, by then sorted, as splats."""
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = k < total
    if MEASURE:
        f = tl.where(mask, k, 0)
    else:
        f = tl.load(flat + k, mask, 0)
    w, n = f // count, f % count
    row = w // views * count + n
    x, y, z = _in_camera(cameras, w, means, tl.load(slices + w) + n, mask)
    opacity = tl.load(opacities + row, mask, 0.0)
    seen = mask & (z > near) & (z <= far) & (opacity >= alpha_min)
    if VISIBLE:
        seen &= tl.load(visible + f, mask, 0) != 0
    z = tl.where(seen, z, 1.0)
    _, _, _, _, u0, u1, u2, v0, v1, v2 = _image_axes(cameras, w, x, y, z)
    if ISOTROPIC:
        s = tl.load(scales + row, mask, 1.0)
        u0, u1, u2, v0, v1, v2 = s * u0, s * u1, s * u2, s * v0, s * v1, s * v2
    else:
        qw, qx, qy, qz, _ = _unit_quaternion(quaternions, row, mask)
        s0, s1, s2 = tl.load(scales + row * 3, mask), tl.load(scales + row * 3 + 1, mask), tl.load(scales + row * 3 + 2, mask)
        u0, u1, u2 = _rotated(qw, qx, qy, qz, u0, u1, u2)
        v0, v1, v2 = _rotated(qw, qx, qy, qz, v0, v1, v2)
        u0, u1, u2, v0, v1, v2 = s0 * u0, s1 * u1, s2 * u2, s0 * v0, s1 * v1, s2 * v2
    sxx = u0 * u0 + u1 * u1 + u2 * u2 + low_pass
    sxy = u0 * v0 + u1 * v1 + u2 * v2
    syy = v0 * v0 + v1 * v1 + v2 * v2 + low_pass
    determinant = sxx * syy - sxy * sxy
    seen &= determinant > 0
    determinant = tl.where(seen, determinant, 1.0)
    c = cameras + w * CAMERA
    cx = tl.load(c + 12) * x / z + tl.load(c + 14)
    cy = tl.load(c + 13) * y / z + tl.load(c + 15)
    limit = 2 * tl.log(tl.maximum(opacity / alpha_min, 1.0))
    if TILE3SIGMA:
        middle = 0.5 * (sxx + syy)
        radius = tl.ceil(3 * tl.sqrt(middle + tl.sqrt(tl.maximum(middle * middle - determinant, 0.1))))
        left, top = tl.floor((cx - 0.5 - radius) / tile_size), tl.floor((cy - 0.5 - radius) / tile_size)
        right = tl.floor((cx - 0.5 + radius + tile_size - 1) / tile_size)
        bottom = tl.floor((cy - 0.5 + radius + tile_size - 1) / tile_size)
        left, top, right, bottom = left * tile_size, top * tile_size, right * tile_size, bottom * tile_size
    else:  # the bounding box of the ellipse, and a pixel more for rounding
        left, right = cx - tl.sqrt(limit * sxx) - 1, cx + tl.sqrt(limit * sxx) + 1
        top, bottom = cy - tl.sqrt(limit * syy) - 1, cy + tl.sqrt(limit * syy) + 1
    left, right = tl.minimum(tl.maximum(left, 0.0), width), tl.minimum(tl.maximum(right, 0.0), width)
    top, bottom = tl.minimum(tl.maximum(top, 0.0), height), tl.minimum(tl.maximum(bottom, 0.0), height)
    if MEASURE:
        tl.store(depths + k, tl.where(seen & (left < right) & (top < bottom), z, -1.0), mask)
    else:
        s = splats + k * SPLAT
        tl.store(s, cx, mask)
        tl.store(s + 1, cy, mask)
        tl.store(s + 2, syy / determinant, mask)
        tl.store(s + 3, -sxy / determinant, mask)
        tl.store(s + 4, sxx / determinant, mask)
        tl.store(s + 5, opacity, mask)
        tl.store(s + 6, z, mask)
        tl.store(s + 7, limit, mask)
        tl.store(rows + k, row.to(tl.int32), mask)
        if TILE3SIGMA:
            tl.store(bounds + k * 4, left.to(tl.int32), mask)
            tl.store(bounds + k * 4 + 1, top.to(tl.int32), mask)
            tl.store(bounds + k * 4 + 2, right.to(tl.int32), mask)
            tl.store(bounds + k * 4 + 3, bottom.to(tl.int32), mask)


@triton.jit
def project_backward(
    positions,  # [W, N] int32: the splat that a view made of a Gaussian, -1 where none
    splats,  # [K, 8]
    sums,  # [K, channels + 1 + 6]: gradients of features and depth, then the moments of dL/d(exponent) about the centre
    means,
    scales,
    quaternions,
    cameras,
    slices,
    grad_means,  # [rows, 3] zeros
    grad_scales,
    grad_quaternions,
    grad_opacities,
    count,
    views,
    channels,
    low_pass,
    ISOTROPIC: tl.constexpr,
    SYMMETRIC: tl.constexpr,  # a limited x/z is a constant; else its limit is
    MEANS: tl.constexpr,  # which gradients are wanted
    SCALES: tl.constexpr,
    QUATERNIONS: tl.constexpr,
    OPACITIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of Gaussians of one scene collects its gradients from the views, in their order."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    scene = tl.program_id(1).to(tl.int64)
    within = n < count
    row = scene * count + n
    total_opacity = tl.zeros([BLOCK], tl.float32)
    total_s0, total_s1, total_s2 = total_opacity, total_opacity, total_opacity
    total_qw, total_qx, total_qy, total_qz = total_opacity, total_opacity, total_opacity, total_opacity
    for view in range(views):
        w = scene * views + view
        k = tl.load(positions + w * count + n, within, -1).to(tl.int64)
        mask = k >= 0
        s, m = splats + k * SPLAT, sums + k * (channels + 1 + MOMENTS) + channels
        m0 = tl.load(m + 1, mask, 0.0)
        if OPACITIES:
            total_opacity += m0 / tl.load(s + 5, mask, 1.0)
        if MEANS or SCALES or QUATERNIONS:
            mx1, my1 = tl.load(m + 2, mask, 0.0), tl.load(m + 3, mask, 0.0)
            mxx, mxy, myy = tl.load(m + 4, mask, 0.0), tl.load(m + 5, mask, 0.0), tl.load(m + 6, mask, 0.0)
            a, b, c = tl.load(s + 2, mask, 1.0), tl.load(s + 3, mask, 0.0), tl.load(s + 4, mask, 1.0)
            # Covariance = conic^-1, so its gradient is -conic (dL/dconic) conic, of matrices.
            ga, gb, gc = -0.5 * mxx, -0.5 * mxy, -0.5 * myy
            t00, t01, t10, t11 = ga * a + gb * b, ga * b + gb * c, gb * a + gc * b, gb * b + gc * c
            gxx, gxy, gyy = -(a * t00 + b * t10), -2 * (a * t01 + b * t11), -(b * t01 + c * t11)

            mean = tl.load(slices + w) + n
            x, y, z = _in_camera(cameras, w, means, mean, mask)
            z = tl.where(mask, z, 1.0)
            kx, ky, mx, my, u0, u1, u2, v0, v1, v2 = _image_axes(cameras, w, x, y, z)
            if ISOTROPIC:
                scale = tl.load(scales + row, mask, 0.0)
                uu, uv, vv = u0 * u0 + u1 * u1 + u2 * u2, u0 * v0 + u1 * v1 + u2 * v2, v0 * v0 + v1 * v1 + v2 * v2
                total_s0 += 2 * scale * (gxx * uu + gxy * uv + gyy * vv)
                square = scale * scale
                du0, dv0 = square * (2 * gxx * u0 + gxy * v0), square * (2 * gyy * v0 + gxy * u0)
                du1, dv1 = square * (2 * gxx * u1 + gxy * v1), square * (2 * gyy * v1 + gxy * u1)
                du2, dv2 = square * (2 * gxx * u2 + gxy * v2), square * (2 * gyy * v2 + gxy * u2)
            else:
                qw, qx, qy, qz, inverse = _unit_quaternion(quaternions, row, mask)
                s0, s1 = tl.load(scales + row * 3, mask, 0.0), tl.load(scales + row * 3 + 1, mask, 0.0)
                s2 = tl.load(scales + row * 3 + 2, mask, 0.0)
                p0, p1, p2 = _rotated(qw, qx, qy, qz, u0, u1, u2)  # image axes in the Gaussian's own
                r0, r1, r2 = _rotated(qw, qx, qy, qz, v0, v1, v2)
                # dL/d(scaled axes), scaled once more: of the rotated axes
                dp0, dr0 = s0 * s0 * (2 * gxx * p0 + gxy * r0), s0 * s0 * (2 * gyy * r0 + gxy * p0)
                dp1, dr1 = s1 * s1 * (2 * gxx * p1 + gxy * r1), s1 * s1 * (2 * gyy * r1 + gxy * p1)
                dp2, dr2 = s2 * s2 * (2 * gxx * p2 + gxy * r2), s2 * s2 * (2 * gyy * r2 + gxy * p2)
                if SCALES:
                    total_s0 += 2 * s0 * (gxx * p0 * p0 + gxy * p0 * r0 + gyy * r0 * r0)
                    total_s1 += 2 * s1 * (gxx * p1 * p1 + gxy * p1 * r1 + gyy * r1 * r1)
                    total_s2 += 2 * s2 * (gxx * p2 * p2 + gxy * p2 * r2 + gyy * r2 * r2)
                du0, du1, du2 = _rotated(qw, -qx, -qy, -qz, dp0, dp1, dp2)
                dv0, dv1, dv2 = _rotated(qw, -qx, -qy, -qz, dr0, dr1, dr2)
                if QUATERNIONS:
                    # p = u R and r = v R, so dL/dR = u' dp + v' dr
                    d00, d01, d02 = u0 * dp0 + v0 * dr0, u0 * dp1 + v0 * dr1, u0 * dp2 + v0 * dr2
                    d10, d11, d12 = u1 * dp0 + v1 * dr0, u1 * dp1 + v1 * dr1, u1 * dp2 + v1 * dr2
                    d20, d21, d22 = u2 * dp0 + v2 * dr0, u2 * dp1 + v2 * dr1, u2 * dp2 + v2 * dr2
                    dw = 2 * (qx * (d21 - d12) + qy * (d02 - d20) + qz * (d10 - d01))
                    dx = 2 * (qy * (d01 + d10) + qz * (d02 + d20) + qw * (d21 - d12) - 2 * qx * (d11 + d22))
                    dy = 2 * (qx * (d01 + d10) + qz * (d12 + d21) + qw * (d02 - d20) - 2 * qy * (d00 + d22))
                    dz = 2 * (qx * (d02 + d20) + qy * (d12 + d21) + qw * (d10 - d01) - 2 * qz * (d00 + d11))
                    along = qw * dw + qx * dx + qy * dy + qz * dz  # the length does not matter
                    total_qw += (dw - along * qw) * inverse
                    total_qx += (dx - along * qx) * inverse
                    total_qy += (dy - along * qy) * inverse
                    total_qz += (dz - along * qz) * inverse
            if MEANS:
                cam = cameras + w * CAMERA
                r20, r21, r22 = tl.load(cam + 6), tl.load(cam + 7), tl.load(cam + 8)
                lowx, highx, lowy, highy = tl.load(cam + 16), tl.load(cam + 17), tl.load(cam + 18), tl.load(cam + 19)
                gx, gy = -(a * mx1 + b * my1), -(b * mx1 + c * my1)  # of the centre
                kc = tl.load(cam + 13) / z  # of the centre, where ky is of the shape
                # u = k (r0 - m r2) with k = f / z and m = limited x / z; u / k is what dk multiplies, so dk k = du . u
                dmx = -kx * (du0 * r20 + du1 * r21 + du2 * r22)
                dmy = -ky * (dv0 * r20 + dv1 * r21 + dv2 * r22)
                freex, freey = (x / z >= lowx) & (x / z <= highx), (y / z >= lowy) & (y / z <= highy)
                dx, dy = gx * kx + tl.where(freex, dmx / z, 0.0), gy * kc + tl.where(freey, dmy / z, 0.0)
                dz = tl.load(m, mask, 0.0) - (gx * kx * x + gy * kc * y) / z
                dz -= (du0 * u0 + du1 * u1 + du2 * u2 + dv0 * v0 + dv1 * v1 + dv2 * v2) / z
                if SYMMETRIC:  # a limited coordinate is a constant, its ratio to z is not
                    dz -= (dmx * mx + dmy * my) / z
                else:
                    dz -= (tl.where(freex, dmx * mx, 0.0) + tl.where(freey, dmy * my, 0.0)) / z
                # Views may share a slice of the means: added in memory, by the only program that has these Gaussians.
                g = grad_means + mean * 3
                g0 = tl.load(cam) * dx + tl.load(cam + 3) * dy + r20 * dz
                g1 = tl.load(cam + 1) * dx + tl.load(cam + 4) * dy + r21 * dz
                g2 = tl.load(cam + 2) * dx + tl.load(cam + 5) * dy + r22 * dz
                tl.store(g, tl.load(g, mask, 0.0) + g0, mask)
                tl.store(g + 1, tl.load(g + 1, mask, 0.0) + g1, mask)
                tl.store(g + 2, tl.load(g + 2, mask, 0.0) + g2, mask)
    if OPACITIES:
        tl.store(grad_opacities + row, total_opacity, within)
    if SCALES:
        if ISOTROPIC:
            tl.store(grad_scales + row, total_s0, within)
        else:
            tl.store(grad_scales + row * 3, total_s0, within)
            tl.store(grad_scales + row * 3 + 1, total_s1, within)
            tl.store(grad_scales + row * 3 + 2, total_s2, within)
    if QUATERNIONS:
        tl.store(grad_quaternions + row * 4, total_qw, within)
        tl.store(grad_quaternions + row * 4 + 1, total_qx, within)
        tl.store(grad_quaternions + row * 4 + 2, total_qy, within)
        tl.store(grad_quaternions + row * 4 + 3, total_qz, within)


@triton.jit
def collect_features(
    positions,  # [W, N] int32
    sums,  # [K, channels + 1 + 6]
    grad_features,  # [B, N, channels] out
    count,
    views,
    channels,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradients of features: those of a Gaussian's splats, added in the order of the views."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    scene = tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < channels
    total = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for view in range(views):
        k = tl.load(positions + (scene * views + view) * count + n, n < count, -1).to(tl.int64)
        address = sums + k[:, None] * (channels + 1 + MOMENTS) + column[None, :]
        total += tl.load(address, (k >= 0)[:, None] & known[None, :], 0.0)
    address = grad_features + (scene * count + n)[:, None] * channels + column[None, :]
    tl.store(address, total, (n < count)[:, None] & known[None, :])
