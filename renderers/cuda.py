"""What the two CUDA adapters (``gsplat``, ``diff_gauss``) share: probing the machine, and one view's Gaussians."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from renderers.interface import Availability, Cameras, Gaussians, RasterSettings, Rendering


def cuda_state() -> Availability:
    """Whether this torch can run CUDA kernels here; imports and compiles nothing."""
    if torch.version.cuda is None:
        return Availability(
            False,
            f"torch {torch.__version__} is built without CUDA",
            "install a CUDA build of torch (https://pytorch.org/get-started) on a machine with an NVIDIA GPU",
        )
    if not torch.cuda.is_available():
        return Availability(
            False,
            f"torch is built for CUDA {torch.version.cuda} but sees no GPU",
            "check `nvidia-smi` and CUDA_VISIBLE_DEVICES; the driver must support that CUDA version",
        )
    return Availability(True)


def nvcc() -> Path | None:
    """Path of the CUDA compiler that torch's extension builder would use, if there is one."""
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is not None and (Path(CUDA_HOME) / "bin" / "nvcc").is_file():
        return Path(CUDA_HOME) / "bin" / "nvcc"
    found = shutil.which("nvcc")
    return Path(found) if found else None


def require_float32_on(device_type: str, renderer: str, gaussians: Gaussians) -> None:
    """ValueError unless the Gaussians are float32 on ``device_type``, all that these kernels compute with."""
    means = gaussians.means
    if means.dtype != torch.float32:
        raise ValueError(f"renderer '{renderer}' computes in float32, means are {means.dtype}; convert them, or use 'reference'")
    if means.device.type != device_type:
        raise ValueError(
            f"renderer '{renderer}' runs on {device_type}, means are on {means.device}; move them, or use 'cpu' or 'reference'"
        )


def shapes(gaussians: Gaussians) -> tuple[Tensor, Tensor]:
    """Quaternions [B, N, 4] and scales [B, N, 3] whatever the Gaussians store; isotropic ones get no rotation."""
    b, n = gaussians.batch, gaussians.count
    if gaussians.quaternions is None:
        quaternions = gaussians.means.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(b, n, 4)
    else:
        quaternions = gaussians.quaternions
    return quaternions, gaussians.scales.expand(b, n, 3)


@dataclass(frozen=True)
class ViewGaussians:
    """The P Gaussians that one view is asked to draw.

    means [P, 3], quaternions [P, 4], scales [P, 3], opacities [P], features [P, C]; connected to the inputs' graph.
    """

    means: Tensor
    quaternions: Tensor
    scales: Tensor
    opacities: Tensor
    features: Tensor

    @property
    def nothing(self) -> Tensor:
        """A zero that depends on every input, so that an empty view still has (zero) gradients."""
        fields = (self.means, self.quaternions, self.scales, self.opacities, self.features)
        return torch.stack([(field * 0).sum() for field in fields]).sum()


ViewImages = tuple[Tensor, Tensor, Tensor]
"""Features [H, W, C], depth [H, W] and alpha [H, W] of one view."""


def view_by_view(
    gaussians: Gaussians,
    cameras: Cameras,
    settings: RasterSettings,
    visible: Tensor | None,
    draw: Callable[[ViewGaussians, Tensor, Tensor], ViewImages],
) -> Rendering:
    """Every view of every scene by itself, for kernels that take one camera a call.

    draw  (the view's Gaussians, at least one; world_to_camera [4, 4]; intrinsics [3, 3]) -> ViewImages

    A view without Gaussians shows the background and never reaches a kernel.
    """
    b, v = gaussians.batch, cameras.views
    views: list[ViewImages] = []
    with torch.cuda.device_of(gaussians.means):
        for scene in range(b):
            for view in range(v):
                chosen = select(gaussians, cameras, settings, scene, view, visible)
                if len(chosen.means) == 0:
                    views.append(background_only(chosen, cameras, settings))
                else:
                    views.append(draw(chosen, cameras.world_to_camera[scene, view], cameras.intrinsics[scene, view]))
    return Rendering(*(torch.stack(images).unflatten(0, (b, v)) for images in zip(*views, strict=True)))


def select(
    gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, scene: int, view: int, visible: Tensor | None
) -> ViewGaussians:
    """Scene ``scene`` as ``view`` sees it: its time slice, its visibility mask, and nothing beyond ``settings.far``."""
    time = None if cameras.time_index is None else int(cameras.time_index[view])
    means = gaussians.means[scene] if time is None else gaussians.means[scene, time]
    pose = cameras.world_to_camera[scene, view]
    keep = means.detach() @ pose[2, :3] + pose[2, 3] <= settings.far
    if visible is not None:
        keep &= visible[scene, view]
    return scene_at(gaussians, scene, time, keep)


def scene_at(gaussians: Gaussians, scene: int, time: int | None, keep: Tensor | None) -> ViewGaussians:
    """Scene ``scene`` at a time, None where there is one alone, of which a mask [N] keeps some, None all."""
    means = gaussians.means[scene] if time is None else gaussians.means[scene, time]
    quaternions, scales = shapes(gaussians)
    fields = (means, quaternions[scene], scales[scene], gaussians.opacities[scene], gaussians.features[scene])
    if keep is not None and not bool(keep.all()):
        index = keep.nonzero().squeeze(1)
        fields = tuple(field[index] for field in fields)  # type: ignore[assignment]
    return ViewGaussians(*fields)


def background_only(gaussians: ViewGaussians, cameras: Cameras, settings: RasterSettings) -> ViewImages:
    """A view without Gaussians."""
    size = (cameras.height, cameras.width)
    zero = gaussians.nothing.expand(*size)
    features = zero[..., None].expand(*size, gaussians.features.shape[-1])
    if settings.background is not None:
        features = features + settings.background
    return features, zero, zero
