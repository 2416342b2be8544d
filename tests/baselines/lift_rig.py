"""What lift-splat models read besides (chains, earlier frames, rays and depth under the rig of ``surround_rig``), and the names
of their published parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from surround_rig import surround_batch
from torch import Tensor
from torch.nn import functional as F

from baselines.interface import CameraChain, History, OccupancyBatch, OccupancyGrid, RaySupervision

SPEED = 1.0  # metres forward from one frame to the next


def forward(metres: float) -> Tensor:
    """[4, 4] key vehicle's frame -> the frame of a vehicle that is so many metres behind it."""
    out = torch.eye(4)
    out[0, 3] = metres
    return out


def random_rays(grid: OccupancyGrid, batch: int, count: int, seed: int = 0) -> RaySupervision:
    """``count`` rays of each sample from the middle of the grid, all around and slightly downwards."""
    g = torch.Generator().manual_seed(seed)
    total = batch * count
    yaw = torch.rand(total, generator=g) * 6.2832
    directions = torch.stack([yaw.cos(), yaw.sin(), -0.1 * torch.rand(total, generator=g)], dim=-1)
    semantic = torch.randint(0, grid.num_classes - 1, (total,), generator=g)
    return RaySupervision(
        origins=torch.randn(total, 3, generator=g) * 0.5 + torch.tensor([0.0, 0.0, 1.5]),
        directions=directions * (1 + torch.rand(total, 1, generator=g) * 0.3),
        depth=2 + 25 * torch.rand(total, generator=g),
        semantic=semantic + (semantic >= grid.empty).long(),
        weight=torch.ones(total),
        scene=torch.arange(batch).repeat_interleave(count),
    )


def lift_batch(
    grid: OccupancyGrid, batch: int = 1, width: int = 96, height: int = 64, frames: int = 2, rays: int = 200, seed: int = 0
) -> OccupancyBatch:
    """``surround_batch`` with all parts: neither images nor the reference frame are augmented."""
    plain = surround_batch(grid, batch, width, height, seed=seed)
    g = torch.Generator().manual_seed(seed + 1)
    cameras = plain.images.shape[1]
    square = torch.eye(3).expand(batch, cameras, 3, 3)
    chain = CameraChain(plain.intrinsics, torch.linalg.inv(plain.reference_to_camera), square, torch.eye(3).expand(batch, 3, 3))
    history = History(
        images=torch.randn(batch, frames, cameras, 3, height, width, generator=g),
        projection=torch.stack([plain.projection @ forward(SPEED * (t + 1)) for t in range(frames)], dim=1),
        to_reference=torch.stack([forward(-SPEED * (t + 1)).expand(batch, 4, 4) for t in range(frames)], dim=1),
    )
    depth = torch.rand(batch, cameras, height, width, generator=g) * 60
    depth[torch.rand(depth.shape, generator=g) > 0.05] = 0
    return replace(plain, chain=chain, history=history, rays=random_rays(grid, batch, rays, seed), depth=depth)


@dataclass(frozen=True)
class Plain:
    """Rendered rays, as far as the losses read them."""

    features: Tensor
    depth: Tensor
    alpha: Tensor
    transmittance: Tensor
    squares: Tensor
    spread: Tensor
    samples: Tensor


def plain_caster(grid: OccupancyGrid, steps: int = 48, step: float = 0.8):  # type: ignore[no-untyped-def]
    """A renderer of rays for the models' tests: equal steps, all pairs of samples; no contraction, thresholds or transform."""

    def cast(density: Tensor, features: Tensor, origins: Tensor, directions: Tensor) -> Plain:
        t = (torch.arange(steps) + 0.5) * step
        points = origins[:, None] + t[:, None] * directions[:, None]
        lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
        place = ((points - lower) / (upper - lower) * 2 - 1).flip(-1)
        values = torch.cat([density[..., None], features], dim=-1).movedim(-1, 0)[None]
        found = F.grid_sample(values, place[None, None], align_corners=False)[0, :, 0].movedim(0, -1)
        alpha = 1 - torch.exp(-0.2 * found[..., 0])
        passed = torch.cumprod(1 - alpha, dim=1)
        w = alpha * torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], dim=1)
        pairs = w[:, :, None] * w[:, None] * (t[:, None] - t).abs()
        return Plain(
            features=(w[..., None] * found[..., 1:]).sum(1),
            depth=(w * t).sum(1),
            alpha=w.sum(1),
            transmittance=passed[:, -1],
            squares=(w**2).sum(1),
            spread=pairs.sum((1, 2)),
            samples=torch.full((len(origins),), steps),
        )

    return cast


class StateDict(dict[str, tuple[int, ...]]):
    """Names and shapes of a published state dict, written out from its description."""

    def conv(self, prefix: str, outputs: int, inputs: int, *kernel: int, bias: bool = True) -> None:
        self[f"{prefix}.weight"] = (outputs, inputs, *kernel)
        if bias:
            self[f"{prefix}.bias"] = (outputs,)

    def norm(self, prefix: str, channels: int, running: bool = True) -> None:
        self[f"{prefix}.weight"] = self[f"{prefix}.bias"] = (channels,)
        if running:
            self[f"{prefix}.running_mean"] = self[f"{prefix}.running_var"] = (channels,)
            self[f"{prefix}.num_batches_tracked"] = ()

    def block3d(self, prefix: str, inputs: int, outputs: int, first: bool) -> None:
        for name, width in (("conv1", inputs), ("conv2", outputs), *([("downsample", inputs)] if first else [])):
            self.conv(f"{prefix}.{name}.conv", outputs, width, 3, 3, 3, bias=False)
            self.norm(f"{prefix}.{name}.bn", outputs)

    def camera_aware(self, net: str, width: int, context: int) -> None:
        """What of a depth network of ``width`` channels is told of the camera, and its ``context`` features."""
        self.conv(f"{net}.reduce_conv.0", width, width, 3, 3)
        self.norm(f"{net}.reduce_conv.1", width)
        self.conv(f"{net}.context_conv", context, width, 1, 1)
        self.norm(f"{net}.bn", 27)
        for kind in ("depth", "context"):
            self.conv(f"{net}.{kind}_mlp.fc1", width, 27)
            self.conv(f"{net}.{kind}_mlp.fc2", width, width)
            self.conv(f"{net}.{kind}_se.conv_reduce", width, width, 1, 1)
            self.conv(f"{net}.{kind}_se.conv_expand", width, width, 1, 1)

    def aspp(self, prefix: str, width: int, inside: int, running: bool = True) -> None:
        for branch in range(1, 5):
            size = 1 if branch == 1 else 3
            self.conv(f"{prefix}.aspp{branch}.atrous_conv", inside, width, size, size, bias=False)
            self.norm(f"{prefix}.aspp{branch}.bn", inside, running)
        self.conv(f"{prefix}.global_avg_pool.1", inside, width, 1, 1, bias=False)
        self.norm(f"{prefix}.global_avg_pool.2", inside, running)
        self.conv(f"{prefix}.conv1", width, 5 * inside, 1, 1, bias=False)
        self.norm(f"{prefix}.bn1", width, running)

    def lift_splat(self, width: int) -> None:
        """BEVStereo4D for occupancy from behind an image neck of ``width`` channels up to the voxels' features."""
        net = "img_view_transformer.depth_net"
        self.camera_aware(net, width, 32)
        for layer in (0, 2):
            self.conv(f"{net}.cost_volumn_net.{layer}", 88, 88, 3, 3)
            self.norm(f"{net}.cost_volumn_net.{layer + 1}", 88)
        for block in range(3):
            self.conv(f"{net}.depth_conv.{block}.conv1", width, width if block else width + 88, 3, 3, bias=False)
            self.norm(f"{net}.depth_conv.{block}.bn1", width)
            self.conv(f"{net}.depth_conv.{block}.conv2", width, width, 3, 3, bias=False)
            self.norm(f"{net}.depth_conv.{block}.bn2", width)
        self.conv(f"{net}.depth_conv.0.downsample", width, width + 88, 1, 1)
        self.aspp(f"{net}.depth_conv.3", width, 96)
        self.conv(f"{net}.depth_conv.4", 88, width, 1, 1)

        self.block3d("pre_process_net.layers.0.0", 32, 32, first=True)
        for stage, (blocks, inputs, outputs) in enumerate(((1, 64, 32), (2, 32, 64), (4, 64, 128))):
            for block in range(blocks):
                self.block3d(f"img_bev_encoder_backbone.layers.{stage}.{block}", outputs if block else inputs, outputs, not block)
        self.conv("img_bev_encoder_neck.conv.conv", 32, 224, 1, 1, 1, bias=False)
        self.norm("img_bev_encoder_neck.conv.bn", 32)
        self.conv("final_conv.conv", 32, 32, 3, 3, 3)
