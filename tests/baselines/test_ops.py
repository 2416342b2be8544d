"""Deformable attention and convolution: every path gives the same numbers, forward and backward."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from baselines.ops import ModulatedDeformConv2dPack, deformable_attention, modulated_deform_conv2d

SHAPES = [(5, 7), (3, 4), (1, 2)]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def attention_inputs(dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    value = torch.randn(2, sum(h * w for h, w in SHAPES), 3, 5, generator=g, dtype=dtype)
    # Some locations lie outside the maps and some far away, as anchors behind a camera do.
    locations = torch.rand(2, 11, 3, len(SHAPES), 4, 2, generator=g, dtype=dtype) * 1.6 - 0.3
    locations[0, 0, 0, 0, 0] = 1e7
    weights = torch.randn(2, 11, 3, len(SHAPES), 4, generator=g, dtype=dtype)
    return [t.requires_grad_() for t in (value, locations, weights)]


def literal_attention(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """The definition, one sample at a time."""
    batch, _, heads, dim = value.shape
    out = torch.zeros(batch, locations.shape[1], heads, dim, dtype=value.dtype)
    for b, q, h, level, p in torch.cartesian_prod(*(torch.arange(n) for n in weights.shape)).tolist():
        height, width = SHAPES[level]
        start = sum(a * c for a, c in SHAPES[:level])
        x, y = (locations[b, q, h, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        for row in range(height):
            for col in range(width):
                share = max(0.0, 1 - abs(x - col)) * max(0.0, 1 - abs(y - row))
                out[b, q, h] += weights[b, q, h, level, p] * share * value[b, start + row * width + col, h]
    return out.flatten(2)


def test_second_derivatives_are_right_or_refused() -> None:
    found = {}
    for backend in ("grid_sample", "numba"):
        inputs = attention_inputs(torch.float64)
        out = deformable_attention(inputs[0], SHAPES, *inputs[1:], backend=backend)
        try:
            (slope,) = torch.autograd.grad(out.sum(), inputs[0], create_graph=True)
            (found[backend],) = torch.autograd.grad(slope.pow(2).sum(), inputs[2])
        except NotImplementedError as error:
            assert "backend 'numba' has no second derivatives" in str(error) and "'grid_sample'" in str(error)
    assert list(found) == ["grid_sample"] and found["grid_sample"].abs().max() > 0


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    probe = torch.cos(torch.arange(out.numel(), dtype=out.dtype)).reshape(out.shape)
    return [out, *torch.autograd.grad((out * probe).sum(), inputs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_paths_agree(dtype: torch.dtype) -> None:
    inputs = attention_inputs(dtype)
    value, locations, weights = inputs
    results = {
        name: with_gradients(deformable_attention(value, SHAPES, locations, weights, name), inputs)
        for name in ("numba", "grid_sample")
    }
    for a, b in zip(results["numba"], results["grid_sample"], strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 10)


def test_attention_is_its_definition() -> None:
    value, locations, weights = (t.detach() for t in attention_inputs(torch.float64, seed=1))
    expected = literal_attention(value, locations, weights)
    for name in ("numba", "grid_sample"):
        torch.testing.assert_close(deformable_attention(value, SHAPES, locations, weights, name), expected)


def test_attention_gradcheck() -> None:
    g = torch.Generator().manual_seed(2)
    value = torch.randn(1, 11, 2, 2, generator=g, dtype=torch.float64, requires_grad=True)
    locations = torch.rand(1, 2, 2, 2, 2, 2, generator=g, dtype=torch.float64).mul(0.9).add(0.05).requires_grad_()
    weights = torch.randn(1, 2, 2, 2, 2, generator=g, dtype=torch.float64, requires_grad=True)

    def function(*inputs: Tensor) -> Tensor:
        return deformable_attention(inputs[0], [(3, 3), (1, 2)], *inputs[1:], backend="numba")

    assert torch.autograd.gradcheck(function, (value, locations, weights))


def test_attention_does_not_depend_on_threads() -> None:
    value, locations, weights = attention_inputs(torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = deformable_attention(value, SHAPES, locations, weights, "numba")
            results.append(with_gradients(out, [value, locations, weights]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_attention_names_the_wrong_argument() -> None:
    value, locations, weights = attention_inputs(torch.float32)
    with pytest.raises(ValueError, match=r"value must be \[B, 49, heads, D\]"):
        deformable_attention(value[:, :-1], SHAPES, locations, weights)
    with pytest.raises(ValueError, match="locations must be"):
        deformable_attention(value, SHAPES, locations[..., :1], weights)
    with pytest.raises(ValueError, match="weights must be"):
        deformable_attention(value, SHAPES, locations, weights[..., :1])
    with pytest.raises(ValueError, match="unknown deformable attention backend 'cuda'"):
        deformable_attention(value, SHAPES, locations, weights, "cuda")
    with pytest.raises(ValueError, match="runs on CUDA only"):
        deformable_attention(value, SHAPES, locations, weights, "mmcv")


def convolution_inputs(dtype: torch.dtype, stride: int, dilation: int, groups: int, deform_groups: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(3)
    size = (6 // stride + 1, 8 // stride + 1)  # padding equals dilation
    shapes = [(2, 4, 7, 9), (2, deform_groups * 18, *size), (2, deform_groups * 9, *size), (6, 4 // groups, 3, 3), (6,)]
    tensors = [torch.randn(*s, generator=g, dtype=dtype) for s in shapes]
    tensors[1] *= 2.0
    return [t.requires_grad_() for t in tensors]


PATHS = ["mmcv"] + (["torchvision"] if importlib.util.find_spec("torchvision") else [])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stride,dilation,groups,deform_groups", [(1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 2, 2)])
def test_convolution_paths_agree(
    path: str, dtype: torch.dtype, stride: int, dilation: int, groups: int, deform_groups: int
) -> None:
    pytest.importorskip("mmcv.ops", reason="mmcv was installed without its ops")
    inputs = convolution_inputs(dtype, stride, dilation, groups, deform_groups)
    results = [
        with_gradients(modulated_deform_conv2d(*inputs, stride, dilation, dilation, groups, name), inputs)
        for name in (path, "grid_sample")
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype] * 10, atol=TOLERANCE[dtype] * 20)


def test_convolution_without_offsets_is_a_convolution() -> None:
    x, offset, mask, weight, bias = (t.detach() for t in convolution_inputs(torch.float64, 2, 1, 1, 1))
    out = modulated_deform_conv2d(x, offset * 0, mask * 0 + 1, weight, bias, 2, 1, 1, 1, "grid_sample")
    torch.testing.assert_close(out, torch.nn.functional.conv2d(x, weight, bias, stride=2, padding=1))


def test_layer_has_the_parameters_of_mmcvs_and_its_numbers() -> None:
    mmcv_ops = pytest.importorskip("mmcv.ops", reason="mmcv was installed without its ops")
    torch.manual_seed(0)
    theirs = mmcv_ops.ModulatedDeformConv2dPack(4, 6, 3, stride=2, padding=1, deform_groups=2, bias=False)
    torch.nn.init.normal_(theirs.conv_offset.weight, std=0.5)
    ours = ModulatedDeformConv2dPack(4, 6, 3, stride=2, padding=1, deform_groups=2, bias=False)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_convolution_errors_name_the_backend() -> None:
    inputs = convolution_inputs(torch.float32, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="unknown deformable convolution backend 'cudnn'"):
        modulated_deform_conv2d(*inputs, 1, 1, 1, 1, "cudnn")
