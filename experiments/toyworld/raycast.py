"""Rays through the toy world: camera images, the lidar, shadows on the ground."""

from __future__ import annotations

import math

import numpy as np

from .catalogue import BOX, CONE, CYLINDER, ELLIPSOID
from .ground import GROUND_CLASS, GROUND_HEIGHT, KERB, ground_at, kernel
from .solids import FAR, Solids, intersect
from .surfaces import ground_colour, solid_colour

TILE = 16  # pixels; a tile tests only the parts whose outline meets it
SHADOW_CELL = 0.25  # m
SHADOW_CELLS = 400
_NEAR = 0.05


@kernel
def _ground_hit(
    streets: np.ndarray, patches: np.ndarray, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> tuple[float, int, bool, float, float]:
    """Ray parameter, kind of ground, whether the upright face of a kerb is met, texture coordinates."""
    top = (KERB - oz) / dz
    kind, a, b = ground_at(streets, patches, ox + top * dx, oy + top * dy)
    if GROUND_HEIGHT[kind] > 0.0:
        return top, kind, False, a, b
    floor = -oz / dz
    below, u, v = ground_at(streets, patches, ox + floor * dx, oy + floor * dy)
    if GROUND_HEIGHT[below] == 0.0:
        return floor, below, False, u, v
    low, high = top, floor
    for _ in range(6):
        middle = 0.5 * (low + high)
        if GROUND_HEIGHT[ground_at(streets, patches, ox + middle * dx, oy + middle * dy)[0]] > 0.0:
            high = middle
        else:
            low = middle
    return high, below, True, u, v


@kernel
def _render(
    image: np.ndarray, depth: np.ndarray, origin: np.ndarray, rotation: np.ndarray, k: np.ndarray, geometry: np.ndarray,
    shape: np.ndarray, pattern: np.ndarray, colour: np.ndarray, thing: np.ndarray, rect: np.ndarray,
    nearest: np.ndarray, streets: np.ndarray, patches: np.ndarray, light: np.ndarray, shadow: np.ndarray,
    corner: np.ndarray,
) -> None:  # fmt: skip
    height, width = image.shape[:2]
    count = geometry.shape[0]
    chosen = np.empty(count, np.int64)
    ox, oy, oz = origin[0], origin[1], origin[2]
    sx, sy, sz = light[0], light[1], light[2]
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            listed = 0
            for p in range(count):
                if rect[p, 0] < right and rect[p, 2] > left and rect[p, 1] < bottom and rect[p, 3] > top:
                    chosen[listed] = p
                    listed += 1
            for row in range(top, bottom):
                for column in range(left, right):
                    cx, cy = (column + 0.5 - k[0, 2]) / k[0, 0], (row + 0.5 - k[1, 2]) / k[1, 1]
                    dx = rotation[0, 0] * cx + rotation[0, 1] * cy + rotation[0, 2]
                    dy = rotation[1, 0] * cx + rotation[1, 1] * cy + rotation[1, 2]
                    dz = rotation[2, 0] * cx + rotation[2, 1] * cy + rotation[2, 2]
                    stretch = math.sqrt(cx * cx + cy * cy + 1.0)
                    best, hit = FAR, -1
                    for index in range(listed):
                        p = chosen[index]
                        if nearest[p] > best:
                            break
                        t = intersect(shape[p], geometry[p], ox, oy, oz, dx, dy, dz)
                        if t < best:
                            best, hit = t, p
                    kerb, kind, a, b = False, -1, 0.0, 0.0
                    if dz < -1e-4 and (KERB - oz) / dz < min(best, 400.0):
                        t, kind, kerb, a, b = _ground_hit(streets, patches, ox, oy, oz, dx, dy, dz)
                        if t < best:
                            best, hit = t, -1
                        else:
                            kind = -1
                    rise = max(0.0, dz / stretch)
                    blend = min(1.0, rise * 2.2)
                    r = light[8] + (light[5] - light[8]) * blend
                    g = light[9] + (light[6] - light[9]) * blend
                    bl = light[10] + (light[7] - light[10]) * blend
                    depth[row, column] = best if hit >= 0 or kind >= 0 else np.inf
                    if hit >= 0 or kind >= 0:
                        far = best * stretch
                        x, y, z = ox + best * dx, oy + best * dy, oz + best * dz
                        nx, ny, nz, dim = 0.0, 0.0, 1.0, 1.0
                        if hit >= 0:
                            q = geometry[hit]
                            px, py = x - q[0], y - q[1]
                            lx, ly, lz = q[3] * px + q[4] * py, q[3] * py - q[4] * px, z - q[2]
                            ux, uy, uz = lx * q[5], ly * q[6], lz * q[7]
                            mx, my, mz = 0.0, 0.0, 0.0
                            what = shape[hit]
                            if what == BOX:
                                if abs(uz) >= abs(ux) and abs(uz) >= abs(uy):
                                    mz = 1.0 if uz > 0 else -1.0
                                elif abs(ux) >= abs(uy):
                                    mx = 1.0 if ux > 0 else -1.0
                                else:
                                    my = 1.0 if uy > 0 else -1.0
                            elif what == ELLIPSOID:
                                mx, my, mz = ux * q[5], uy * q[6], uz * q[7]
                            elif what == CYLINDER or what == CONE:
                                if what == CYLINDER and abs(uz) > 0.999:
                                    mz = 1.0 if uz > 0 else -1.0
                                else:
                                    mx, my = ux * q[5], uy * q[6]
                                    if what == CONE:
                                        mz = 0.25 * (1.0 - uz) * q[7]
                            elif abs(uy) > 0.999:
                                my = 1.0 if uy > 0 else -1.0
                            else:
                                mx, mz = ux * q[5], uz * q[7]
                            norm = 1.0 / math.sqrt(mx * mx + my * my + mz * mz + 1e-12)
                            nx, ny, nz = (q[3] * mx - q[4] * my) * norm, (q[4] * mx + q[3] * my) * norm, mz * norm
                            br, bg, bb = solid_colour(
                                pattern[hit], colour[hit], lx, ly, lz, 1 / q[5], 1 / q[6], 1 / q[7],
                                nz > 0.7, thing[hit], far,
                            )  # fmt: skip
                            dim = 0.6 + 0.4 * min(1.0, max(0.0, z) / 0.9)  # little sky light reaches low walls
                        else:
                            br, bg, bb = ground_colour(kind, x, y, a, b, far)
                            if kerb:
                                length = math.sqrt(dx * dx + dy * dy)
                                nx, ny, nz = -dx / length, -dy / length, 0.0
                                br, bg, bb = 0.62, 0.61, 0.58
                        lit = max(0.0, nx * sx + ny * sy + nz * sz)
                        if hit < 0:
                            fi, fj = (x - corner[0]) / SHADOW_CELL - 0.5, (y - corner[1]) / SHADOW_CELL - 0.5
                            i, j = int(math.floor(fi)), int(math.floor(fj))
                            if 0 <= i < SHADOW_CELLS - 1 and 0 <= j < SHADOW_CELLS - 1:
                                u, v = fi - i, fj - j
                                dark = (shadow[i, j] * (1 - u) + shadow[i + 1, j] * u) * (1 - v)
                                dark += (shadow[i, j + 1] * (1 - u) + shadow[i + 1, j + 1] * u) * v
                                lit *= 1.0 - dark
                                dim = 1.0 - 0.25 * dark
                        glow = light[3] * lit + light[4] * dim * (0.65 + 0.35 * nz)
                        haze = 1.0 - math.exp(-far / light[11])
                        r = br * glow * (1 - haze) + light[8] * haze
                        g = bg * glow * (1 - haze) + light[9] * haze
                        bl = bb * glow * (1 - haze) + light[10] * haze
                    image[row, column, 0] = np.uint8(min(255.0, max(0.0, 255.0 * bl + 0.5)))
                    image[row, column, 1] = np.uint8(min(255.0, max(0.0, 255.0 * g + 0.5)))
                    image[row, column, 2] = np.uint8(min(255.0, max(0.0, 255.0 * r + 0.5)))


@kernel
def _cast_shadows(shadow: np.ndarray, corner: np.ndarray, sun: np.ndarray, geometry: np.ndarray, shape: np.ndarray) -> None:
    cells = shadow.shape[0]
    for p in range(geometry.shape[0]):
        g = geometry[p]
        radius = math.sqrt(1 / (g[5] * g[5]) + 1 / (g[6] * g[6]))
        top = max(0.0, g[2] + 1 / g[7]) / sun[2]
        ax, bx = min(g[0], g[0] - sun[0] * top) - radius, max(g[0], g[0] - sun[0] * top) + radius
        ay, by = min(g[1], g[1] - sun[1] * top) - radius, max(g[1], g[1] - sun[1] * top) + radius
        first_i, last_i = max(0, int((ax - corner[0]) / SHADOW_CELL)), int((bx - corner[0]) / SHADOW_CELL) + 1
        first_j, last_j = max(0, int((ay - corner[1]) / SHADOW_CELL)), int((by - corner[1]) / SHADOW_CELL) + 1
        for i in range(first_i, min(cells, last_i)):
            for j in range(first_j, min(cells, last_j)):
                if shadow[i, j] == 0.0:
                    x, y = corner[0] + (i + 0.5) * SHADOW_CELL, corner[1] + (j + 0.5) * SHADOW_CELL
                    # from far along the sun's ray back to the ground, so that standing inside a part counts as well
                    reach = 100.0
                    t = intersect(
                        shape[p], g, x + reach * sun[0], y + reach * sun[1], 0.1 + reach * sun[2],
                        -sun[0], -sun[1], -sun[2],
                    )  # fmt: skip
                    if t < reach:
                        shadow[i, j] = 1.0


@kernel
def _cast_lidar(
    origin: np.ndarray, directions: np.ndarray, reach: float, geometry: np.ndarray, shape: np.ndarray,
    streets: np.ndarray, patches: np.ndarray, ranges: np.ndarray, hits: np.ndarray,
) -> None:  # fmt: skip
    columns, beams = directions.shape[:2]
    count = geometry.shape[0]
    chosen = np.empty(count, np.int64)
    ox, oy, oz = origin[0], origin[1], origin[2]
    for column in range(columns):
        mx, my = directions[column, beams // 2, 0], directions[column, beams // 2, 1]
        norm = 1.0 / math.sqrt(mx * mx + my * my)
        mx, my = mx * norm, my * norm
        listed = 0
        for p in range(count):
            g = geometry[p]
            x, y = g[0] - ox, g[1] - oy
            # the beams of a column spread sideways a little when the sensor is tilted: 2 % of the distance
            radius = math.sqrt(1 / (g[5] * g[5]) + 1 / (g[6] * g[6])) + 0.02 * math.sqrt(x * x + y * y)
            if abs(mx * y - my * x) < radius and mx * x + my * y > -radius:
                chosen[listed] = p
                listed += 1
        for beam in range(beams):
            dx, dy, dz = directions[column, beam, 0], directions[column, beam, 1], directions[column, beam, 2]
            best, hit = reach, -1
            for index in range(listed):
                p = chosen[index]
                t = intersect(shape[p], geometry[p], ox, oy, oz, dx, dy, dz)
                if t < best:
                    best, hit = t, p
            if dz < -1e-4 and (KERB - oz) / dz < best:
                t, kind, _, _, _ = _ground_hit(streets, patches, ox, oy, oz, dx, dy, dz)
                if t < best:
                    best, hit = t, -2 - kind
            ranges[column, beam] = best if hit != -1 else -1.0
            hits[column, beam] = hit


def render_camera(
    solids: Solids, streets: np.ndarray, patches: np.ndarray, light: np.ndarray, shadow: np.ndarray,
    corner: np.ndarray, origin: np.ndarray, rotation: np.ndarray, intrinsics: np.ndarray, width: int, height: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """What a pinhole camera sees, one ray through each pixel centre (at +0.5).

    origin [3] (m) and rotation [3, 3] place the camera (OpenCV axes) in the world; ``light`` as ``Light.row``;
    ``shadow`` and its ``corner`` as from ``cast_shadows``. Returns the image [height, width, 3] uint8, BGR, and the depth
    [height, width] float32: metres along the camera's z axis, infinite in the sky.
    """
    g, half = solids.geometry, solids.half()
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    local = signs[None] * half[:, None]
    cos, sin = g[:, 3, None], g[:, 4, None]
    turned = np.stack([cos * local[..., 0] - sin * local[..., 1], sin * local[..., 0] + cos * local[..., 1]], -1)
    corners = np.concatenate([turned, local[..., 2:]], -1) + g[:, None, :3] - origin
    x, y, z = np.moveaxis(corners @ rotation, -1, 0)
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    planes = (fx * x + cx * z, (width - cx) * z - fx * x, fy * y + cy * z, (height - cy) * z - fy * y, z - _NEAR)
    seen = np.flatnonzero(np.all([(plane > 0).any(axis=1) for plane in planes], axis=0))
    nearest = np.maximum(z[seen].min(axis=1), 0.0)
    order = np.argsort(nearest, kind="stable")
    seen, nearest = seen[order], nearest[order]
    x, y, z = x[seen], y[seen], z[seen]
    behind = (z < _NEAR).any(axis=1)
    depth = np.maximum(z, _NEAR)
    u, v = fx * x / depth + cx, fy * y / depth + cy
    rect = np.column_stack([u.min(1) - 1, v.min(1) - 1, u.max(1) + 1, v.max(1) + 1])
    rect[behind] = (0, 0, width, height)
    near = solids.take(seen)
    image, depth = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.float32)
    _render(
        image, depth, origin, rotation, intrinsics, near.geometry, near.shape, near.pattern, near.colour, near.thing, rect,
        nearest, streets, patches, light, shadow, corner,
    )  # fmt: skip
    return image, depth


def cast_shadows(solids: Solids, sun: np.ndarray, middle: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Which cells of the ground around a place lie in the shadow of the sun (unit vector towards it).

    Returns the map [SHADOW_CELLS, SHADOW_CELLS] of 0 and 1 and the world x, y of its lower corner.
    """
    corner = np.array(middle) - SHADOW_CELLS * SHADOW_CELL / 2
    shadow = np.zeros((SHADOW_CELLS, SHADOW_CELLS))
    _cast_shadows(shadow, corner, sun, solids.geometry, solids.shape)
    return shadow, corner


def cast_lidar(
    solids: Solids, streets: np.ndarray, patches: np.ndarray, origin: np.ndarray, directions: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A whole lidar sweep at one instant.

    origin [3] (m) and unit directions [columns, beams, 3] in the world frame; returns ranges (m, -1 where nothing is
    met within ``reach``), Occ3D class ids and object indices (-1 for the ground), each [columns, beams].
    """
    ranges = np.empty(directions.shape[:2])
    hits = np.empty(directions.shape[:2], np.int64)
    _cast_lidar(origin, directions, reach, solids.geometry, solids.shape, streets, patches, ranges, hits)
    on_thing = hits >= 0
    index = np.where(on_thing, hits, 0)
    thing = np.where(on_thing, solids.thing[index], -1)
    ground = GROUND_CLASS[np.clip(-2 - hits, 0, len(GROUND_CLASS) - 1)]
    return ranges, np.where(on_thing, solids.class_id[index], ground).astype(np.uint8), thing
