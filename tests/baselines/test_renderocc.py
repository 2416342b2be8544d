"""RenderOcc: published parameters, what teaches it, and the behaviour of a model that can be trained here."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lift_rig import Plain, StateDict, lift_batch, plain_caster, random_rays
from surround_rig import toy_grid
from torch import Tensor
from torch.nn import functional as F

from baselines.checkpoints import CheckpointError, load_bevdet_pretrain, load_released
from baselines.interface import CameraChain, History, OccupancyBatch, OccupancyGrid, RaySupervision
from baselines.lss.geometry import VECTOR_LENGTH
from baselines.published import Published
from baselines.renderocc import MENDED, RenderOcc, Teaching, renderocc_config
from baselines.renderocc.losses import DEPTH_FLOOR, ray_losses, silog, voxel_losses
from baselines.renderocc.rendering import Scene, ray_settings
from baselines.renderocc.splats import images_of, splatter

OCC3D = OccupancyGrid((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.4, tuple(f"c{i}" for i in range(18)), empty=17, dataset="occ3d")

# The behaviour of the toy model is tested on few voxels and small images.
SMALL = replace(toy_grid(), lower=(-16.0, -16.0, -1.0), upper=(16.0, 16.0, 5.4), voxel_size=1.6)
FEW: dict[str, Any] = dict(
    backbone=dict(
        type="StereoResNet", depth=18, base_channels=8, stem_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
        out_indices=(0, 1, 2), norm_cfg=dict(type="BN", requires_grad=True), norm_eval=False, style="pytorch",
    ),
    image_channels=(16 + 32, 16),
    depth=(1.0, 21.0, 2.0),
    aspp=4,
    channels=8,
)  # fmt: skip


def build(size: str, grid: OccupancyGrid, **options: Any) -> RenderOcc:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(renderocc_config(size, grid) | options)  # type: ignore[arg-type]


def toy(grid: OccupancyGrid = SMALL, **options: Any) -> RenderOcc:
    return build("toy", grid, **(FEW | dict(renderer=plain_caster(grid, steps=24)) | options))


@pytest.fixture(scope="module")
def paper() -> RenderOcc:
    """The published model without memory for its values, but where mmdet's Swin computes rates of drop path with a tensor."""
    linspace = functools.partial(torch.linspace, device="cpu")
    with patch("torch.linspace", linspace), torch.device("meta"):
        return build("paper", OCC3D)


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    return lift_batch(SMALL, batch=2)


@pytest.fixture(scope="module")
def model() -> RenderOcc:
    return toy().eval()


# Published parameters ----------------------------------------------------------------------------------------------


def published() -> StateDict:
    out = StateDict()
    swin = "img_backbone"
    out.conv(f"{swin}.patch_embed.projection", 128, 3, 4, 4)
    out.norm(f"{swin}.patch_embed.norm", 128, running=False)
    for stage, (blocks, heads) in enumerate(((2, 4), (2, 8), (18, 16), (2, 32))):
        width = 128 << stage
        for block in range(blocks):
            at = f"{swin}.stages.{stage}.blocks.{block}"
            out.norm(f"{at}.norm1", width, running=False)
            out[f"{at}.attn.w_msa.relative_position_bias_table"] = (23 * 23, heads)
            out[f"{at}.attn.w_msa.relative_position_index"] = (144, 144)
            out.conv(f"{at}.attn.w_msa.qkv", 3 * width, width)
            out.conv(f"{at}.attn.w_msa.proj", width, width)
            out.norm(f"{at}.norm2", width, running=False)
            out.conv(f"{at}.ffn.layers.0.0", 4 * width, width)
            out.conv(f"{at}.ffn.layers.1", width, 4 * width)
        if stage < 3:
            out.norm(f"{swin}.stages.{stage}.downsample.norm", 4 * width, running=False)
            out.conv(f"{swin}.stages.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
    out.norm(f"{swin}.norm2", 512, running=False)
    out.norm(f"{swin}.norm3", 1024, running=False)

    for layer, inputs in ((0, 512 + 1024), (3, 512)):
        out.conv(f"img_neck.conv.{layer}", 512, inputs, 3, 3, bias=False)
        out.norm(f"img_neck.conv.{layer + 1}", 512)

    out.lift_splat(512)
    for name, outputs in (("density", 2), ("semantic", 17)):
        out.conv(f"{name}_mlp.0", 64, 32)
        out.conv(f"{name}_mlp.2", outputs, 64)
    out["semantic_loss.weight"] = (17,)
    out |= {f"nerf_head.{name}": (3,) for name in ("scene_center", "scene_radius", "xyz_min", "xyz_max")}
    out["nerf_head.act_shift"] = (1,)
    return out


def test_the_paper_model_has_the_published_names(paper: RenderOcc) -> None:
    assert {name: tuple(value.shape) for name, value in paper.state_dict().items()} == published()


def test_the_paper_model_has_the_published_parameters(paper: RenderOcc) -> None:
    buffers = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")
    trained = {
        n: s for n, s in published().items() if not n.startswith(("nerf_head.", "semantic_loss.")) and not n.endswith(buffers)
    }
    assert sum(math.prod(shape) for shape in trained.values()) == 121_280_297
    assert sum(p.numel() for p in paper.parameters() if p.requires_grad) == 121_280_297
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in paper.named_children()}
    # A Swin-B without its classifier, less the first two stages' norms, which are no outputs here.
    assert counts["img_backbone"] == 86_879_608 and counts["img_view_transformer"] == 20_715_262


def test_constants_of_the_published_scene() -> None:
    scene = Scene.of(OCC3D)
    buffers = scene.published_buffers()
    assert buffers["scene_center"] == pytest.approx([0, 0, 2.2]) and buffers["scene_radius"] == [39.0] * 3
    assert buffers["xyz_max"] == pytest.approx([40 / 39, 40 / 39, 0.08])
    assert buffers["xyz_min"] == pytest.approx([-40 / 39, -40 / 39, -0.08])
    assert buffers["act_shift"] == pytest.approx([-13.81551], abs=1e-5)
    assert scene.steps == 391 and scene.steps // 15 == 26
    weights = torch.tensor(renderocc_config("paper", OCC3D)["class_weights"])
    torch.testing.assert_close(weights[[0, 2, 11, 16]], torch.tensor([0.0716, 0.0823, 0.0521, 0.0533]), atol=5e-5, rtol=0)
    with pytest.raises(ValueError, match="no room for rays"):
        Scene.of(replace(OCC3D, lower=(-0.8, -0.8, -1.0), upper=(0.8, 0.8, 5.4)))


def test_rays_are_rendered_as_published() -> None:
    published_settings = pytest.importorskip("renderers.rays.published")
    scene = Scene.of(OCC3D)
    settings, wanted = ray_settings(scene, Teaching()), published_settings.RENDEROCC
    assert settings.with_(skip=None, sampler=wanted.sampler) == wanted.with_(skip=None)
    assert settings.skip.distance == pytest.approx(wanted.skip.distance)
    assert settings.sampler.centre == pytest.approx(wanted.sampler.centre)
    assert (settings.sampler.radius, settings.sampler.shell) == (wanted.sampler.radius, wanted.sampler.shell)
    assert (settings.sampler.inner, settings.sampler.outer) == (wanted.sampler.inner, wanted.sampler.outer)
    for corner, published_corner in zip((scene.lower, scene.upper), published_settings.RENDEROCC_RANGE, strict=True):
        assert corner == pytest.approx(published_corner)
    assert ray_settings(scene, Teaching(**MENDED)).skip is None  # type: ignore[arg-type]


# Weights -----------------------------------------------------------------------------------------------------------


def test_released_weights_load_by_name(tmp_path: Path) -> None:
    """Saved as mmcv does with SyncBN and EMA; those of another range are refused."""
    donor, other = toy(), toy()
    for parameter in donor.parameters():
        torch.nn.init.normal_(parameter)
    content = {"epoch": 12, "state_dict": donor.state_dict(), "updates": 31_000, "meta": {"epoch": 12}}
    torch.save(content, tmp_path / "renderocc-7frame-12e.pth")
    assert load_released(other, tmp_path / "renderocc-7frame-12e.pth") == []
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in donor.state_dict().items())
    moved = donor.state_dict() | {"nerf_head.scene_center": torch.tensor([0.0, 0.0, 1.0])}
    torch.save({"state_dict": moved}, tmp_path / "moved.pth")
    with pytest.raises(CheckpointError, match="made for another range: nerf_head.scene_center"):
        load_released(other, tmp_path / "moved.pth")


def test_a_detector_is_a_start(tmp_path: Path) -> None:
    """BEVDet's depths and volume are others: what has the same shape is taken, backbone and neck must be."""
    donor, start = toy(depth=(1.0, 31.0, 2.0)), toy()
    for parameter in donor.parameters():
        torch.nn.init.normal_(parameter)
    torch.save({"state_dict": donor.state_dict()}, tmp_path / "bevdet.pth")
    loaded = load_bevdet_pretrain(start, tmp_path / "bevdet.pth")
    assert "img_view_transformer.depth_net.reduce_conv.0.weight" in loaded
    assert "img_view_transformer.depth_net.depth_conv.4.weight" not in loaded
    assert torch.equal(start.img_neck.conv[0].weight, donor.img_neck.conv[0].weight)
    headless = {name: value for name, value in donor.state_dict().items() if name != "img_neck.conv.3.weight"}
    torch.save({"state_dict": headless}, tmp_path / "headless.pth")
    with pytest.raises(CheckpointError, match=r"img_neck\.conv\.3\.weight"):
        load_bevdet_pretrain(start, tmp_path / "headless.pth")


# Parts of the batch ------------------------------------------------------------------------------------------------


def test_parts_must_belong_to_the_images(batch: OccupancyBatch) -> None:
    assert batch.chain is not None and batch.history is not None and batch.rays is not None
    with pytest.raises(ValueError, match=r"CameraChain: image must be \[2, 6, 3, 3\]"):
        replace(batch, chain=replace(batch.chain, image=batch.chain.image[:1]))
    with pytest.raises(ValueError, match=r"History: images must be \[2, 2, 6, 3, 64, 96\]"):
        replace(batch, history=replace(batch.history, images=batch.history.images[..., :-1]))
    with pytest.raises(ValueError, match=r"RaySupervision: depth must be \[400\]"):
        replace(batch, rays=replace(batch.rays, depth=batch.rays.depth[1:]))
    with pytest.raises(ValueError, match=r"scene must be within 0\.\.1, got 0\.\.2"):
        replace(batch, rays=replace(batch.rays, scene=batch.rays.scene * 2))
    with pytest.raises(ValueError, match="semantic must be int64"):
        replace(batch, rays=replace(batch.rays, semantic=batch.rays.semantic.float()))
    with pytest.raises(ValueError, match="depth must be positive and finite"):
        replace(batch, rays=replace(batch.rays, depth=batch.rays.depth * 0))
    for wrong in (0.0, torch.nan):
        with pytest.raises(ValueError, match="must be finite, and no direction 0"):
            replace(batch, rays=replace(batch.rays, directions=batch.rays.directions * wrong))


def test_parts_go_to_devices_with_their_batch(batch: OccupancyBatch) -> None:
    moved = batch.to("meta")
    for part in (moved.chain, moved.history, moved.rays):
        assert part is not None and all(value.device.type == "meta" for value in part._tensors().values())
    assert moved.depth is not None and moved.depth.device.type == "meta" and moved.meta == batch.meta


def test_parts_of_batches_join() -> None:
    one, two = lift_batch(SMALL, 1, seed=1), lift_batch(SMALL, 2, seed=2)
    rays = RaySupervision.joined([one.rays, two.rays], [1, 2])  # type: ignore[list-item]
    assert rays.scene.unique().tolist() == [0, 1, 2] and len(rays.depth) == 600
    torch.testing.assert_close(rays.depth[rays.scene == 2], two.rays.depth[two.rays.scene == 1])  # type: ignore[union-attr]
    history = History.joined([one.history, two.history], [1, 2])  # type: ignore[list-item]
    assert torch.equal(history.images[1:], two.history.images)  # type: ignore[union-attr]


# Losses ------------------------------------------------------------------------------------------------------------


def rendered(seed: int = 0, rays: int = 7, classes: int = 4) -> tuple[Plain, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    values = Plain(
        features=torch.randn(rays, classes, generator=g),
        depth=torch.rand(rays, generator=g) * 20 + 1,
        alpha=torch.rand(rays, generator=g),
        transmittance=torch.rand(rays, generator=g),
        squares=torch.rand(rays, generator=g),
        spread=torch.rand(rays, generator=g) * 10,
        samples=torch.randint(1, 30, (rays,), generator=g),
    )
    return values, torch.rand(rays, generator=g) * 30 + 1, torch.randint(0, classes, (rays,), generator=g)


@pytest.mark.parametrize("mended", [False, True])
def test_the_losses_of_rays_are_a_loop(mended: bool) -> None:
    teaching = Teaching(**(MENDED if mended else {}))  # type: ignore[arg-type]
    values, depth, semantic = rendered()
    weight = torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0, 3.0, 1.0])
    class_weights = torch.tensor([0.5, 1.0, 2.0, 0.25])
    losses = ray_losses(values, depth, semantic, weight, class_weights, 39.0, teaching)
    total = weight.sum().item()
    first = second = entropy = distortion = sem = counted = 0.0
    for r, w in enumerate(weight.tolist()):
        d = math.log(values.depth[r].item() + DEPTH_FLOOR) - math.log(depth[r].item())
        first, second = first + w * d / total, second + w * d * d / total
        p = min(max(values.transmittance[r].item(), 1e-6), 1 - 1e-6)
        entropy -= w / total * (p * math.log(p) + (1 - p) * math.log(1 - p))
        samples = values.samples[r].item() if mended else values.samples.sum().item()
        distortion += w / total * (values.squares[r].item() / 3 / samples + values.spread[r].item() / 39)
        logits = values.features[r] / (values.alpha[r] if mended else 1)
        c = int(semantic[r])
        sem -= w * class_weights[c].item() * logits.log_softmax(-1)[c].item()
        counted += w * class_weights[c].item()
    assert losses["loss_render_depth"].item() == pytest.approx(math.sqrt(second - 0.85 * first**2), rel=1e-4)
    assert losses["loss_render_semantic"].item() == pytest.approx(sem / counted, rel=1e-4)
    assert losses["loss_sdf_entropy"].item() == pytest.approx(0.01 * entropy, rel=1e-4)
    assert losses["loss_sdf_distortion"].item() == pytest.approx(0.01 * distortion, rel=1e-4)


def test_equal_weights_are_the_published_means() -> None:
    values, depth, semantic = rendered(1)
    class_weights = torch.tensor([0.5, 1.0, 2.0, 0.25])
    losses = ray_losses(values, depth, semantic, torch.full((7,), 3.0), class_weights, 39.0, Teaching())
    expected = F.cross_entropy(values.features, semantic, weight=class_weights)
    torch.testing.assert_close(losses["loss_render_semantic"], expected)
    d = (values.depth + DEPTH_FLOOR).log() - depth.log()
    torch.testing.assert_close(losses["loss_render_depth"], ((d**2).mean() - 0.85 * d.mean() ** 2).sqrt())


def test_a_perfect_depth_has_a_gradient() -> None:
    depth = torch.tensor([3.0, 4.0], requires_grad=True)
    silog(depth, depth.detach().clone(), torch.tensor([0.5, 0.5])).backward()
    assert depth.grad is not None and torch.isfinite(depth.grad).all()


def test_terms_without_weight_are_left_out() -> None:
    values, depth, semantic = rendered()
    teaching = Teaching(depth_weight=0.0, entropy_weight=0.0, distortion_weight=0.0, semantic_weight=2.0)
    losses = ray_losses(values, depth, semantic, torch.ones(7), torch.ones(4), 39.0, teaching)
    assert losses.keys() == {"loss_render_semantic"}
    torch.testing.assert_close(losses["loss_render_semantic"], 2 * F.cross_entropy(values.features, semantic))


@pytest.mark.parametrize("empty", [0, 2])
def test_losses_on_voxels(empty: int) -> None:
    torch.manual_seed(0)
    density, semantic = torch.randn(1, 2, 2, 2, 2), torch.randn(1, 2, 2, 2, 3)
    labels = torch.tensor([0, 1, 2, 3, empty, 255, 1, 3]).view(1, 2, 2, 2)
    counted = labels != 255
    counted[0, 0, 0, 0] = False
    weights = torch.tensor([1.0, 2.0, 3.0])
    losses = voxel_losses(density, semantic, labels, counted, empty, weights, 0.5)
    geometry, kind, total, number = 0.0, 0.0, 0.0, 0
    others = [c for c in range(4) if c != empty]
    for x, y, z in counted[0].nonzero().tolist():
        label = int(labels[0, x, y, z])
        geometry -= density[0, x, y, z].log_softmax(-1)[int(label == empty)].item()
        number += 1
        if label != empty:
            c = others.index(label)
            kind -= weights[c].item() * semantic[0, x, y, z].log_softmax(-1)[c].item()
            total += weights[c].item()
    assert losses["loss_3d_geo"].item() == pytest.approx(0.5 * geometry / number, rel=1e-4)
    assert losses["loss_3d_sem"].item() == pytest.approx(0.5 * kind / total, rel=1e-4)
    nothing = voxel_losses(density, semantic, labels, counted & False, empty, weights, 1.0)
    assert not any(value.item() for value in nothing.values())


def test_choices_are_checked() -> None:
    with pytest.raises(ValueError, match="unknown depth_target 'z'"):
        Teaching(depth_target="z")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs contraction=True"):
        Teaching(contraction=False)


# Behaviour of the toy model ----------------------------------------------------------------------------------------


def test_the_answer_is_threshold_and_largest_class(model: RenderOcc, batch: OccupancyBatch) -> None:
    with torch.no_grad():
        volume = model.volume(batch)
        threshold = volume.density[..., 0].median().item()
        with patch.object(model, "threshold", threshold):
            prediction = model.extract(batch)
    assert prediction.logits[0].shape == (2, 18, *SMALL.shape) and prediction.features is not None
    assert prediction.features.shape == (2, 8, *SMALL.shape)
    expected = volume.semantic.argmax(dim=-1).where(volume.density[..., 0] > threshold, torch.tensor(17))
    clear = (volume.density[..., 0] - threshold).abs() > 1e-5
    assert 0.3 < (expected[clear] == 17).float().mean() < 0.7
    assert torch.equal(prediction.labels[clear], expected[clear])


def test_the_empty_class_may_be_any(batch: OccupancyBatch) -> None:
    grid = replace(SMALL, empty=0)
    own = toy(grid, threshold=1e9).eval()
    assert (own.predict(batch).labels == 0).all()
    own.threshold = -1e9
    with torch.no_grad():
        volume = own.volume(batch)
    assert torch.equal(own.predict(batch).labels, volume.semantic.argmax(-1) + 1)


def test_a_batch_is_its_samples(model: RenderOcc, batch: OccupancyBatch) -> None:
    both = model.predict(batch).logits[-1]
    for index in range(2):
        torch.testing.assert_close(model.predict(sample(batch, index)).logits[-1][0], both[index], rtol=1e-3, atol=1e-3)


def sample(batch: OccupancyBatch, index: int) -> OccupancyBatch:
    names = ("images", "projection", "intrinsics", "reference_to_camera", "labels", "camera_mask", "reference_to_lidar", "depth")
    one = slice(index, index + 1)
    assert batch.chain is not None and batch.history is not None and batch.rays is not None
    own = batch.rays.scene == index
    rays = {name: value[own] for name, value in batch.rays._tensors().items()}
    return replace(
        batch,
        **{name: getattr(batch, name)[one] for name in names},
        meta=batch.meta[one],
        chain=CameraChain(**{name: value[one] for name, value in batch.chain._tensors().items()}),
        history=History(**{name: value[one] for name, value in batch.history._tensors().items()}),
        rays=RaySupervision(**rays | {"scene": rays["scene"] * 0}),
    )


def test_losses_of_a_batch_are_means_over_its_samples(model: RenderOcc, batch: OccupancyBatch) -> None:
    with torch.no_grad():
        both = model.loss(batch)
        alone = [model.loss(sample(batch, index)) for index in range(2)]
    expected = {"loss_render_depth", "loss_render_semantic", "loss_sdf_entropy", "loss_sdf_distortion", "loss_lss_depth"}
    assert both.keys() == expected
    for name in expected - {"loss_lss_depth"}:
        torch.testing.assert_close(both[name], (alone[0][name] + alone[1][name]) / 2, rtol=1e-3, atol=1e-5)


def test_predictions_depend_on_everything_that_is_read(model: RenderOcc, batch: OccupancyBatch) -> None:
    plain = model.predict(batch).logits[-1]
    chain, history = batch.chain, batch.history
    assert chain is not None and history is not None
    others = {
        "images": replace(batch, images=batch.images.flip(0)),
        "intrinsics": replace(batch, chain=replace(chain, intrinsics=chain.intrinsics * 1.1)),
        "poses": replace(batch, chain=replace(chain, camera_to_reference=chain.camera_to_reference.roll(1, 1))),
        "image augmentation": replace(batch, chain=replace(chain, image=chain.image * torch.tensor([0.9, 0.9, 1.0])[:, None])),
        "frame augmentation": replace(batch, chain=replace(chain, reference=chain.reference * torch.tensor([1.0, -1.0, 1.0]))),
        "adjacent image": replace(batch, history=replace(history, images=torch.stack([history.images[:, 1]] * 2, 1))),
        "stereo's image": replace(batch, history=replace(history, images=torch.stack([history.images[:, 0]] * 2, 1))),
        "earlier poses": replace(batch, history=replace(history, projection=history.projection.roll(1, 2))),
    }
    for what, other in others.items():
        assert not torch.equal(model.predict(other).logits[-1], plain), what  # of first weights the effect is 1e-5 and less


def test_a_mirrored_frame_moves_the_volume(batch: OccupancyBatch) -> None:
    """With a mirrored reference frame features land in the mirrored voxels, if coordinates are not rounded towards zero."""
    view = toy(published_rounding=False).eval().img_view_transformer
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    chain = batch.chain
    assert chain is not None
    g = torch.Generator().manual_seed(0)
    features, vector = torch.randn(2, 6, 16, 8, 12, generator=g), torch.randn(2, 6, VECTOR_LENGTH, generator=g)
    cost = torch.rand(2, 6, view.num_depths, 16, 24, generator=g).softmax(2)
    plain, _ = view(features, vector, chain.projection(), (96, 64), cost)
    mirrored = replace(chain, reference=chain.reference @ mirror[:3, :3])
    moved, _ = view(features, vector, mirrored.projection(), (96, 64), cost)
    off = (moved.flip(3) - plain).abs() > 1e-3
    assert off.float().mean() < 0.01 and plain.any()  # points on a face between two voxels are in either


def test_every_trained_parameter_gets_a_gradient(batch: OccupancyBatch) -> None:
    own = toy(teaching=dict(voxels="seen")).train()
    losses = own.loss(batch)
    assert {"loss_3d_geo", "loss_3d_sem"} <= losses.keys()
    sum(losses.values()).backward()  # type: ignore[union-attr]
    lost = [name for name, p in own.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lost


def test_gradients_reach_all_under_autocast_too(batch: OccupancyBatch) -> None:
    """The frames without gradient come first: weights that were cast for them must not serve the key frame."""
    own = toy().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = own.loss(batch)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    lost = [name for name, p in own.named_parameters() if p.grad is None]
    assert not lost and all(torch.isfinite(value) for value in losses.values())


def test_the_mask_of_cameras_is_a_choice(batch: OccupancyBatch) -> None:
    masked = replace(batch, camera_mask=batch.camera_mask & (torch.arange(20)[:, None, None] < 10))
    values = {}
    for voxels in ("none", "all", "seen"):
        own = toy(teaching=dict(voxels=voxels)).eval()
        with torch.no_grad():
            values[voxels] = own.loss(masked)
    assert "loss_3d_geo" not in values["none"]
    assert not torch.isclose(values["all"]["loss_3d_geo"], values["seen"]["loss_3d_geo"], rtol=1e-6)


def test_depth_targets_of_rays(batch: OccupancyBatch) -> None:
    """Along the axis as published, or along the ray, which is longer by the direction's length."""
    seen: dict[str, Tensor] = {}

    def spy(name: str) -> Any:
        def silog(depth: Tensor, target: Tensor, share: Tensor) -> Tensor:
            seen[name] = target
            return depth.sum() * 0

        return silog

    assert batch.rays is not None
    far = replace(batch, rays=replace(batch.rays, depth=batch.rays.depth.clone().index_fill_(0, torch.tensor([3]), 52.5)))
    for target in ("axis", "range"):
        own = toy(teaching=dict(depth_target=target)).eval()
        with patch("baselines.renderocc.losses.silog", spy(target)), torch.no_grad():
            own.loss(sample(far, 0))
    taught = (torch.arange(200) != 3).nonzero()[:, 0]
    torch.testing.assert_close(seen["axis"], batch.rays.depth[taught])
    torch.testing.assert_close(seen["range"], batch.rays.depth[taught] * batch.rays.directions[taught].norm(dim=-1))


def test_a_sample_without_rays_counts_in_no_mean(model: RenderOcc, batch: OccupancyBatch) -> None:
    assert batch.rays is not None
    first = {name: value[batch.rays.scene == 0] for name, value in batch.rays._tensors().items()}
    with torch.no_grad():
        alone, partly = model.loss(sample(batch, 0)), model.loss(replace(batch, rays=RaySupervision(**first)))
        none = model.loss(replace(batch, rays=RaySupervision(**{name: value[:0] for name, value in first.items()})))
    torch.testing.assert_close(partly["loss_render_depth"], alone["loss_render_depth"], rtol=1e-3, atol=1e-5)
    assert none["loss_render_depth"] == 0 and none.keys() == {"loss_render_depth", "loss_lss_depth"}


def test_images_enter_as_the_released_weights_were_trained(model: RenderOcc) -> None:
    red, green, blue = 200.0, 120.0, 40.0
    loaded = torch.tensor([blue - 103.53, green - 116.28, red - 123.675])[:, None, None]
    swapped = [(blue - 123.675) / 58.395, (green - 116.28) / 57.12, (red - 103.53) / 57.375]
    torch.testing.assert_close(model._normalised(loaded).flatten(), torch.tensor(swapped))
    with patch.object(model, "swapped_channels", False):
        mended = [(red - 123.675) / 58.395, (green - 116.28) / 57.12, (blue - 103.53) / 57.375]
        torch.testing.assert_close(model._normalised(loaded).flatten(), torch.tensor(mended))


def test_training_lowers_the_loss() -> None:
    batch = lift_batch(SMALL, rays=100)
    own = toy().train()
    optimizer = torch.optim.AdamW(own.parameters(), lr=4e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.stack(list(own.loss(batch).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("mended", [False, True])
def test_a_registered_renderer_teaches(batch: OccupancyBatch, mended: bool) -> None:
    pytest.importorskip("renderers.rays")
    own = toy(renderer="reference", teaching=MENDED if mended else {}).train()
    one = replace(batch, rays=random_rays(SMALL, 2, 20))
    losses = own.loss(one)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in own.parameters() if p.grad is not None)
    assert own.density_mlp[0].weight.grad.any() and own.semantic_mlp[0].weight.grad.any()


# Splats in place of rays --------------------------------------------------------------------------------------------

METRIC = {**MENDED, "distortion_weight": 0.0}
SCALED = replace(SMALL, published=Published(gaussian_scale=(0.4, 0.27)))


def test_a_wall_of_gaussians_is_where_the_wall_is() -> None:
    """Rays of two cameras meet opaque voxels 10 m ahead; what is rendered is the way to them, and their class."""
    density = torch.zeros(SMALL.shape)
    wall = (SMALL.centres()[..., 0] - 10).abs() < SMALL.voxel_size / 2
    density[wall] = 40.0
    features = torch.zeros(*SMALL.shape, 17)
    features[..., 3] = wall.float()
    density.requires_grad_()
    g = torch.Generator().manual_seed(0)
    origins = torch.tensor([[0.0, 0.0, 1.5], [-3.0, 1.0, 1.5]]).repeat_interleave(40, dim=0)
    directions = F.normalize(torch.cat([torch.ones(80, 1), (torch.rand(80, 2, generator=g) - 0.5) * 0.3], dim=1), dim=1)
    rendered = splatter("reference", SCALED, (120, 60))(density, features, origins, directions)
    way = (SMALL.centres()[wall][0, 0] - origins[:, 0]) / directions[:, 0]
    assert (rendered.alpha > 0.9).all() and ((rendered.depth / rendered.alpha - way).abs() < SMALL.voxel_size / 2).all()
    assert (rendered.features.argmax(1) == 3).all() and torch.equal(rendered.transmittance, 1 - rendered.alpha)
    rendered.depth.sum().backward()
    assert density.grad is not None and density.grad.abs().sum() > 0


def test_every_origin_has_an_image_that_its_rays_are_pixels_of() -> None:
    g = torch.Generator().manual_seed(1)
    origins = (torch.rand(3, 3, generator=g) * 4)[torch.randint(0, 3, (200,), generator=g)]
    yaw, pitch = (torch.rand(200, generator=g) - 0.5) * 1.6, (torch.rand(200, generator=g) - 0.5) * 0.8
    directions = torch.stack([pitch.cos() * yaw.cos(), pitch.cos() * yaw.sin(), pitch.sin()], dim=1)
    view, cameras, pixels, cosines = images_of(origins, directions, (64, 32))
    assert cameras.views == 3 and all(len(origins[view == one].unique(dim=0)) == 1 for one in range(3))
    points = torch.cat([origins + 7 * directions, torch.ones(200, 1)], dim=1)
    seen = (cameras.world_to_camera[0, view] @ points[..., None])[:, :3]
    place = (cameras.intrinsics[0, view] @ seen)[..., 0]
    assert torch.equal((place[:, :2] / place[:, 2:]).long().flip(-1), pixels)
    assert (pixels >= 0).all() and (pixels < torch.tensor([32, 64])).all()
    assert torch.allclose(seen[:, 2, 0], 7 * cosines, atol=1e-4)
    with pytest.raises(ValueError, match="look to another side"):
        images_of(origins[:1].expand(3, 3), torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), (64, 32))


def test_splats_teach_what_rays_teach(batch: OccupancyBatch) -> None:
    torch.manual_seed(0)
    splats = toy(SCALED, teaching=METRIC, splats=True, renderer="cpu", splat_size=(48, 32))
    with torch.no_grad():
        splats.density_mlp[-2].bias.fill_(12.0)
    losses = splats.loss(batch)
    assert set(losses) == {"loss_render_depth", "loss_render_semantic", "loss_sdf_entropy", "loss_lss_depth"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in splats.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="splats have no samples along a ray"):
        toy(splats=True, renderer="reference")


def test_a_start_from_biases_is_a_fog(batch: OccupancyBatch) -> None:
    """No voxel is occupied yet, and rays see all of the grid: some, not all, of each is stopped."""
    model = toy(renderer="reference").eval()
    with torch.no_grad():
        assert batch.rays is not None
        directions = F.normalize(batch.rays.directions[:50], dim=1)

        def opacity() -> Tensor:
            volume = model.volume(batch)
            return model.cast(volume.density[0, ..., 0], volume.semantic[0], batch.rays.origins[:50], directions).alpha

        assert opacity().max() < 1e-4
        model.start_from_bias([float(number) for number in range(18)])
        assert (model.predict(batch).labels == SMALL.empty).all()
        assert 2e-3 < opacity().min() and opacity().max() < 0.7
    assert model.semantic_mlp[-1].bias.tolist() == [float(number) for number in range(18) if number != SMALL.empty]
    with pytest.raises(ValueError, match="each of the 18 classes"):
        model.start_from_bias([0.0] * 17)


def test_wrong_input_is_named(model: RenderOcc, batch: OccupancyBatch) -> None:
    with pytest.raises(ValueError, match="needs the batch's 'chain'"):
        model.predict(replace(batch, chain=None))
    with pytest.raises(ValueError, match="needs the batch's 'history' of 2 earlier frames, got none"):
        model.predict(replace(batch, history=None))
    with pytest.raises(ValueError, match="'history' of 2 earlier frames, got 3"):
        model.predict(lift_batch(SMALL, frames=3))
    with pytest.raises(ValueError, match="must be a multiple of 8 pixels high and wide, got 64 x 100"):
        model.predict(lift_batch(SMALL, width=100))
    with pytest.raises(ValueError, match="needs the batch's 'rays'"):
        model.loss(replace(batch, rays=None))
    with pytest.raises(ValueError, match="needs the batch's 'depth'"):
        model.loss(replace(batch, depth=None))
    assert batch.rays is not None
    empty = replace(batch.rays, semantic=torch.full_like(batch.rays.semantic, 17))
    with pytest.raises(ValueError, match=r"semantic must be a class id in 0\.\.17 other than 17 \(free\), got 17"):
        model.loss(replace(batch, rays=empty))
    with pytest.raises(ValueError, match="reduction 12 must be stereo_reduction 4 times a power of two"):
        toy(reduction=12)
    with pytest.raises(ValueError, match="a whole number of steps"):
        toy(depth=(1.0, 20.0, 2.0))
    with pytest.raises(ValueError, match="unknown RenderOcc size 'huge'"):
        renderocc_config("huge", SMALL)  # type: ignore[arg-type]
