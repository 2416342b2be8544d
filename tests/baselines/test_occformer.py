"""OccFormer: published parameters, attention in volumes, what queries are taught, and rendering as a plug-in."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from grids import kitti360_grid, surroundocc_grid
from kitti_rig import kitti_batch
from lift_rig import StateDict, lift_batch
from mmengine.registry import DefaultScope
from surround_rig import toy_grid
from torch.nn import functional as F

from baselines.checkpoints import CheckpointError, load_fcos3d_pretrain, load_released
from baselines.interface import CameraChain, OccupancyBatch, OccupancyGrid
from baselines.occformer import FRONT, RECIPE, OccFormer, occformer_config, occformer_front_config
from baselines.occformer.attention import VolumeAttention, deformable_attention_3d, middles, sine_code
from baselines.occformer.config import check_options
from baselines.occformer.decoder import scores
from baselines.occformer.encoder import DualPathBlock
from baselines.occformer.losses import Teaching, at_voxels, dice, drawn, matched, scene, set_losses, taught_voxels
from baselines.occformer.view import LoneNorm1d, LoneNorm2d, VolumeView

# The behaviour of the toy model is tested on few voxels and small images; sides that are no multiple of window or stride.
SMALL = replace(toy_grid(), lower=(-16.0, -16.0, -1.0), upper=(16.0, 16.0, 5.4), voxel_size=1.6)
FEW: dict[str, Any] = dict(
    backbone=dict(
        type="ResNet", depth=18, base_channels=8, stem_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
        out_indices=(0, 1, 2), norm_cfg=dict(type="BN", requires_grad=True), norm_eval=False, style="pytorch",
    ),
    neck=dict(type="mmdet3d.SECONDFPN", in_channels=[8, 16, 32], upsample_strides=[0.5, 1, 2], out_channels=[4, 4, 8]),
    depth=(2.0, 22.0, 2.0),
    widths=(32, 32, 32, 32),
    dim=24,
    queries=20,
    decoder_layers=2,
    decoder_heads=2,
    teaching=dict(points=200),
)  # fmt: skip
RENDERED = dict(gaussrender={"bev_reduction": 8, "image_reduction": 2}, renderer="cpu")
LAYERS = 2


def build(config: dict[str, Any]) -> OccFormer:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(config)


def toy(**options: Any) -> OccFormer:
    return build(occformer_config("toy", SMALL) | FEW | options)


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    return lift_batch(SMALL, batch=2, width=88, height=56)  # padded to 96 x 64


@pytest.fixture(scope="module")
def model() -> OccFormer:
    return toy().eval()


# Published parameters ----------------------------------------------------------------------------------------------


def published(classes: int) -> StateDict:
    """projects/configs/occformer_nusc/occformer_nusc_r101_896x1600.py behind its backbone."""
    out = StateDict()
    for level, (channels, size) in enumerate(((256, 4), (512, 2), (1024, 1), (2048, 2))):
        shape = (128, channels) if level < 2 else (channels, 128)  # from the third on transposed
        out[f"img_neck.deblocks.{level}.0.weight"] = (*shape, size, size)
        out.norm(f"img_neck.deblocks.{level}.1", 128)

    net, width = "img_view_transformer.depth_net", 512
    out.camera_aware(net, width, 128)
    for block in range(3):
        for number in (1, 2):
            out.conv(f"{net}.depth_conv.{block}.conv{number}", width, width, 3, 3, bias=False)
            out.norm(f"{net}.depth_conv.{block}.bn{number}", width)
    out.aspp(f"{net}.depth_conv.3", width, width)
    out.conv(f"{net}.depth_conv.4", width, width // 4, 3, 3, bias=False)
    out.conv(f"{net}.depth_conv.4.conv_offset", 18, width, 3, 3)
    out.conv(f"{net}.depth_conv.5", 112, width, 1, 1)

    inputs = 128
    for stage, width in enumerate((128, 256, 512, 1024)):
        for block in range(2):
            at = f"img_bev_encoder_backbone.layers.{stage}.{block}"
            out.conv(f"{at}.input_conv.0", width, inputs, 3, 3, 3, bias=False)
            out.norm(f"{at}.input_conv.1", width, running=False)
            if stage and not block:
                out.conv(f"{at}.downsample.0", width, inputs, 1, 1, 1, bias=False)
                out.norm(f"{at}.downsample.1", width, running=False)
            inputs = width
            out[f"{at}.bev_encoder.attn.w_msa.relative_position_bias_table"] = (13 * 13, width // 32)
            out[f"{at}.bev_encoder.attn.w_msa.relative_position_index"] = (49, 49)
            out.conv(f"{at}.bev_encoder.attn.w_msa.qkv", 3 * width, width)
            out.conv(f"{at}.bev_encoder.attn.w_msa.proj", width, width)
            out.conv(f"{at}.bev_encoder.ffn.layers.0.0", width, width)
            out.conv(f"{at}.bev_encoder.ffn.layers.1", width, width)
            for number in (1, 2):
                out.norm(f"{at}.bev_encoder.norm{number}", width, running=False)
            for name, one, other in (("input_conv", width // 4, width), ("output_conv", width, width // 4)):
                out.conv(f"{at}.aspp.{name}.0", one, other, 1, 1, bias=False)
                out.norm(f"{at}.aspp.{name}.1", one, running=False)
            out.aspp(f"{at}.aspp.aspp", width // 4, width // 4, running=False)
            out.conv(f"{at}.combine_coeff", 1, width, 1, 1, 1)

    neck, dim = "img_bev_encoder_neck", 192
    for level, channels in enumerate((1024, 512, 256)):
        out.conv(f"{neck}.input_convs.{level}.conv", dim, channels, 1, 1, 1)
        out.norm(f"{neck}.input_convs.{level}.gn", dim, running=False)
    for layer in range(6):
        at = f"{neck}.encoder.layers.{layer}"
        for name, outputs in (("sampling_offsets", 288), ("attention_weights", 96), ("value_proj", dim), ("output_proj", dim)):
            out.conv(f"{at}.attentions.0.{name}", outputs, dim)
        feedforward(out, at, dim, 4 * dim, norms=2)
    out[f"{neck}.level_encoding.weight"] = (3, dim)
    for name, channels, size in (("lateral_convs", 128, 1), ("output_convs", dim, 3)):
        out.conv(f"{neck}.{name}.0.conv", dim, channels, size, size, size, bias=False)
        out.norm(f"{neck}.{name}.0.gn", dim, running=False)
    out.conv(f"{neck}.mask_feature", dim, dim, 1, 1, 1)

    head = "pts_bbox_head"
    for layer in range(9):
        at = f"{head}.transformer_decoder.layers.{layer}"
        for number in (0, 1):
            out[f"{at}.attentions.{number}.attn.in_proj_weight"] = (3 * dim, dim)
            out[f"{at}.attentions.{number}.attn.in_proj_bias"] = (3 * dim,)
            out.conv(f"{at}.attentions.{number}.attn.out_proj", dim, dim)
        feedforward(out, at, dim, 8 * dim, norms=3)
    out.norm(f"{head}.transformer_decoder.post_norm", dim, running=False)
    out[f"{head}.query_embed.weight"] = out[f"{head}.query_feat.weight"] = (100, dim)
    out[f"{head}.level_embed.weight"] = (3, dim)
    out.conv(f"{head}.cls_embed", classes + 1, dim)
    for layer in (0, 2, 4):
        out.conv(f"{head}.mask_embed.{layer}", dim, dim)
    return out


def feedforward(out: StateDict, at: str, dim: int, hidden: int, norms: int) -> None:
    out.conv(f"{at}.ffns.0.layers.0.0", hidden, dim)
    out.conv(f"{at}.ffns.0.layers.1", dim, hidden)
    for number in range(norms):
        out.norm(f"{at}.norms.{number}", dim, running=False)


def on_paper(config: dict[str, Any]) -> OccFormer:
    """Without memory for its values, but where mmdet's EfficientNet computes rates of drop path with a tensor."""
    with patch("torch.linspace", functools.partial(torch.linspace, device="cpu")), torch.device("meta"):
        return build(config)


def count(module: torch.nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def test_the_paper_model_has_the_published_names() -> None:
    paper = on_paper(occformer_config("paper", surroundocc_grid()))
    names = {name: tuple(value.shape) for name, value in paper.state_dict().items()}
    behind = {name: shape for name, shape in names.items() if not name.startswith("img_backbone.")}
    assert behind == published(17)
    assert len(names) - len(behind) == 676  # of a ResNet-101 with DCNv2 in its last two stages
    assert count(paper.img_backbone, trained=True) == 43_977_150
    assert (count(paper), count(paper, trained=True)) == (167_773_192, 167_445_448)


def test_the_model_for_one_camera_has_an_efficientnet() -> None:
    paper = on_paper(occformer_front_config("paper", kitti360_grid()))
    assert count(paper.img_backbone) == 66_347_960 - 2_561_000  # EfficientNet-B7 without its classifier
    assert paper.img_view_transformer.depth_net.reduce_conv[0].weight.shape == (640, 640, 3, 3)
    assert count(paper) == count(paper, trained=True) == 202_678_748
    # 1 / ln(voxels), as published for SemanticKITTI, with the empty class at 1; and of no class.
    assert paper.query_weights.shape == (20,)


def test_queries_are_weighted_as_published() -> None:
    grid = kitti360_grid(coarsen=4)
    alike = build(occformer_config("toy", grid) | FEW)
    assert alike.query_weights.tolist() == pytest.approx([1.0] * 19 + [0.1])
    own = build(occformer_front_config("toy", grid) | FEW | dict(teaching=dict(class_weighted=True)))
    weights = torch.tensor(grid.published.class_weights)
    torch.testing.assert_close(own.query_weights, torch.cat([weights / weights[0], torch.tensor([0.1])]))
    assert 1.8 < own.query_weights[3] < 1.9  # motorcycles


def test_released_weights_load_without_what_says_where_the_grid_is(tmp_path: Path) -> None:
    donor, own = toy(), toy()
    for parameter in donor.parameters():
        torch.nn.init.normal_(parameter)
    places = {f"img_view_transformer.{name}": torch.ones(3) for name in ("dx", "bx", "nx", "frustum")}
    torch.save({"state_dict": donor.state_dict() | places}, tmp_path / "a.pth")
    assert load_released(own, tmp_path / "a.pth") == []
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in donor.state_dict().items())


def test_weights_without_rendering_need_permission_where_there_is_rendering(tmp_path: Path) -> None:
    torch.save({"state_dict": toy().state_dict()}, tmp_path / "a.pth")
    rendered = toy(**RENDERED)
    with pytest.raises(CheckpointError, match="trained without rendering"):
        load_released(rendered, tmp_path / "a.pth")
    left = load_released(rendered, tmp_path / "a.pth", allow_missing_renderer=True)
    assert len(left) == 7 and all(name.startswith(("renderer.", "renderer_prep.")) for name in left)


def test_a_backbone_starts_from_mmpretrains(tmp_path: Path) -> None:
    donor, own = toy(), toy()
    torch.nn.init.normal_(donor.img_backbone.conv1.weight)
    state = {f"backbone.{name}": value for name, value in donor.img_backbone.state_dict().items()}
    torch.save({"state_dict": state | {"head.fc.weight": torch.ones(2, 2)}}, tmp_path / "a.pth")
    loaded = load_fcos3d_pretrain(own, tmp_path / "a.pth")
    assert all(name.startswith("img_backbone.") for name in loaded)
    assert torch.equal(own.img_backbone.conv1.weight, donor.img_backbone.conv1.weight)


def test_what_it_reads() -> None:
    for recipe, weights in ((RECIPE, "r101_dcn_fcos3d_pretrain.pth"), (FRONT, "efficientnet-b7")):
        assert recipe.parts(training=False) == {"chain": (0,)}
        assert recipe.parts(training=True) == {"chain": (0,), "depth": (0,)}
        assert recipe.first_weights["paper"].file.startswith(weights)
    assert (RECIPE.augmentation, FRONT.augmentation) == ("bevdet", "bevdet-images")


# Attention in volumes ----------------------------------------------------------------------------------------------


def trilinear(volume: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """volume [D, X, Y, Z] at place (x, y, z) in voxels from the first one's middle; zeros outside."""
    total = volume.new_zeros(len(volume))
    low = place.floor()
    for corner in itertools.product((0, 1), repeat=3):
        at = low + torch.tensor(corner)
        weight = (1 - (place - at).abs()).prod()
        if all(0 <= int(i) < n for i, n in zip(at, volume.shape[1:], strict=True)):
            total = total + weight * volume[:, int(at[0]), int(at[1]), int(at[2])]
    return total


def test_deformable_attention_takes_weighted_trilinear_samples() -> None:
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 2), (2, 2, 1)]
    b, q, h, d, p = 2, 5, 2, 3, 2
    value = torch.randn(b, 28, h, d, generator=g)
    locations = torch.rand(b, q, h, 2, p, 3, generator=g) * 1.4 - 0.2
    weights = torch.rand(b, q, h, 2, p, generator=g)
    found = deformable_attention_3d(value, shapes, locations, weights)
    levels = value.split([24, 4], dim=1)
    for i, j, k in itertools.product(range(b), range(q), range(h)):
        expected = torch.zeros(d)
        for level, shape in enumerate(shapes):
            volume = levels[level][i, :, k].T.reshape(d, *shape)
            for point in range(p):
                place = locations[i, j, k, level, point].flip(0) * torch.tensor(shape) - 0.5
                expected = expected + weights[i, j, k, level, point] * trilinear(volume, place)
        torch.testing.assert_close(found[i, j, k * d : (k + 1) * d], expected, atol=1e-5, rtol=1e-4)


def test_deformable_attention_says_what_does_not_fit() -> None:
    value, locations, weights = torch.zeros(1, 8, 2, 3), torch.zeros(1, 4, 2, 1, 2, 3), torch.zeros(1, 4, 2, 1, 2)
    with pytest.raises(ValueError, match=r"value must be \[B, 12, heads, D\]"):
        deformable_attention_3d(value, [(3, 2, 2)], locations, weights)
    with pytest.raises(ValueError, match=r"locations must be \[1, Q, 2, 1, points, 3\]"):
        deformable_attention_3d(value, [(2, 2, 2)], locations[..., :2], weights)
    with pytest.raises(ValueError, match=r"weights must be \[1, 4, 2, 1, 2\]"):
        deformable_attention_3d(value, [(2, 2, 2)], locations, weights[:, :3])


def test_attention_starts_by_looking_around() -> None:
    """Each head into its own direction, a voxel further with each point; half of a voxel of 2 is a quarter of the volume."""
    attention = VolumeAttention(8, num_heads=4, num_levels=1, num_points=2)
    bias = attention.sampling_offsets.bias.view(4, 1, 2, 3)
    torch.testing.assert_close(bias[0, 0], torch.tensor([[1.0, 0.0, 0.5], [2.0, 0.0, 1.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(bias[1, 0, 0], torch.tensor([0.0, 1.0, 0.5]), atol=1e-6, rtol=0)
    assert not attention.attention_weights.weight.any() and not attention.sampling_offsets.weight.any()
    shape = (2, 4, 3)
    places = middles(shape, torch.device("cpu"))
    assert places.shape == (24, 3)
    torch.testing.assert_close(places[(1 * 4 + 2) * 3 + 0], torch.tensor([0.5 / 3, 2.5 / 4, 1.5 / 2]))


def test_codes_are_sines_of_the_place() -> None:
    code = sine_code((4, 3, 2), 12, torch.device("cpu")).view(4, 3, 2, 3, 4)
    angle = 2 * torch.pi * 3 / 4  # the third of four along x
    expected = torch.tensor([angle, angle, angle / 100, angle / 100])
    expected = torch.stack([expected[0].sin(), expected[1].cos(), expected[2].sin(), expected[3].cos()])
    torch.testing.assert_close(code[2, 1, 1, 0], expected, atol=1e-4, rtol=0)
    assert torch.equal(code[2, 0, 0, 0], code[2, 2, 1, 0]) and torch.equal(code[0, 1, 0, 1], code[3, 1, 1, 1])


@pytest.mark.parametrize("shift", [False, True])
def test_the_block_treats_every_slice_and_their_mean_alike(shift: bool) -> None:
    torch.manual_seed(0)
    block = DualPathBlock(32, 64, 2, shift, groups=8, window=7, drop_path=0.0, dropout=0.0).eval()
    volume = torch.randn(2, 32, 17, 16, 5)
    local = block.input_conv(volume)
    assert local.shape == (2, 64, 9, 8, 3)

    def attended(flat: torch.Tensor) -> torch.Tensor:
        return block.bev_encoder(flat.flatten(2).transpose(1, 2), (9, 8)).transpose(1, 2).unflatten(2, (9, 8))

    slices = torch.stack([attended(local[..., z]) for z in range(3)], dim=-1)
    flat = block.aspp(attended(local.mean(dim=-1)))
    gate = torch.einsum("c,bcxyz->bxyz", block.combine_coeff.weight.view(64), slices) + block.combine_coeff.bias
    expected = slices + gate.sigmoid()[:, None] * flat[..., None] + block.downsample(volume)
    torch.testing.assert_close(block(volume), expected, atol=1e-4, rtol=1e-4)


def test_windows_do_not_see_each_other_unless_they_are_moved() -> None:
    torch.manual_seed(0)
    still, moved = (
        DualPathBlock(32, 32, 1, shift, groups=8, window=7, drop_path=0.0, dropout=0.0).double().eval().bev_encoder
        for shift in (False, True)
    )
    tokens = torch.randn(1, 14 * 14, 32, dtype=torch.float64)
    other = tokens.clone().view(1, 14, 14, 32)
    other[0, 6, 6] *= -1  # in the first window, and within a moved one with its neighbours behind
    changed = [
        ((own(tokens, (14, 14)) - own(other.flatten(1, 2), (14, 14))).abs().sum(-1) > 1e-12).view(14, 14)
        for own in (still, moved)
    ]
    assert changed[0][:7, :7].all() and not changed[0][7:].any() and not changed[0][:, 7:].any()
    assert changed[1][3:10, 3:10].all() and not changed[1][:3].any() and not changed[1][10:].any()


# Lifting -----------------------------------------------------------------------------------------------------------


def test_depths_are_taught_late_as_published() -> None:
    views = [VolumeView(SMALL.coarsened(2), 8, 8, (2.0, 58.0, 0.5), 2, 0.0, True, late) for late in (True, False)]
    depth = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0)) * 65
    depth[depth < 1] = 0
    # get_downsampled_gt_depth of ViewTransformerLSSVoxel.py, a step at a time
    cells = depth.view(20, 2, 20, 2).permute(0, 2, 1, 3).reshape(400, 4)
    nearest = cells.where(cells != 0, torch.tensor(1e5)).amin(dim=1)
    place = (nearest - (2.0 - 0.25)) / 0.5
    place = place.where((place < 113) & (place >= 0), torch.tensor(0.0))
    one_hot = F.one_hot(place.long(), 113)[:, 1:]
    expected = one_hot.argmax(dim=1).where(one_hot.any(dim=1), torch.tensor(-1))
    assert torch.equal(views[0].depth_targets(depth).flatten(), expected)
    early = ((nearest - 2.0) / 0.5).floor()
    early = early.where((early >= 0) & (early < 112), torch.tensor(-1.0)).long()
    assert torch.equal(views[1].depth_targets(depth).flatten(), early)


def test_a_single_image_of_a_single_camera_trains() -> None:
    """Where a channel has one value, PyTorch's norm refuses to train; this one takes it into its mean."""
    for norm, shape in ((LoneNorm1d(3), (1, 3)), (LoneNorm2d(3), (1, 3, 1, 1))):
        plain = type(norm).__mro__[2](3)
        x = torch.tensor([500.0, -3.0, 0.0]).view(shape).requires_grad_()
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            plain(x)
        out = norm(x)
        out.sum().backward()
        torch.testing.assert_close(norm.running_mean, torch.tensor([50.0, -0.3, 0.0]))
        torch.testing.assert_close(out.flatten(), torch.tensor([450.0, -2.7, 0.0]), atol=0.01, rtol=1e-4)
        assert norm.weight.grad is not None and x.grad is not None
        many = torch.randn(4, *shape[1:], generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(norm(many), plain(many))
        torch.testing.assert_close(norm.eval()(x), F.batch_norm(x, norm.running_mean, norm.running_var))


# Answers -----------------------------------------------------------------------------------------------------------


def test_logits_are_logarithms_of_what_the_queries_say(model: OccFormer, batch: OccupancyBatch) -> None:
    prediction = model.extract(batch)
    assert [tuple(logits.shape) for logits in prediction.logits] == [(2, 18, *SMALL.shape)]
    assert len(prediction.classes) == len(prediction.masks) == LAYERS + 1 and prediction.features is None
    assert prediction.masks[-1].shape == (2, 20, 10, 10, 2)
    fine = F.interpolate(prediction.masks[-1], SMALL.shape, mode="trilinear")
    voxel = (1, slice(None), 3, 7, 2)
    score = torch.zeros(18)
    for query in range(20):
        share = prediction.classes[-1][1, query].softmax(0)
        score = score + share[:18] / (1 + torch.exp(-fine[1, query, 3, 7, 2]))
    torch.testing.assert_close(prediction.logits[0][voxel], torch.log(score + 1e-6), atol=1e-5, rtol=1e-4)
    published = toy(corners=True).eval().extract(batch)
    corner = torch.log(scores(published.classes[-1], published.masks[-1]) + 1e-6)
    torch.testing.assert_close(published.logits[0][..., 0, 0, 0], corner[..., 0, 0, 0])
    torch.testing.assert_close(published.logits[0][..., -1, -1, -1], corner[..., -1, -1, -1])


def test_samples_do_not_know_of_each_other(model: OccFormer, batch: OccupancyBatch) -> None:
    both = model.predict(batch).logits[0]
    for number in range(2):
        torch.testing.assert_close(model.predict(batch.one(number)).logits[0][0], both[number], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_queries_look_where_their_masks_are(model: OccFormer) -> None:
    """A coarse voxel is looked at if any within it is in the mask, and all of them if none is."""
    masks = torch.full((1, 2, 4, 4, 2), -1.0)
    masks[0, 0, 3, 0, 1] = 0.5
    hidden = model.pts_bbox_head._hidden(masks, (2, 2, 1))
    assert hidden.shape == (model.pts_bbox_head.heads, 2, 4)
    for head in hidden:
        assert head.tolist() == [[True, True, False, True], [False] * 4]


# What teaches ------------------------------------------------------------------------------------------------------


def test_rare_classes_are_drawn_more_often() -> None:
    labels = torch.tensor([0] * 16 + [1] + [2] * 4 + [255] * 3)
    own = scene(labels, labels, 0.0, 255, balance=0.5)
    assert own.present.tolist() == [0, 1, 2] and own.known.tolist() == [True] * 21 + [False] * 3
    assert own.rare.tolist() == [1.0] * 16 + [4.0] + [2.0] * 4 + [0.0] * 3
    seen = labels.clone()
    seen[8:21] = 255  # the first half of the first class is in sight
    mixed = scene(labels, seen, 0.75, 255, balance=0.5)
    torch.testing.assert_close(mixed.rare[:8].sum(), torch.tensor(0.75 + 0.25 * 8 / 28))
    torch.testing.assert_close(mixed.rare.sum(), torch.tensor(1.0))
    alone = scene(labels, seen, 1.0, 255, balance=0.5)
    assert alone.present.tolist() == [0] and alone.rare.tolist() == [1.0] * 8 + [0.0] * 16
    nothing = scene(torch.full((4,), 255), torch.full((4,), 255), 0.0, 255, 0.25)
    assert not len(nothing.present) and not nothing.rare.any()


def test_draws_follow_their_weights_and_nothing_else() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0, 1.0])
    g = torch.Generator().manual_seed(0)
    assert sorted(drawn(weights, 10, g).tolist()) == [1, 2, 4]
    firsts = torch.cat([drawn(weights, 1, g) for _ in range(2000)]).bincount(minlength=5) / 2000
    torch.testing.assert_close(firsts, weights / 5, atol=0.04, rtol=0)
    assert not len(drawn(weights, 0, g)) and not len(drawn(0 * weights, 3, g))
    again = [drawn(weights, 2, torch.Generator().manual_seed(3)).tolist() for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize("corners", [False, True])
def test_masks_are_read_at_voxels(corners: bool) -> None:
    masks = torch.randn(3, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    shape = (8, 8, 4)
    fine = F.interpolate(masks[None], shape, mode="trilinear", align_corners=corners)[0]
    voxels = torch.tensor([0, 5, 100, 255, 17])
    torch.testing.assert_close(at_voxels(masks, voxels, shape, corners), fine.flatten(1)[:, voxels], atol=1e-5, rtol=1e-5)


def test_queries_are_matched_at_the_least_cost() -> None:
    g = torch.Generator().manual_seed(0)
    classes, masks = torch.randn(4, 6, generator=g), torch.randn(4, 30, generator=g)
    present = torch.tensor([1, 2, 4])
    truth = torch.rand(3, 30, generator=g) < 0.4
    teaching = Teaching(class_weight=2.0, mask_weight=5.0, dice_weight=3.0)

    def cost(query: int, number: int) -> float:
        logit, own = masks[query], truth[number].float()
        share = torch.exp(logit) / (1 + torch.exp(logit))
        entropy = -(own * share.log() + (1 - own) * (1 - share).log()).mean()
        overlap = 1 - (2 * (share * own).sum() + 1) / (share.sum() + own.sum() + 1)
        return float(5 * entropy + 3 * overlap - 2 * classes[query].softmax(0)[present[number]])

    best = min(itertools.permutations(range(4), 3), key=lambda queries: sum(cost(q, n) for n, q in enumerate(queries)))
    with DefaultScope.overwrite_default_scope("mmdet3d"):  # in which a process may be
        queries, numbers = matched(classes, masks, present, truth, teaching)
    assert {int(n): int(q) for q, n in zip(queries, numbers, strict=True)} == dict(enumerate(best))
    with pytest.raises(ValueError, match="not finite: the training has diverged"):
        matched(classes * torch.nan, masks, present, truth, teaching)


def test_what_masks_are_least_sure_of_teaches_them() -> None:
    g = torch.Generator().manual_seed(0)
    masks = torch.randn(2, 4, 4, 2, generator=g)
    labels = torch.randint(0, 3, (256,), generator=g)
    labels[:50] = 255
    own = scene(labels, labels, 0.0, 255, 0.25)
    teaching = Teaching(points=40, oversampling=10.0, uncertain=0.75)  # candidates are all that is known
    voxels, values = taught_voxels(masks, own, (8, 8, 4), False, teaching, g)
    assert voxels.shape == values.shape == (2, 40) and (labels[voxels] != 255).all()
    fine = F.interpolate(masks[None], (8, 8, 4), mode="trilinear")[0].flatten(1)
    torch.testing.assert_close(values, fine.gather(1, voxels), atol=1e-5, rtol=1e-5)
    known = fine[:, 50:].abs().sort(dim=1).values[:, 29]
    assert (values[:, :30].abs() <= known[:, None] + 1e-5).all()
    assert torch.equal(voxels[0, 30:], voxels[1, 30:])
    unsure = taught_voxels(masks, own, (8, 8, 4), False, replace(teaching, uncertain=1.0), g)[1]
    torch.testing.assert_close(unsure.abs(), fine[:, 50:].abs().sort(dim=1).values[:, :40], atol=1e-5, rtol=1e-5)


def test_the_losses_of_queries_are_those_of_their_classes() -> None:
    """With every voxel taught once the three terms can be written out."""
    g = torch.Generator().manual_seed(0)
    classes = torch.randn(2, 5, 4, generator=g)
    masks = torch.randn(2, 5, 3, 3, 2, generator=g)
    labels = torch.randint(0, 3, (2, 18), generator=g)
    labels[1][labels[1] == 2] = 255  # a sample without a class, some of it unknown
    scenes = [scene(own, own, 0.0, 255, 0.25) for own in labels]
    teaching = Teaching(points=18, uncertain=0.0)
    weights = torch.tensor([1.0, 2.0, 3.0, 0.1])
    found = set_losses(classes, masks, scenes, (3, 3, 2), weights, False, teaching, torch.Generator().manual_seed(1))
    entropy, overlap, total, target = 0.0, 0.0, 0.0, torch.full((2, 5), 3)
    for sample, own in enumerate(scenes):
        known = own.known
        truth = labels[sample][known] == own.present[:, None]
        flat = masks[sample].flatten(1)[:, known]
        for query, number in zip(*matched(classes[sample], flat, own.present, truth, teaching), strict=True):
            name = int(own.present[number])
            target[sample, query] = name
            share, wanted = flat[query].sigmoid(), truth[number].float()
            entropy += weights[name] * F.binary_cross_entropy(share, wanted)
            overlap += weights[name] * (1 - (2 * (share * wanted).sum() + 1) / (share.sum() + wanted.sum() + 1))
            total += weights[name]
    named = -classes.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    torch.testing.assert_close(found["cls"], 2 * (weights[target] * named).sum() / weights[target].sum())
    torch.testing.assert_close(found["mask"], 5 * entropy / total)
    torch.testing.assert_close(found["dice"], 5 * overlap / total)
    certain = torch.tensor([[30.0, -30.0, -30.0]])
    assert float(dice(certain, torch.tensor([[1.0, 0.0, 0.0]]))) == pytest.approx(0.0, abs=1e-6)


def test_a_scene_of_which_nothing_is_known_teaches_that_queries_are_of_no_class(batch: OccupancyBatch) -> None:
    own = toy().train()
    unknown = replace(batch, labels=torch.full_like(batch.labels, SMALL.ignore))
    losses = own.loss(unknown)
    assert losses["loss_mask"] == losses["loss_dice"] == 0 and losses["loss_cls"] > 0
    sum(losses.values()).backward()  # type: ignore[union-attr]


def test_voxels_that_are_not_evaluated_teach_nothing(model: OccFormer, batch: OccupancyBatch) -> None:
    mask = torch.rand(batch.labels.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    masked = replace(batch, camera_mask=mask)
    other = replace(masked, labels=batch.labels.where(mask, torch.zeros(()).long()))
    with torch.no_grad():
        prediction = model.extract(batch)
        found, again = (model.occupancy_losses(prediction, one) for one in (masked, other))
        assert all(torch.equal(again[name], value) for name, value in found.items())
        all_teach = toy(teaching=dict(points=200, masked=False)).eval()
        different = [all_teach.occupancy_losses(prediction, one)["loss_mask"] for one in (masked, other)]
    assert not torch.equal(*different)


def test_voxels_out_of_sight_teach_by_their_share(batch: OccupancyBatch) -> None:
    sight = torch.rand(batch.labels.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    seen = replace(batch, sight=sight)
    other = replace(seen, labels=batch.labels.where(sight, torch.zeros(()).long()))
    for in_sight, alike in ((1.0, True), (0.5, False), (0.0, False)):
        own = toy(loss={"in_sight": in_sight}).eval()
        with torch.no_grad():
            prediction = own.extract(batch)
            found = [own.occupancy_losses(prediction, one)["loss_mask"] for one in (seen, other)]
        assert torch.equal(*found) == alike
    with pytest.raises(ValueError, match="in_sight=0.5 needs 'sight'"):
        toy(loss={"in_sight": 0.5}).loss(batch)


def names(layers: int) -> set[str]:
    suffixes = ["", *(f"_layer{number}" for number in range(layers))]
    return {f"loss_{term}{suffix}" for term in ("cls", "mask", "dice") for suffix in suffixes} | {"loss_lss_depth"}


@pytest.mark.parametrize("rendered", [False, True])
def test_every_parameter_gets_a_gradient(batch: OccupancyBatch, rendered: bool) -> None:
    own = toy(checkpointing=rendered, **RENDERED if rendered else {}).train()
    for layer in own.img_bev_encoder_neck.encoder.layers:  # which start at 0, and let nothing through to the codes
        torch.nn.init.normal_(layer.attentions[0].sampling_offsets.weight, std=0.01)
    losses = own.loss(batch)
    images = {f"loss_render_{name}" for name in ("image", "depth", "bev", "bev_depth")}
    assert losses.keys() == names(LAYERS) | (images if rendered else set())
    sum(losses.values()).backward()  # type: ignore[union-attr]
    lost = [name for name, p in own.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lost and all(torch.isfinite(value) for value in losses.values())


def test_rendered_losses_reach_the_images(batch: OccupancyBatch) -> None:
    """Where images alone teach, neither voxels nor LiDAR points do."""
    own = toy(gaussrender=RENDERED["gaussrender"] | {"with_occupancy": False}).train()  # type: ignore[operator]
    losses = own.loss(replace(batch, depth=None))
    assert all(name.startswith("loss_render_") for name in losses) and len(losses) == 4
    sum(losses.values()).backward()  # type: ignore[union-attr]
    touched = {name for name, p in own.named_parameters() if p.grad is not None and p.grad.any()}
    wanted = {"img_backbone.conv1.weight", "pts_bbox_head.cls_embed.bias", "renderer_prep.decoder.mlp_coarse.4.weight"}
    assert wanted <= touched


def test_rendering_changes_no_prediction(model: OccFormer, batch: OccupancyBatch) -> None:
    rendered = toy(**RENDERED).eval()
    rendered.load_state_dict(model.state_dict(), strict=False)
    prediction = rendered.predict(batch)
    torch.testing.assert_close(prediction.logits[0], model.predict(batch).logits[0])
    assert prediction.features is not None and prediction.features.shape == (2, 24, *SMALL.shape)


def test_the_same_seed_draws_the_same_voxels_and_another_iteration_others(batch: OccupancyBatch) -> None:
    own, other = toy(camera_seed=3).train(), toy(camera_seed=3).train()
    first, second = own.loss(batch), other.loss(batch)
    assert all(torch.equal(second[name], value) for name, value in first.items())
    other.set_progress(1, 0)
    assert not torch.equal(other.loss(batch)["loss_mask"], first["loss_mask"])


def test_training_lowers_the_loss(batch: OccupancyBatch) -> None:
    own = toy().train()
    optimizer = torch.optim.AdamW(own.parameters(), lr=2e-3)
    totals = []
    for _ in range(6):
        total = torch.stack(list(own.loss(batch).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.9 * totals[0]


def test_autocast_reaches_no_further_than_the_images(batch: OccupancyBatch) -> None:
    own = toy().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = own.extract(batch)
        losses = own.occupancy_losses(prediction, batch)
    assert prediction.logits[0].dtype == torch.float32
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())


def test_one_camera_trains_on_an_image_of_any_size() -> None:
    grid: OccupancyGrid = kitti360_grid(coarsen=8)
    plain = kitti_batch(grid, width=88, height=24)
    chain = CameraChain(
        plain.intrinsics, torch.linalg.inv(plain.reference_to_camera), torch.eye(3).expand(1, 1, 3, 3), torch.eye(3)[None]
    )
    own = build(occformer_front_config("toy", grid) | FEW | dict(rgb=True)).train()
    losses = own.loss(replace(plain, chain=chain))
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert own.img_backbone.conv1.weight.grad is not None and own.img_backbone.conv1.weight.grad.any()


def test_classes_start_alike() -> None:
    own = toy()
    own.start_from_bias([0.1 * number for number in range(18)])
    assert not own.pts_bbox_head.cls_embed.bias.any()
    with pytest.raises(ValueError, match="a bias for each of the 18 classes"):
        own.start_from_bias([0.0])


def test_wrong_input_is_named(model: OccFormer, batch: OccupancyBatch) -> None:
    with pytest.raises(ValueError, match="OccFormer needs the batch's 'chain'"):
        model.predict(replace(batch, chain=None))
    with pytest.raises(ValueError, match=r"images must be \[B, V, 3, H, W\]"):
        model.predict(replace(batch, images=batch.images[:, :, :1], chain=None, history=None))
    with pytest.raises(ValueError, match="OccFormer's lss_depth loss needs the batch's 'depth'"):
        model.loss(replace(batch, depth=None))
    assert "loss_lss_depth" not in toy(lss_depth_weight=0.0).loss(replace(batch, depth=None))
    with pytest.raises(ValueError, match="unknown OccFormer size 'huge'"):
        occformer_config("huge", SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be coarsened by 2"):
        toy(grid=replace(SMALL, upper=(16.0, 16.0, 7.0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(widths=(32, 48, 64, 96)), "must be multiples of 32"),
        (dict(widths=(32, 32)), "widths and blocks must be one of each for 4 stages"),
        (dict(dim=20), "dim 20 must be a multiple of 6"),
        (dict(queries=10), "queries must be at least as many as the 18 classes, got 10"),
        (dict(depth=(2.0, 21.0, 2.0)), "depth must be"),
        (dict(neck=FEW["neck"] | dict(out_channels=[4, 4, 5])), "must be a multiple of 4, they are 13"),
        (dict(loss={"class_weights": [1.0]}), "class_weights must be 18 numbers"),
        (dict(teaching=dict(uncertain=2.0)), "uncertain within 0..1"),
        (dict(teaching=dict(no_object=-1.0)), "no_object must not be negative"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**options)


def test_options_are_checked_before_anything_is_loaded() -> None:
    check_options({"teaching": None})
    with pytest.raises(TypeError, match="pionts"):
        check_options({"teaching": {"pionts": 3}})
    with pytest.raises(ValueError, match="points and oversampling must be at least 1"):
        check_options({"teaching": {"points": 0}})
