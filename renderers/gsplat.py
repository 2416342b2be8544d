"""Adapter to gsplat 1.5 and 1.6 (``nerfstudio-project/gsplat``, Apache-2.0), CUDA.

Argument mapping reproduces the original rasterizer as far as gsplat can: near plane and low pass passed on, "classic"
mode, depth as the channel behind the features ("RGB+D" accumulated, "RGB+ED" expected; gsplat/rendering.py:323-340).
What gsplat has compiled in is in ``renderers.dialects``; which of its two dialects an installation speaks is measured
by a one-Gaussian render when the renderer is made.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from renderers.cuda import background_only, cuda_state, nvcc, require_float32_on, scene_at
from renderers.dialects import DIALECTS, Dialect
from renderers.interface import Availability, Cameras, Gaussians, RasterSettings, Renderer, Rendering
from renderers.registry import RendererUnavailable

# Channel counts with a compiled kernel (1.5.3: gsplat/cuda/_wrapper.py:603-647; 1.6: gsplat/cuda/include/Config.h:72).
COMPILED_1_5 = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33)
COMPILED_1_6 = (1, 2, 3, 4, 5, 6, 8, 9, 16, 17, 21, 23, 24, 32, 33)
CHUNK = 32  # channels a kernel pass when one pass cannot hold all: gsplat's own default


@dataclass(frozen=True)
class ChannelPlan:
    """How features and depth fit gsplat's compiled channel counts: zero channels to add, channels a kernel pass."""

    padding: int
    chunk: int


def plan_channels(channels: int, version: tuple[int, int]) -> ChannelPlan:
    """The plan for ``channels`` features plus one depth channel, which gsplat puts last.

    gsplat 1.6 refuses a count that it has no kernel for, and 1.5 pads such a count to a power of two by itself; both
    get a compiled count from here.
    """
    compiled = COMPILED_1_6 if version >= (1, 6) else COMPILED_1_5
    total = channels + 1
    if total <= compiled[-1]:
        fitting = min(count for count in compiled if count >= total)
        return ChannelPlan(padding=fitting - total, chunk=fitting)
    last = total % CHUNK
    fitting = min(count for count in compiled if count >= last) if last else 0
    return ChannelPlan(padding=fitting - last, chunk=CHUNK)


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) of a version string such as "1.5.3" or "1.6.0+pt24cu124"."""
    major, minor = text.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def view_groups(cameras: Cameras, alone: bool) -> list[tuple[int | None, list[int]]]:
    """The views in as few calls as gsplat allows: of each call the time, None where there is one alone, and the views.

    Views of one time are drawn together; with ``alone`` (a mask for every view: gsplat has one opacity a Gaussian for all
    cameras of a call) each by itself.
    """
    times: list[int | None] = [None] * cameras.views if cameras.time_index is None else cameras.time_index.tolist()
    groups: dict[tuple[int | None, int], list[int]] = {}
    for view, time in enumerate(times):
        groups.setdefault((time, view if alone else 0), []).append(view)
    return [(time, views) for (time, _), views in groups.items()]


class GsplatRenderer(Renderer):
    """gsplat's CUDA kernels; float32 on a CUDA device, all views of a scene and time a call (see ``view_groups``).

    Not several scenes or times as its batch, which 1.5.3 gets wrong: its packed projection culls all by the first one's opacities
    (cuda/csrc/ProjectionEWA3DGSPacked.cu:183), and gradients of Gaussians of one number are added up across the batch where they
    meet in a warp (line 592 there).

    packed       gsplat's memory layout: True stores only the visible (view, Gaussian) pairs; same numbers
    library      the gsplat package, or what stands in for it in tests; None imports it
    device_type  where the kernels run

    Raises RendererUnavailable if gsplat does not load, or renders something that no known version would.
    """

    name = "gsplat"

    def __init__(self, packed: bool = True, library: Any = None, device_type: str = "cuda") -> None:
        if library is None:
            library = importlib.import_module("gsplat")
        self.packed = packed
        self.device_type = device_type
        self._rasterization = library.rasterization
        self._version = parse_version(library.__version__)
        self.dialect = self._probe()

    @classmethod
    def availability(cls) -> Availability:
        spec = importlib.util.find_spec("gsplat")
        if spec is None:
            return Availability(False, "the package gsplat is not installed", "pip install 'gsplat>=1.5.3,<1.7'")
        version = importlib.metadata.version("gsplat")
        if not (1, 5) <= parse_version(version) < (2, 0):
            return Availability(False, f"gsplat {version} is unknown to this adapter", "pip install 'gsplat>=1.5.3,<1.7'")
        state = cuda_state()
        if not state:
            return state
        folders = [Path(folder) for folder in spec.submodule_search_locations or []]
        if any(next(folder.rglob("*.so"), None) for folder in folders):
            return Availability(True)
        if nvcc() is None:
            return Availability(
                False,
                f"gsplat {version} came without compiled kernels and there is no nvcc to build them",
                f"install a CUDA {torch.version.cuda} toolkit (nvcc on PATH), or a prebuilt wheel from "
                "https://docs.gsplat.studio/whl",
            )
        return Availability(True, "kernels are compiled at first use, which takes minutes, once a machine")

    def _probe(self) -> Dialect:
        """The dialect of this installation, told by the opacity that one saturated Gaussian leaves at its centre."""
        device = torch.device(self.device_type)
        try:
            _, alpha, _ = self._rasterization(
                means=torch.tensor([[0.0, 0.0, 2.0]], device=device),
                quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device),
                scales=torch.full((1, 3), 0.1, device=device),
                opacities=torch.ones(1, device=device),
                colors=torch.ones(1, 1, device=device),
                viewmats=torch.eye(4, device=device)[None],
                Ks=torch.tensor([[[100.0, 0.0, 8.5], [0.0, 100.0, 8.5], [0.0, 0.0, 1.0]]], device=device),
                width=16,
                height=16,
                packed=self.packed,
            )
        except Exception as error:  # a failed just-in-time build surfaces as almost any type
            first = (str(error).strip().splitlines() or ["no message"])[0]
            raise RendererUnavailable(
                f"gsplat does not run here: {type(error).__name__}: {first}. Its kernels are compiled at first use; "
                "`python -c 'from gsplat.cuda._backend import _C'` with VERBOSE=1 shows the whole build"
            ) from error
        limit = float(alpha[0, 8, 8, 0])
        for name in ("gsplat-1.5", "gsplat-1.6"):
            if abs(limit - float(DIALECTS[name].settings["alpha_max"])) < 1e-5:
                return DIALECTS[name]
        raise RendererUnavailable(
            f"gsplat {'.'.join(map(str, self._version))} renders a saturated Gaussian with alpha {limit:.5f}; "
            "known versions give 0.999 or 0.99, so this one would not be comparable"
        )

    def _render(self, gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> Rendering:
        require_float32_on(self.device_type, self.name, gaussians)
        size, (b, v) = (cameras.width, cameras.height), (gaussians.batch, cameras.views)
        drawn: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        with torch.cuda.device_of(gaussians.means):
            for scene in range(b):
                for time, views in view_groups(cameras, visible is not None):
                    chosen = scene_at(gaussians, scene, time, None if visible is None else visible[scene, views[0]])
                    if len(chosen.means) == 0:
                        images = background_only(chosen, cameras, settings)
                        drawn |= {scene * v + view: images for view in views}
                        continue
                    fields = (chosen.means, chosen.quaternions, chosen.scales, chosen.opacities, chosen.features)
                    poses, intrinsics = cameras.world_to_camera[scene, views], cameras.intrinsics[scene, views]
                    together = self._rasterize(fields, poses, intrinsics, size, settings)
                    drawn |= {scene * v + view: one for view, one in zip(views, zip(*together, strict=True), strict=True)}  # type: ignore[misc]
        in_order = zip(*(drawn[number] for number in range(b * v)), strict=True)
        return Rendering(*(torch.stack(images).unflatten(0, (b, v)) for images in in_order))

    def _rasterize(
        self,
        fields: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
        poses: Tensor,
        intrinsics: Tensor,
        size: tuple[int, int],
        settings: RasterSettings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One gsplat call: fields [N, *], poses [V, 4, 4] -> features [V, H, W, C], depth, alpha."""
        means, quaternions, scales, opacities, features = (field.contiguous() for field in fields)
        channels = features.shape[-1]
        plan = plan_channels(channels, self._version)
        image, alpha, _ = self._rasterization(
            means=means,
            quats=quaternions,
            scales=scales,
            opacities=opacities,
            colors=torch.nn.functional.pad(features, (0, plan.padding)),
            viewmats=poses.contiguous(),
            Ks=intrinsics.contiguous(),
            width=size[0],
            height=size[1],
            # gsplat keeps a Gaussian exactly at the near plane, the contract drops it
            near_plane=float(np.nextafter(np.float32(settings.near), np.float32(np.inf))),
            far_plane=settings.far,
            eps2d=settings.low_pass,
            packed=self.packed,
            render_mode="RGB+D" if settings.depth == "accumulated" else "RGB+ED",
            rasterize_mode="classic",
            channel_chunk=plan.chunk,
        )
        shown = image[..., :channels]
        # Not by gsplat: 1.5.3 takes no background with packed=True (the assertion of cuda/_wrapper.py:598 fails).
        if settings.background is not None:
            shown = shown + (1 - alpha) * settings.background
        return shown, image[..., -1], alpha[..., 0]
