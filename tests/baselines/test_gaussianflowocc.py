"""GaussianFlowOcc: published parameters, what it is made of, and the behaviour of a model that can be trained here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from grids import kitti360_grid, occ3d_grid
from lift_rig import StateDict, lift_batch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.checkpoints import CheckpointError, load_resnet_pretrain
from baselines.following import FrameMissing
from baselines.gaussianflowocc import COMMIT_3248A17, FILTERED, GaussianFlowOcc, Teaching, gaussianflowocc_config
from baselines.gaussianflowocc.classes import moving_channels, rendered_classes
from baselines.gaussianflowocc.config import ATTRIBUTES, OPERATIONS, check_options
from baselines.gaussianflowocc.decoder import Cloud, InducedAttention, PointEncoding, Rectifier, seen
from baselines.gaussianflowocc.gaussians import Flow, drawn_start
from baselines.gaussianflowocc.losses import depth_loss, semantic_loss, voxel_losses
from baselines.gaussianflowocc.model import RASTER
from baselines.interface import ImageSupervision, OccupancyBatch, OccupancyGrid
from renderers import get

OCC3D = occ3d_grid()
SMALL = replace(OCC3D, lower=(-16.0, -16.0, -1.0), upper=(16.0, 16.0, 5.4), voxel_size=1.6)
FEW: dict[str, Any] = dict(
    backbone=dict(
        type="ResNet", depth=18, base_channels=8, stem_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
        out_indices=(0, 1, 2), norm_cfg=dict(type="BN", requires_grad=True), norm_eval=False, style="pytorch",
    ),
    neck=dict(type="FPN", in_channels=[8, 16, 32], out_channels=16, num_outs=3),
    gaussians=150, dim=16, heads=2, blocks=2, points=2, inducing=8, neighbourhood=2,
)  # fmt: skip
STEPS = (-1, 2, 0)


def toy(grid: OccupancyGrid = SMALL, **options: Any) -> GaussianFlowOcc:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(gaussianflowocc_config("toy", grid) | FEW | options)  # type: ignore[arg-type]


def views_of(batch: OccupancyBatch, steps: tuple[int, ...] = STEPS, width: int = 48, height: int = 32) -> ImageSupervision:
    """Random classes and depth at half the images' size; half of the pixels are not known."""
    g = torch.Generator().manual_seed(7)
    samples, cameras = batch.images.shape[:2]
    shape = (samples, len(steps), cameras, height, width)
    semantic, depth = torch.randint(0, 17, shape, generator=g), torch.rand(shape, generator=g) * 20
    semantic[torch.rand(shape, generator=g) < 0.5] = SMALL.ignore
    depth[torch.rand(shape, generator=g) < 0.5] = 0
    intrinsics = batch.intrinsics * torch.tensor([[0.5], [0.5], [1.0]])
    poses = [batch.reference_to_camera @ shifted(0.3 * step) for step in steps]
    return ImageSupervision(
        intrinsics=intrinsics[:, None].expand(-1, len(steps), -1, -1, -1),
        reference_to_camera=torch.stack(poses, dim=1),
        steps=torch.tensor(steps).expand(samples, -1),
        semantic=semantic,
        depth=depth,
        valid=torch.ones(samples, len(steps), dtype=torch.bool),
    )


def shifted(metres: float) -> Tensor:
    out = torch.eye(4)
    out[0, 3] = metres
    return out


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    plain = lift_batch(SMALL, batch=2)
    meta = [{"token": str(index), "scene": str(index), "previous": None, "to_global": torch.eye(4).numpy()} for index in range(2)]
    return replace(plain, views=views_of(plain), rays=None, depth=None, meta=meta)


@pytest.fixture(scope="module")
def model() -> GaussianFlowOcc:
    return toy().eval()


# Published parameters ----------------------------------------------------------------------------------------------


def published() -> StateDict:
    out = StateDict()
    out |= {"initial_means": (10_000, 3), "gaussian_queries": (10_000, 256)}
    out.conv("img_backbone.conv1", 64, 3, 7, 7, bias=False)
    out.norm("img_backbone.bn1", 64)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            at = f"img_backbone.layer{stage + 1}.{block}"
            for number, (outputs, own, size) in enumerate(((width, inputs, 1), (width, width, 3), (4 * width, width, 1)), 1):
                out.conv(f"{at}.conv{number}", outputs, own, size, size, bias=False)
                out.norm(f"{at}.bn{number}", outputs)
            if not block:
                out.conv(f"{at}.downsample.0", 4 * width, inputs, 1, 1, bias=False)
                out.norm(f"{at}.downsample.1", 4 * width)
            inputs = 4 * width
    for level, channels in enumerate((512, 1024, 2048)):
        out.conv(f"img_neck.lateral_convs.{level}.conv", 256, channels, 1, 1)
        out.conv(f"img_neck.fpn_convs.{level}.conv", 256, 256, 3, 3)
    out["gaussian_decoder.pos_enc.pc_range"] = (6,)
    for layer, channels in ((0, 3), (2, 256), (4, 256)):
        out.conv(f"gaussian_decoder.pos_enc.pos_enc.{layer}", 256, channels)
    out.norm("gaussian_decoder.pos_enc.pos_enc.5", 256, running=False)
    for block in range(3):
        at = f"gaussian_decoder.blocks.{block}"
        for name, outputs in (("sampling_offsets", 384), ("attention_weights", 192), ("value_proj", 256), ("output_proj", 256)):
            out.conv(f"{at}.cross_att.{name}", outputs, 256)
        out.norm(f"{at}.cross_att.ln", 256, running=False)
        out |= {f"{at}.cross_att.cams_embeds": (6, 256), f"{at}.cross_att.level_embeds": (3, 256)}
        for attention in ("temporal_attn", "self_attn"):
            out[f"{at}.{attention}.inducing_points"] = (500, 256)
            for half in ("induced", "output"):
                inner = f"{at}.{attention}.{half}"
                out |= {f"{inner}_attention.in_proj_weight": (768, 256), f"{inner}_attention.in_proj_bias": (768,)}
                out.conv(f"{inner}_attention.out_proj", 256, 256)
                for layer in (0, 2):
                    out.conv(f"{inner}_ff.{layer}", 256, 256)
                for norm in ("ln1", "ln2"):
                    out.norm(f"{inner}_{norm}", 256, running=False)
        out.conv(f"{at}.gaussian_rectifier.mean_head.0", 256, 256)
        out.conv(f"{at}.gaussian_rectifier.mean_head.2", 3, 256)
    for name, outputs in (("semantic", 16), ("opacity", 1), ("scale", 3), ("rotation", 4)):
        for layer, (wide, own) in zip((0, 2, 4), ((512, 256), (512, 512), (outputs, 512)), strict=True):
            out.conv(f"{name}_head.{layer}", wide, own)
    out["temporal_module.time_embed.weight"] = (13, 256)
    for layer, (wide, own) in zip((0, 2, 4, 6, 8), ((768, 512), *[(768, 768)] * 3, (3, 768)), strict=True):
        out.conv(f"temporal_module.ffn.{layer}", wide, own)
    return out


def test_the_paper_model_has_the_published_names_and_parameters() -> None:
    from mmdet3d.registry import MODELS

    with torch.device("meta"):
        paper = MODELS.build(gaussianflowocc_config("paper", OCC3D))
    assert {name: tuple(value.shape) for name, value in paper.state_dict().items()} == published()
    buffers = ("running_mean", "running_var", "num_batches_tracked", "pc_range")
    trained = sum(math.prod(shape) for name, shape in published().items() if not name.endswith(buffers))
    assert trained == sum(p.numel() for p in paper.parameters() if p.requires_grad) == 39_244_628


def test_the_published_start() -> None:
    """Of what is not PyTorch's own: Gaussians all over the range, heads after Kaiming, offsets that fan out, equal weights."""
    own = toy(gaussians=2000, dim=64, heads=8, neck=FEW["neck"] | {"out_channels": 64})
    lower, upper = torch.tensor(SMALL.lower), torch.tensor(SMALL.upper)
    means = own.initial_means.detach()
    assert bool(((means >= lower) & (means <= upper)).all())
    torch.testing.assert_close(means.mean(0), (lower + upper) / 2, atol=0.6, rtol=0)
    assert means.std(0).tolist() == pytest.approx(((upper - lower) / math.sqrt(12)).tolist(), rel=0.05)
    assert own.gaussian_queries.std().item() == pytest.approx(1, abs=0.02)
    first = own.opacity_head[0]
    assert first.weight.std().item() == pytest.approx(math.sqrt(2 / (1 + 0.01**2) / 64), rel=0.05) and not first.bias.any()
    attention = own.gaussian_decoder.blocks[0].cross_att
    start = attention.sampling_offsets.bias.detach().view(8, 3, 2, 2)
    assert start[0, 0].tolist() == [[1, 0], [2, 0]]
    torch.testing.assert_close(start[2, 1], torch.tensor([[0.0, 1.0], [0.0, 2.0]]), atol=1e-6, rtol=0)
    assert not any(value.any() for value in (attention.sampling_offsets.weight, *attention.attention_weights.parameters()))
    assert not own.gaussian_decoder.pos_enc.pc_range.requires_grad


def test_the_start_is_drawn_from_the_seed_alone() -> None:
    same, other = toy(), toy(camera_seed=1)
    torch.manual_seed(5)
    again = toy()
    assert same.initial_means.equal(again.initial_means) and same.gaussian_queries.equal(again.gaussian_queries)
    assert not same.initial_means.equal(other.initial_means)
    drawn = [drawn_start(SMALL, 5, 2, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert drawn[0][0].equal(drawn[1][0]) and drawn[0][1].equal(drawn[1][1])


def test_torchvisions_resnet_is_a_start(tmp_path: Any) -> None:
    own = toy()
    names = {name.removeprefix("img_backbone."): v for name, v in own.state_dict().items() if name.startswith("img_backbone.")}
    weights = {name: torch.full_like(value, 2) for name, value in names.items()} | {"fc.weight": torch.ones(10, 4)}
    torch.save(weights, tmp_path / "resnet.pth")
    load_resnet_pretrain(own, tmp_path / "resnet.pth")
    assert bool((own.img_backbone.conv1.weight == 2).all()) and not bool((own.img_neck.fpn_convs[0].conv.weight == 2).any())
    del weights["conv1.weight"]
    torch.save(weights, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"img_backbone\.conv1\.weight"):
        load_resnet_pretrain(own, tmp_path / "resnet.pth")


# Parts -------------------------------------------------------------------------------------------------------------


def test_classes_follow_from_what_is_published() -> None:
    assert rendered_classes(OCC3D, None) == tuple(range(1, 17))
    assert [number + 1 for number in moving_channels(OCC3D, range(1, 17), None)] == [2, 3, 4, 5, 6, 7, 9, 10]
    assert rendered_classes(OCC3D, []) == tuple(range(17))
    kitti = kitti360_grid()
    assert rendered_classes(kitti, None) == tuple(range(1, 19)) and moving_channels(kitti, range(1, 19), ["car"]) == [0]
    with pytest.raises(ValueError, match="name them with the option 'moving'"):
        moving_channels(kitti, range(1, 19), None)
    with pytest.raises(ValueError, match="catch_all: the grid has no class 'other'"):
        rendered_classes(OCC3D, ["other"])
    with pytest.raises(ValueError, match="nothing is left"):
        rendered_classes(OCC3D, OCC3D.class_names)


def test_a_grid_of_nobodys_needs_nothing_but_what_moves() -> None:
    plain = OccupancyGrid((-8.0, -8.0, 0.0), (8.0, 8.0, 4.0), 1.0, ("free", "wall", "robot"), empty=0)
    own = toy(plain, moving=["robot"])
    assert own.classes == (1, 2) and own.temporal_module.moving.tolist() == [1]
    assert own.initial_means.min() >= -8 and own.initial_means[:, 2].min() >= 0
    with pytest.raises(ValueError, match="unnamed: nothing is published of which classes move"):
        toy(plain)


def test_a_mean_is_encoded_by_its_place_in_the_range_unclamped() -> None:
    encoding = PointEncoding(SMALL, 8)
    place: list[Tensor] = []
    encoding.pos_enc[0].register_forward_pre_hook(lambda _, given: place.append(given[0]))
    encoding(torch.tensor([[[-16.0, 0.0, 5.4], [48.0, 0.0, 2.2]]]))
    torch.testing.assert_close(place[0], torch.tensor([[[0.0, 0.5, 1.0], [2.0, 0.5, 0.5]]]))


def test_induced_attention_is_its_formula() -> None:
    torch.manual_seed(0)
    part = InducedAttention(16, 2, 4, dropout=0.1).eval()
    q, k = torch.randn(2, 7, 16), torch.randn(2, 9, 16)

    def attend(attention: nn.MultiheadAttention, queries: Tensor, keys: Tensor) -> Tensor:
        weights, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        one, two, three = (
            F.linear(x, w, b).unflatten(-1, (2, 8)).transpose(1, 2)
            for x, w, b in zip((queries, keys, keys), weights, bias, strict=True)
        )
        shares = (one @ two.transpose(2, 3) / math.sqrt(8)).softmax(-1)
        return attention.out_proj((shares @ three).transpose(1, 2).flatten(2))

    points = part.inducing_points.expand(2, 4, 16)
    z = part.induced_ln1(attend(part.induced_attention, points, k) + points)
    h = part.induced_ln2(part.induced_ff(z) + z)
    y = part.output_ln1(attend(part.output_attention, q, h) + q)
    torch.testing.assert_close(part(q, k), part.output_ln2(part.output_ff(y) + y), rtol=1e-4, atol=1e-5)


def test_image_attention_is_the_mean_of_what_cameras_see_around_a_mean(batch: OccupancyBatch, model: GaussianFlowOcc) -> None:
    """Against bilinear samples, Gaussian by Gaussian; one that no camera sees keeps its residual alone."""
    g = torch.Generator().manual_seed(3)
    attention = model.gaussian_decoder.blocks[0].cross_att
    images = model._own(batch)
    means = torch.cat([model.initial_means.detach()[:6], torch.tensor([[0.0, 0.0, 40.0]])]).expand(2, 7, 3)
    features = torch.randn(2, 7, 16, generator=g)
    with torch.no_grad():
        found = attention(Cloud(means, features), images)
        offsets = attention.sampling_offsets(features).view(2, 7, 2, 3, 2, 2)
        weights = attention.attention_weights(features).view(2, 7, 2, 6).softmax(-1).view(2, 7, 2, 3, 2)
        total, cameras = torch.zeros(2, 7, 16), torch.zeros(2, 7, 1)
        for b, n, camera in ((b, n, c) for b in range(2) for n in range(7) for c in range(6)):
            x, y, z = (images.projection[b, camera] @ torch.cat([means[b, n], torch.ones(1)]))[:3].tolist()
            u, v = x / (z + 1e-4) / 96, y / (z + 1e-4) / 64
            if not (z > 0.01 and 0 < u < 1 and 0 < v < 1):
                continue
            cameras[b, n] += 1
            for level, maps in enumerate(images.levels):
                code = attention.cams_embeds[camera] + attention.level_embeds[level]
                value = attention.value_proj(maps[b, camera].movedim(0, -1) + code).movedim(-1, 0)
                h, w = value.shape[1:]
                for head in range(2):
                    where = torch.tensor([u, v]) + offsets[b, n, head, level] / torch.tensor([w, h])
                    sampled = F.grid_sample(value[None, 8 * head : 8 * head + 8], where[None, None] * 2 - 1, align_corners=False)
                    total[b, n, 8 * head : 8 * head + 8] += (sampled[0, :, 0] * weights[b, n, head, level]).sum(-1)
        assert cameras.max() > 1 - 1e-6 and not cameras[:, 6].any()
        expected = attention.ln(attention.output_proj(total / cameras.clamp(min=1)) + features)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_means_at_a_camera_have_finite_gradients() -> None:
    """In the camera's plane, behind it and in its centre: not seen, and without a gradient."""
    means = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, -1e-4], [0.0, 1.0, -5.0], [0.0, 0.0, 2.0]]], requires_grad=True)
    projection = torch.eye(4)
    projection[:2, 2] = 5.0
    position, inside = seen(means, projection[None, None], (10, 10))
    assert inside.flatten().tolist() == [False, False, False, True]
    torch.where(inside[..., None], position, 0.0).sum().backward()
    assert means.grad is not None and bool(torch.isfinite(means.grad).all()) and not means.grad[0, :3].any()


def test_the_rectifier_adds_metres() -> None:
    torch.manual_seed(0)
    part = Rectifier(8)
    cloud = Cloud(torch.randn(1, 5, 3) * 100, torch.randn(1, 5, 8))
    moved = part(cloud)
    torch.testing.assert_close(moved.means, cloud.means + part.mean_head(cloud.features))
    assert moved.features is cloud.features


# Switches ----------------------------------------------------------------------------------------------------------


def parts_of(own: GaussianFlowOcc) -> set[str]:
    """What of a model the switches take away."""
    names = {name.removeprefix("gaussian_decoder.blocks.0.").split(".")[0] for name, _ in own.named_parameters()}
    return names & {
        "temporal_attn",
        "self_attn",
        "cross_att",
        "gaussian_rectifier",
        "opacity_head",
        "scale_head",
        "rotation_head",
    }


ALL_PARTS = parts_of(toy())


def test_all_switches_on_is_the_published_model(batch: OccupancyBatch, model: GaussianFlowOcc) -> None:
    on = toy(operations=OPERATIONS, attributes=tuple(ATTRIBUTES)).eval()
    assert len(ALL_PARTS) == 7 and all(on.state_dict()[name].equal(value) for name, value in model.state_dict().items())
    assert on.predict(batch).logits[-1].equal(model.predict(batch).logits[-1])


@pytest.mark.parametrize(
    ("switches", "gone"),
    [
        ({"operations": ("self_att", "cross_att", "rect")}, {"temporal_attn"}),
        ({"operations": ("temporal_att", "cross_att", "rect")}, {"self_attn"}),
        ({"operations": ("cross_att", "rect")}, {"temporal_attn", "self_attn"}),
        ({"operations": ("temporal_att", "self_att", "cross_att")}, {"gaussian_rectifier"}),
        ({"attributes": ()}, {"opacity_head", "scale_head", "rotation_head"}),
        ({"attributes": ("opacity",)}, {"scale_head", "rotation_head"}),
        ({"attributes": ("opacity", "scale")}, {"rotation_head"}),
    ],
)
def test_a_switch_takes_its_part_alone_and_the_rest_learns(
    batch: OccupancyBatch, model: GaussianFlowOcc, switches: dict[str, Any], gone: set[str]
) -> None:
    own = toy(**switches)
    assert ALL_PARTS - parts_of(own) == gone
    looks_back = "temporal_attn" not in gone
    losses = own.loss(batch if looks_back else replace(batch, history=None))
    sum(losses.values()).backward()
    lacking = {name for name, p in own.named_parameters() if p.requires_grad and p.grad is None}
    assert not lacking, lacking
    own.eval()
    attributes = own.attributes(own.cloud(batch))
    if "opacity_head" in gone:
        assert bool((attributes.opacities == 1).all())
    if "scale_head" in gone:
        assert bool((attributes.scales == 0.3).all())
    if "rotation_head" in gone:
        assert bool((attributes.quaternions == torch.tensor([1.0, 0, 0, 0])).all())
    assert attributes.means.equal(own.initial_means.expand_as(attributes.means)) == ("gaussian_rectifier" in gone)
    assert not own.predict(batch).logits[-1].equal(model.predict(batch).logits[-1])


def test_without_attention_to_the_frame_before_nothing_of_it_is_seen(batch: OccupancyBatch, model: GaussianFlowOcc) -> None:
    alone = toy(operations=("self_att", "cross_att", "rect")).eval()
    assert batch.history is not None
    other = replace(batch, history=replace(batch.history, images=batch.history.images + 1))
    for own, same in ((alone, True), (model, False)):
        assert own.predict(other).logits[-1].equal(own.predict(batch).logits[-1]) == same
    first = replace(batch, history=None).one(0)
    torch.testing.assert_close(alone.predict(first).logits[-1], alone.predict(batch).logits[-1][:1], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="'history'"):
        toy().loss(replace(batch, history=None))


def test_with_self_attention_alone_a_gaussian_hears_of_the_others(batch: OccupancyBatch) -> None:
    """A change of one Gaussian's query reaches the others through attention to each other, or not at all."""
    for operations, heard in ((("self_att", "cross_att", "rect"), True), (("cross_att", "rect"), False)):
        own = toy(operations=operations).eval()
        before = own.cloud(batch).features.detach()
        with torch.no_grad():
            own.gaussian_queries[0] = own.gaussian_queries[0].flip(0)
        change = (own.cloud(batch).features.detach() - before).abs().amax(-1)
        assert bool((change[:, 0] > 1e-3).all()) and bool((change[:, 1:] > 1e-5).any()) == heard


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"operations": ("rect", "cross_att")}, "operations must be some of temporal_att, .* in this order, got rect, cross_att"),
        ({"operations": ("self_att", "rect")}, "operations must have cross_att"),
        ({"operations": ("cross_att", "ffn")}, "operations must be some of"),
        ({"attributes": ("opacity", "opacity")}, "attributes must be some of opacity, scale, rotation, each once"),
        ({"attributes": ("colour",)}, "got colour"),
    ],
)
def test_switches_that_there_are_not(switches: dict[str, Any], message: str) -> None:
    config = gaussianflowocc_config("toy", SMALL) | switches
    with pytest.raises(ValueError, match=message):
        check_options(config)
    with pytest.raises(ValueError, match=message):
        toy(**switches)


def test_only_moving_classes_move_and_not_now() -> None:
    torch.manual_seed(0)
    flow = Flow(8, horizon=6, layers=3, moving=[1, 3])
    cloud = Cloud(torch.randn(2, 5, 3), torch.randn(2, 5, 8, requires_grad=True))
    logits = F.one_hot(torch.tensor([[0, 1, 2, 3, 0], [3, 0, 0, 0, 1]]), 4).float()
    steps = torch.tensor([[0, -1, 6], [2, 0, -6]])
    means = flow(cloud, logits, steps)
    assert means.shape == (2, 3, 5, 3)
    for b, t, n in ((b, t, n) for b in range(2) for t in range(3) for n in range(5)):
        code = flow.time_embed.weight[steps[b, t] + 6]
        offset = flow.ffn(torch.cat([cloud.features[b, n], code]))
        moves = int(logits[b, n].argmax()) in (1, 3) and steps[b, t] != 0
        torch.testing.assert_close(means[b, t, n], cloud.means[b, n] + (offset if moves else 0))
    means.sum().backward()
    assert cloud.features.grad is not None and cloud.features.grad[0, 1].any() and not cloud.features.grad[0, 0].any()
    assert all(p.grad is not None for p in flow.parameters())
    flow.zero_grad()
    still = flow(cloud, logits[..., :1], steps)
    assert still.equal(cloud.means[:, None].expand_as(still))
    still.sum().backward()  # nothing moves: gradients of 0, not none, which a training on many processes waits for
    assert all(p.grad is not None and not p.grad.any() for p in flow.parameters())
    with pytest.raises(ValueError, match="views: steps must be within 6 key frames, got -7"):
        flow(cloud, logits, torch.tensor([[0, -7], [0, 1]]))


# Losses ------------------------------------------------------------------------------------------------------------


def test_losses_are_their_formulas() -> None:
    g = torch.Generator().manual_seed(0)
    logits, depth = torch.randn(4, 5, 3, generator=g), torch.rand(4, 5, generator=g) * 30
    channel = torch.randint(-1, 3, (4, 5), generator=g)
    target = torch.where(torch.rand(4, 5, generator=g) < 0.4, 0.0, torch.rand(4, 5, generator=g) * 40)
    weights = torch.tensor([0.5, 2.0, 1.5])
    terms = [
        (-math.log(math.exp(row[c]) / sum(map(math.exp, row))), weights[c].item())
        for row, c in zip(logits.flatten(0, 1).tolist(), channel.flatten().tolist(), strict=True)
        if c >= 0
    ]
    assert semantic_loss(logits, channel).item() == pytest.approx(sum(term for term, _ in terms) / len(terms), rel=1e-5)
    weighted = sum(term * weight for term, weight in terms) / len(terms)  # divided by pixels, not by weights
    assert semantic_loss(logits, channel, weights).item() == pytest.approx(weighted, rel=1e-5)
    known = [(d - t) ** 2 for d, t in zip(depth.flatten().tolist(), target.flatten().tolist(), strict=True) if t > 0]
    assert depth_loss(depth, target).item() == pytest.approx(sum(known) / len(known), rel=1e-5)
    assert semantic_loss(logits, torch.full((4, 5), -1)).item() == 0 == depth_loss(depth, torch.zeros(4, 5)).item()

    occupancy, occupied, counted = torch.rand(4, 5, generator=g), channel >= 0, torch.rand(4, 5, generator=g) < 0.7
    found = voxel_losses(occupancy, logits, channel, occupied, counted, weight=2.0)
    pairs = zip(occupancy[counted].tolist(), occupied[counted].tolist(), strict=True)
    density = [-math.log(o if true else 1 - o) for o, true in pairs]
    assert found["loss_density_3d"].item() == pytest.approx(2 * sum(density) / len(density), rel=1e-4)
    assert found["loss_semantic_3d"] == 2 * semantic_loss(logits, torch.where(counted, channel, -1))


def test_published_weightings() -> None:
    head, before = Teaching(), Teaching(**COMMIT_3248A17["teaching"])
    assert (head.semantic, head.depth) == (2.0, 0.05) and (before.semantic, before.depth) == (1.0, 0.1)
    assert COMMIT_3248A17["neighbourhood"] == 3 and gaussianflowocc_config("paper", OCC3D)["neighbourhood"] == 4
    assert Teaching(weighting="3248a17", depth_weight=0.0).semantic == 1.0
    assert sum(FILTERED[:17]) / 17 == pytest.approx(1, abs=1e-3) and len(FILTERED) == OCC3D.num_classes


def test_the_settings_are_gsplats() -> None:
    shown = {name: getattr(RASTER, name) for name in ("near", "far", "low_pass", "alpha_min", "alpha_max", "transmittance_min")}
    assert shown == {
        "near": 0.01, "far": 1e10, "low_pass": 0.3, "alpha_min": 1 / 255, "alpha_max": 0.999, "transmittance_min": 1e-4
    }  # fmt: skip
    assert (RASTER.clamp, RASTER.clamp_gradient, RASTER.depth, RASTER.background) == ("principal", False, "accumulated", None)
    assert toy(renderer="cpu").departures == {}


@pytest.mark.parametrize("renderer", ["reference", "cpu"])
def test_every_trained_parameter_gets_a_finite_gradient(batch: OccupancyBatch, renderer: str) -> None:
    if not get(renderer).availability():
        pytest.skip(f"{renderer} cannot run here")
    own = toy(renderer=renderer, teaching=dict(voxels="seen"), moving=list(SMALL.class_names[1:17])).train()
    losses = own.loss(batch)
    assert losses.keys() == {"loss_gs_sem", "loss_gs_depth", "loss_density_3d", "loss_semantic_3d"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    for name, parameter in own.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
            assert parameter.grad.any(), name


def test_losses_take_what_is_known_of_valid_moments_alone(batch: OccupancyBatch, model: GaussianFlowOcc) -> None:
    """Rendered one by one with the plain formulas; sky, unknown depth, classes without a channel and missing moments are out."""
    assert batch.views is not None
    valid = torch.tensor([[True, False, True], [False, False, True]])
    views = replace(batch.views, valid=valid, depth=batch.views.depth.clone())
    with torch.no_grad():
        found = model.loss(replace(batch, views=views))
        cloud = model.cloud(batch)
        attributes = model.attributes(cloud)
        image = model.rendered(cloud, attributes, batch.views)
    entropies, squares = [], []
    for b, t in valid.nonzero().tolist():
        own = slice(6 * t, 6 * t + 6)
        semantic, depth = views.semantic[b, t], views.depth[b, t]
        known = (semantic != 255) & (semantic != 0)
        entropies.append(F.cross_entropy(image.features[b, own][known], semantic[known] - 1, reduction="none"))
        squares.append((image.depth[b, own] - depth)[depth > 0] ** 2)
    torch.testing.assert_close(found["loss_gs_sem"], 2.0 * torch.cat(entropies).mean())
    torch.testing.assert_close(found["loss_gs_depth"], 0.05 * torch.cat(squares).mean())
    nothing = replace(views, semantic=torch.full_like(views.semantic, 255), depth=torch.zeros_like(views.depth))
    assert all(value == 0 for value in model.loss(replace(batch, views=nothing)).values())


def test_depth_may_be_divided_by_alpha(batch: OccupancyBatch) -> None:
    plain, divided = (toy(teaching=dict(normalise_depth=on)).eval() for on in (False, True))
    with torch.no_grad():
        assert plain.loss(batch)["loss_gs_depth"] != divided.loss(batch)["loss_gs_depth"]
        assert plain.loss(batch)["loss_gs_sem"] == divided.loss(batch)["loss_gs_sem"]


def test_renderings_through_time_show_each_moment(batch: OccupancyBatch) -> None:
    """One call for all moments gives what a call for each gives, with means where they are then."""
    own = toy(moving=list(SMALL.class_names[1:17])).eval()
    assert batch.views is not None
    with torch.no_grad():
        cloud = own.cloud(batch)
        attributes = own.attributes(cloud)
        together = own.rendered(cloud, attributes, batch.views)
        for t in range(len(STEPS)):
            part = {name: value[:, t : t + 1] for name, value in batch.views._tensors().items()}
            alone = own.rendered(cloud, attributes, ImageSupervision(**part))
            torch.testing.assert_close(together.features[:, 6 * t : 6 * t + 6], alone.features)
        still = replace(batch.views, steps=torch.zeros_like(batch.views.steps))
        assert not own.rendered(cloud, attributes, still).depth.allclose(together.depth)
    assert together.features.shape == (2, 18, 32, 48, 16)


def test_a_history_moves_with_the_vehicle(batch: OccupancyBatch, model: GaussianFlowOcc) -> None:
    """What the key frame is handed are the older frames' Gaussians one after the other, each where it is for the next."""
    history = batch.history
    assert history is not None
    with torch.no_grad():
        before = None
        for number in (1, 0):
            pose = history.to_reference[:, number]
            images = model._features(history.images[:, number], history.projection[:, number] @ pose[:, None])
            cloud = model.decoded(images, before)
            metres = 1.0  # lift_rig.SPEED
            before = Cloud(cloud.means - torch.tensor([metres, 0.0, 0.0]), cloud.features)
        expected = model.decoded(model._own(batch), before)
        found = model.cloud(batch)
    torch.testing.assert_close(found.means, expected.means, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.features, expected.features, rtol=1e-3, atol=1e-3)


def test_gradients_reach_all_under_autocast_too(batch: OccupancyBatch) -> None:
    """The frames without gradient come first: weights that were cast for them must not serve the key frame."""
    own = toy().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = own.loss(batch)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    lost = [name for name, p in own.named_parameters() if p.requires_grad and p.grad is None]
    assert not lost and all(bool(torch.isfinite(value)) for value in losses.values())


def test_first_biases_are_those_of_the_rendered_classes() -> None:
    own = toy()
    own.start_from_bias([float(number) for number in range(18)])
    assert own.semantic_head[-1].bias.tolist() == list(range(1, 17))
    with pytest.raises(ValueError, match="18 classes"):
        own.start_from_bias([0.0])


# Mistakes ----------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "weighting": ({"teaching": {"weighting": "main"}}, "unknown weighting 'main' .known: head, 3248a17."),
    "nothing": ({"teaching": {"semantic_weight": 0.0, "depth_weight": 0.0}}, "nothing teaches"),
    "negative": ({"teaching": {"depth_weight": -1.0}}, "depth_weight must not be negative"),
    "voxels": ({"teaching": {"voxels": "some"}}, "unknown voxels 'some'"),
    "weights": ({"teaching": {"class_weights": (1.0,) * 16}}, "one for each of the 18 classes, got 16"),
    "threshold": ({"read_out": {"threshold": 0.0}}, "threshold must lie in"),
    "heads": ({"heads": 3}, "multiple of the number of heads"),
    "scale": ({"largest_scale": 0.0}, "largest_scale positive"),
}


@pytest.mark.parametrize("options, message", OPTIONS.values(), ids=OPTIONS.keys())
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**options)


def test_options_are_checked_before_anything_is_loaded() -> None:
    from baselines.gaussianflowocc.config import check_options

    config = gaussianflowocc_config("toy", OCC3D)
    check_options(config | {"teaching": {"class_weights": FILTERED}})
    for wrong, error in (
        ({"teaching": {"rgb_weight": 1.0}}, TypeError),
        ({"teaching": {"class_weights": (1.0,)}}, ValueError),
        ({"read_out": {"faint": 2.0}}, ValueError),
    ):
        with pytest.raises(error):
            check_options(config | wrong)
    with pytest.raises(ValueError, match="unknown GaussianFlowOcc size 'mini'"):
        gaussianflowocc_config("mini", OCC3D)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes no gaussrender"):
        gaussianflowocc_config("toy", OCC3D, gaussrender={})


def broken_views(**changes: Callable[[Tensor], Tensor]) -> Callable[[OccupancyBatch], OccupancyBatch]:
    def broken(batch: OccupancyBatch) -> OccupancyBatch:
        assert batch.views is not None
        return replace(
            batch, views=replace(batch.views, **{name: change(getattr(batch.views, name)) for name, change in changes.items()})
        )

    return broken


BATCHES: dict[str, tuple[Callable[[OccupancyBatch], OccupancyBatch], str]] = {
    "no history": (lambda b: replace(b, history=None), "needs the batch's 'history'"),
    "no views": (lambda b: replace(b, views=None), "needs the batch's 'views'"),
    "no chain": (lambda b: replace(b, chain=None), "needs the batch's 'chain'"),
    "NaN depth": (broken_views(depth=lambda d: d.clone().fill_(torch.nan)), "depth must be finite"),
    "cameras": (broken_views(semantic=lambda s: s[:, :, :5]), r"must be \[2, 3, 6, 32, 48\]|semantic must be"),
    "resolution": (broken_views(depth=lambda d: d[..., :-1]), r"depth must be \[2, 3, 6, 32, 48\], got \[2, 3, 6, 32, 47\]"),
    "class": (broken_views(semantic=lambda s: torch.where(s == 3, 18, s)), "class id in 0..17 or 255, got 18"),
    "steps": (broken_views(steps=lambda s: s * 4), "steps must be within 6 key frames, got 8"),
    "own moment": (broken_views(valid=lambda v: v & torch.tensor([True, True, False])), "last moment must be the batch's own"),
    "kind": (broken_views(semantic=lambda s: s.int()), "semantic must be int64"),
}


@pytest.mark.parametrize("broken, message", BATCHES.values(), ids=BATCHES.keys())
def test_bad_batches_are_refused_by_name(
    batch: OccupancyBatch, model: GaussianFlowOcc, broken: Callable[[OccupancyBatch], OccupancyBatch], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.loss(broken(batch))


def test_more_cameras_than_codes_are_refused(batch: OccupancyBatch) -> None:
    with pytest.raises(ValueError, match="6 cameras, the model was built for 1 to 4"):
        toy(num_cameras=4).loss(batch)


def test_without_history_only_first_frames_are_answered(batch: OccupancyBatch, model: GaussianFlowOcc) -> None:
    alone = replace(batch, history=None)
    assert model.predict(alone).logits[-1].shape == (2, 18, *SMALL.shape)
    late = replace(alone, meta=[{"token": "a", "previous": None}, {"token": "b", "previous": "a"}])
    with pytest.raises(FrameMissing, match="frame b is not the first one of its scene"):
        model.predict(late)
    with pytest.raises(FrameMissing, match="frame a does not say"):
        model.predict(replace(alone, meta=[{"token": "a"}, {"token": "b"}]))
    assert model.predict(replace(late, history=batch.history)).logits[-1].shape == (2, 18, *SMALL.shape)
