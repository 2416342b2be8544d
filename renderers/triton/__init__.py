"""Triton renderer: every setting of the contract, any number of channels in one pass, no compiler to install.

Design, arithmetic and what is known of its speed are in README.md beside this file. Semantics: ``renderers.reference``.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from renderers.cuda import cuda_state
from renderers.dialects import Dialect
from renderers.interface import Availability, Cameras, Gaussians, RasterSettings, Renderer, Rendering, SettingNotSupported

Precision = Literal["ieee", "tf32x3", "tf32"]
INTERPRETER = "TRITON_INTERPRET"  # Triton's own variable, read when it is imported


def interpreting() -> bool:
    """Whether Triton, once it is imported, interprets kernels."""
    return os.environ.get(INTERPRETER) == "1"


def require_float32_here(renderer: str, tensor: Tensor, interpreted: bool) -> None:
    """SettingNotSupported unless an input of the kernels is float32 where they run."""
    device = "cpu" if interpreted else "cuda"
    if tensor.dtype != torch.float32:
        raise SettingNotSupported(renderer, "dtype", tensor.dtype, "it computes in float32; pass .float() or take 'reference'")
    if tensor.device.type != device:
        hint = f"it runs on {device} here; move the tensors, or take 'cpu' or 'reference'"
        raise SettingNotSupported(renderer, "device", str(tensor.device), hint)


class TritonRenderer(Renderer):
    """N-channel renderer in Triton; float32 on a CUDA device, all views and scenes in one call.

    precision      of the matrix products: "ieee" computes in float32; "tf32x3" splits every factor in three products on
                   tensor cores, about float32's accuracy; "tf32" rounds factors to 10 bits of mantissa: weights, features and
                   gradients are off by up to 5e-4 of their size
    deterministic  the same bits in every run: gradients by a fixed order of additions instead of atomic ones, and no kernel
                   chosen by timing; None does what ``torch.use_deterministic_algorithms`` says

    With TRITON_INTERPRET=1 in the environment when Triton is first imported, it runs in Triton's interpreter, on CPU tensors:
    for tests, slow, and exact in any ``precision``.
    """

    name = "triton"
    # The exponent is rounded once more (times log2 e, up to 8), and the GPU's 2^x is good to 2^-22.5.
    dialect = Dialect("triton", exp_error=5e-7)

    def __init__(self, precision: Precision = "ieee", deterministic: bool | None = None) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        self.precision = precision
        self.deterministic = deterministic

    @classmethod
    def availability(cls) -> Availability:
        package = importlib.util.find_spec("triton")
        if package is None:
            remedy = "pip install 'triton>=3.4,<4' (Linux); CUDA builds of torch bring their own"
            return Availability(False, "the package triton is not installed", remedy)
        own = Path(__file__).resolve().parents[1]
        if package.origin and own in Path(package.origin).resolve().parents:
            folder = Path(package.origin).resolve().parents[1].relative_to(own.parent)
            reason = f"the folder {folder}/ is on Python's path, where a module of it hides the package triton"
            return Availability(False, reason, "run from the checkout's root with `python -m renderers.<module>`")
        if interpreting():
            return Availability(True, f"in Triton's interpreter on the CPU, as {INTERPRETER}=1 says: for tests, very slow")
        state = cuda_state()
        if not state:
            return Availability(
                False, f"it needs a CUDA device, and {state.reason}", f"{state.remedy}; for tests set {INTERPRETER}=1"
            )
        return Availability(True, "kernels are compiled and tuned at first use, which takes a minute, once a machine")

    def _render(self, gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> Rendering:
        from renderers.triton.op import INTERPRETED, Job, Splat  # imports Triton

        g = gaussians
        require_float32_here(self.name, g.means, INTERPRETED)
        deterministic = self.deterministic
        if deterministic is None:
            deterministic = torch.are_deterministic_algorithms_enabled()
        job = Job(cameras, settings, visible, self.precision, deterministic)
        with torch.cuda.device_of(g.means):
            features, depth, alpha = Splat.apply(
                job, g.means, g.scales, g.quaternions, g.opacities, g.features, settings.background
            )
        if settings.depth == "expected":
            depth = depth / alpha.clamp_min(1e-10)
        return Rendering(features, depth, alpha)
