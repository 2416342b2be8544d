"""Where the supervising cameras stand: draws, the five placement strategies, and the view from above.

Reproduces ``valeoai/GaussRender`` src/model/head/gaussian_render.py:82-136, 286-445. Poses are reference frame ->
camera, OpenCV axes (x right, y down, z forward), metres. Every draw comes from the generator passed in, one sample
after the other, so that a batch of two draws what two batches of one would.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from baselines.gaussrender.config import PAPER, GaussRenderConfig, camera_strategy
from baselines.interface import OccupancyGrid
from renderers import Cameras

BEV_FOCAL = 400.0  # pixels, for an image of BEV_SIZE x BEV_SIZE pixels (gaussian_render.py:369-403)
BEV_SIZE = 400


IMAGE_MARGIN = 0.5  # pixels: a centre closer to the image border than this is not rendered in a camera view


def in_image(centres: Tensor, cameras: Cameras) -> Tensor:
    """[B, V, N] bool: centres [N, 3] in front of the camera and inside its image (gaussian_render.py:661-685)."""
    rotation, shift = cameras.world_to_camera[..., :3, :3], cameras.world_to_camera[..., :3, 3]
    x, y, z = (torch.einsum("bvij,nj->ibvn", rotation, centres) + shift.movedim(-1, 0)[..., None]).unbind(0)
    k = cameras.intrinsics[..., None]
    u, v = k[:, :, 0, 0] * x / z + k[:, :, 0, 2], k[:, :, 1, 1] * y / z + k[:, :, 1, 2]
    inside_u = (u > IMAGE_MARGIN) & (u < cameras.width - IMAGE_MARGIN)
    inside_v = (v > IMAGE_MARGIN) & (v < cameras.height - IMAGE_MARGIN)
    return (z > 0) & inside_u & inside_v


def _uniform(low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """One draw per camera of ``like`` [n, 4, 4] -> [n]."""
    draw = torch.rand(like.shape[0], generator=generator, device=generator.device)
    return (low + (high - low) * draw).to(like)


def draw_indices(views: int, grid: OccupancyGrid, config: GaussRenderConfig, generator: torch.Generator) -> list[int]:
    """Which of ``views`` cameras to render, drawn with replacement; the first one where that is published.

    Raises ValueError for configured indices that do not exist.
    """
    if config.camera_indices is not None:
        if not all(0 <= index < views for index in config.camera_indices):
            raise ValueError(f"camera_indices {config.camera_indices} must lie in 0..{views - 1}: there are {views} cameras")
        return list(config.camera_indices)
    published = grid.published.camera_draw or ()
    if len(published) == 1:
        return [0] * config.num_cameras
    weighted = config.weighted_camera_draw and len(published) == views
    weights = torch.tensor(published if weighted else (1.0,) * views, device=generator.device)
    return torch.multinomial(weights, config.num_cameras, replacement=True, generator=generator).tolist()


def tilt_and_shift(
    poses: Tensor,
    pitch: Tensor | float = 0.0,
    yaw: Tensor | float = 0.0,
    down: Tensor | float = 0.0,
    ahead: Tensor | float = 0.0,
) -> Tensor:
    """Turn cameras about their own centres, then move the scene along the turned camera's axes.

    poses [n, 4, 4]; pitch, yaw in degrees (positive pitch looks down); down, ahead in metres, added to the camera
    coordinates y and z of every point, so that positive ``down`` raises the camera. Scalars or [n] -> [n, 4, 4].
    """

    def per_camera(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=poses.dtype, device=poses.device).expand(poses.shape[0])

    phi, theta = torch.deg2rad(per_camera(pitch)), torch.deg2rad(per_camera(yaw))
    zero, one = torch.zeros_like(phi), torch.ones_like(phi)
    about_x = torch.stack([one, zero, zero, zero, phi.cos(), -phi.sin(), zero, phi.sin(), phi.cos()], dim=-1).unflatten(
        -1, (3, 3)
    )
    about_y = torch.stack([theta.cos(), zero, theta.sin(), zero, one, zero, -theta.sin(), zero, theta.cos()], dim=-1).unflatten(
        -1, (3, 3)
    )
    moved = poses.clone()
    moved[:, :3] = about_x @ about_y @ poses[:, :3]
    moved[:, 1, 3] += per_camera(down)
    moved[:, 2, 3] += per_camera(ahead)
    return moved


def sensor(poses: Tensor, grid: OccupancyGrid, config: GaussRenderConfig, generator: torch.Generator) -> Tensor:
    """The cameras as they are. poses [n, 4, 4] -> [n, 4, 4]."""
    return poses


def elevated(poses: Tensor, grid: OccupancyGrid, config: GaussRenderConfig, generator: torch.Generator) -> Tensor:
    """8 m higher, looking 20 degrees down, turned by up to 5 degrees. poses [n, 4, 4] -> [n, 4, 4]."""
    return tilt_and_shift(poses, pitch=20.0, yaw=_uniform(-5, 5, poses, generator), down=8.0)


def random(poses: Tensor, grid: OccupancyGrid, config: GaussRenderConfig, generator: torch.Generator) -> Tensor:
    """0 to 20 degrees down and 0.4 m higher a degree, turned and moved at random. poses [n, 4, 4] -> [n, 4, 4]."""
    pitch = _uniform(0, 20, poses, generator)
    yaw = _uniform(-10, 10, poses, generator)
    return tilt_and_shift(poses, pitch, yaw, down=pitch * 8 / 20, ahead=_uniform(-10, 10, poses, generator))


def stereo(poses: Tensor, grid: OccupancyGrid, config: GaussRenderConfig, generator: torch.Generator) -> Tensor:
    """The cameras, then copies shifted by up to 1 m up or down and 1 m ahead or back. poses [n, 4, 4] -> [2n, 4, 4]."""
    copies = tilt_and_shift(poses, down=_uniform(-1, 1, poses, generator), ahead=_uniform(-1, 1, poses, generator))
    return torch.cat([poses, copies])


def trajectory(poses: Tensor, grid: OccupancyGrid, config: GaussRenderConfig, generator: torch.Generator) -> Tensor:
    """2 m higher, and ahead by a random part of the range (see ``trajectory_cancels``). poses [n, 4, 4] -> [n, 4, 4]."""
    part = float(torch.rand((), generator=generator, device=generator.device))
    (x_min, y_min, _), (x_max, y_max, _) = grid.lower, grid.upper
    x_extent, y_extent = (x_max - abs(x_min), y_max - abs(y_min)) if config.trajectory_cancels else (x_max, y_max)
    moved = poses.clone()
    moved[:, :3, 3] += poses.new_tensor([y_extent / 2 * part, 2.0, -x_extent * 0.7 * part])
    return moved


STRATEGIES: dict[str, Callable[[Tensor, OccupancyGrid, GaussRenderConfig, torch.Generator], Tensor]] = {
    "sensor": sensor,
    "elevated": elevated,
    "random": random,
    "stereo": stereo,
    "trajectory": trajectory,
}


def reduced(cameras: Cameras, factor: int) -> Cameras:
    """The same cameras with images ``factor`` times smaller; a remainder of pixels at the right and bottom is cut off."""
    if factor == 1:
        return cameras
    scale = cameras.intrinsics.new_tensor([1 / factor, 1 / factor, 1.0])
    width, height = cameras.width // factor, cameras.height // factor
    if width < 1 or height < 1:
        raise ValueError(f"image_reduction {factor} leaves no pixel of a {cameras.width}x{cameras.height} image")
    return Cameras(cameras.intrinsics * scale[:, None], cameras.world_to_camera, width, height)


def supervising_cameras(cameras: Cameras, grid: OccupancyGrid, config: GaussRenderConfig, generator: torch.Generator) -> Cameras:
    """The views that supervise this step: [B, V] sensor cameras -> [B, n] drawn and moved ones (2n for "stereo").

    Image size is reduced by ``config.image_reduction``.
    """
    place = STRATEGIES[camera_strategy(grid, config)]
    intrinsics, poses = [], []
    for k, pose in zip(cameras.intrinsics, cameras.world_to_camera, strict=True):
        index = draw_indices(cameras.views, grid, config, generator)
        placed = place(pose[index], grid, config, generator)
        poses.append(placed)
        intrinsics.append(k[index].repeat(len(placed) // len(index), 1, 1))
    chosen = Cameras(torch.stack(intrinsics), torch.stack(poses), cameras.width, cameras.height)
    return reduced(chosen, config.image_reduction)


def bev_camera(
    grid: OccupancyGrid,
    batch: int = 1,
    config: GaussRenderConfig = PAPER,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Cameras:
    """The camera that looks straight down on the grid: one view a sample, [B, 1].

    It hangs D = x_max - x_min above z = 0 (80 m Occ3D, 100 m SurroundOcc, 51.2 m KITTI-360), image x along +x and image y
    along -y of the reference frame, so depth is D - z. With a focal length of 400 px, 400 px show D metres at z = 0;
    the principal point puts the range into the image: (200, 200) on nuScenes, (0, 200) on KITTI-360. A coarser grid
    over the same range has the same camera; ``config.bev_reduction`` scales the image.
    """
    if BEV_SIZE % config.bev_reduction:
        raise ValueError(f"bev_reduction must divide {BEV_SIZE}, got {config.bev_reduction}")
    height = grid.upper[0] - grid.lower[0]
    focal = BEV_FOCAL / config.bev_reduction
    size = BEV_SIZE // config.bev_reduction
    cx, cy = -grid.lower[0] * focal / height, grid.upper[1] * focal / height
    intrinsics = torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], device=device, dtype=dtype)
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], device=device, dtype=dtype))
    pose[2, 3] = height
    return Cameras(intrinsics.expand(batch, 1, 3, 3), pose.expand(batch, 1, 4, 4), size, size)
