"""Triton renderer of rays: every setting of the contract, any number of channels, exact gradients, no compiler to install.

Design, arithmetic and what is known of its speed are in ../README.md. Semantics: ``renderers.rays.reference``.
"""

from __future__ import annotations

import torch

from renderers.interface import Availability, SettingNotSupported
from renderers.rays.interface import GridField, RayRenderer, RayRendering, Rays, RaySettings
from renderers.triton import TritonRenderer, interpreting, require_float32_here

MOST_VOXELS = 2**31 - 1  # of a grid: cells are counted in int32


class TritonRayRenderer(RayRenderer):
    """Volume renderer in Triton; float32 on a CUDA device. Gradients are added up by atomic additions: in no fixed order, so
    their last bits differ from run to run. What is rendered has the same bits every time.

    With TRITON_INTERPRET=1 in the environment when Triton is first imported, it runs in Triton's interpreter, on CPU tensors:
    for tests, very slow.
    """

    name = "triton"

    @classmethod
    def availability(cls) -> Availability:
        state = TritonRenderer.availability()
        if not state or interpreting():
            return state
        return Availability(True, "kernels are compiled at first use, which takes some seconds, once a machine")

    def _render(self, rays: Rays, grid: GridField, settings: RaySettings) -> RayRendering:
        from renderers.rays.triton.op import INTERPRETED, Job, March  # imports Triton

        require_float32_here(self.name, grid.density, INTERPRETED)
        voxels = grid.density.shape[1:].numel()
        if voxels > MOST_VOXELS:
            raise SettingNotSupported(
                self.name, "density", list(grid.density.shape), f"a grid of it has {MOST_VOXELS} voxels at most; take 'reference'"
            )
        with torch.cuda.device_of(grid.density):
            return RayRendering(*March.apply(Job(rays, grid, settings), grid.density, grid.features))
