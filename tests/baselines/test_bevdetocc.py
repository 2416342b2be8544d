"""BEVDet-Occ: published parameters, its losses, and rendering as a plug-in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lift_rig import StateDict, lift_batch
from surround_rig import toy_grid

from baselines.bevdetocc import RECIPE, BEVDetOcc, bevdetocc_config
from baselines.checkpoints import CheckpointError, load_bevdet_pretrain, load_released
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import _as_cameras_see

OCC3D = OccupancyGrid((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.4, tuple(f"c{i}" for i in range(18)), empty=17, dataset="occ3d")

# The behaviour of the toy model is tested on few voxels and small images.
SMALL = replace(toy_grid(), lower=(-16.0, -16.0, -1.0), upper=(16.0, 16.0, 5.4), voxel_size=1.6)
FEW: dict[str, Any] = dict(
    backbone=dict(
        type="StereoResNet", depth=18, base_channels=8, stem_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
        out_indices=(0, 1, 2), norm_cfg=dict(type="BN", requires_grad=True), norm_eval=False, style="pytorch",
    ),
    neck=dict(type="FinestFPN", in_channels=(16, 32), out_channels=16),
    depth=(1.0, 21.0, 2.0),
    aspp=4,
    channels=8,
)  # fmt: skip
RENDERED = dict(gaussrender={"bev_reduction": 8, "image_reduction": 2}, renderer="cpu")


def build(size: str, grid: OccupancyGrid, **options: Any) -> BEVDetOcc:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(bevdetocc_config(size, grid) | options)  # type: ignore[arg-type]


def toy(**options: Any) -> BEVDetOcc:
    return build("toy", SMALL, **(FEW | options))


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    return lift_batch(SMALL, batch=2)


@pytest.fixture(scope="module")
def model() -> BEVDetOcc:
    return toy().eval()


def published() -> StateDict:
    """configs/bevdet_occ/bevdet-occ-r50-4d-stereo-24e.py"""
    out = StateDict()
    out.conv("img_backbone.conv1", 64, 3, 7, 7, bias=False)
    out.norm("img_backbone.bn1", 64)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            at = f"img_backbone.layer{stage + 1}.{block}"
            for number, (outputs, above, size) in enumerate(
                ((width, inputs, 1), (width, width, 3), (4 * width, width, 1)), start=1
            ):
                out.conv(f"{at}.conv{number}", outputs, above, size, size, bias=False)
                out.norm(f"{at}.bn{number}", outputs)
            if not block:
                out.conv(f"{at}.downsample.0", 4 * width, inputs, 1, 1, bias=False)
                out.norm(f"{at}.downsample.1", 4 * width)
            inputs = 4 * width
    for level, channels in enumerate((1024, 2048)):
        out.conv(f"img_neck.lateral_convs.{level}.conv", 256, channels, 1, 1)
    out.conv("img_neck.fpn_convs.0.conv", 256, 256, 3, 3)
    out.lift_splat(256)
    out.conv("predicter.0", 64, 32)
    out.conv("predicter.2", 18, 64)
    return out


def shapes(model: BEVDetOcc) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_the_paper_model_has_the_published_names() -> None:
    with torch.device("meta"):
        paper = build("paper", OCC3D)
    assert shapes(paper) == published()
    # A ResNet-50 without its classifier.
    assert sum(p.numel() for p in paper.img_backbone.parameters()) == 23_508_032
    assert all(p.requires_grad for p in paper.parameters())


def test_rendering_adds_its_own_names_alone() -> None:
    plain, rendered = shapes(toy()), shapes(toy(**RENDERED))
    added = rendered.keys() - plain.keys()
    assert plain.items() <= rendered.items()
    assert added == {"renderer.bg_color"} | {
        f"renderer_prep.decoder.mlp_coarse.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")
    }


def test_released_weights_and_those_of_a_detector_load(tmp_path: Path) -> None:
    """Weights without rendering need permission where there is rendering; of a detector backbone and neck must be there."""
    donor = toy()
    for parameter in donor.parameters():
        torch.nn.init.normal_(parameter)
    torch.save({"epoch": 24, "state_dict": donor.state_dict()}, tmp_path / "occ.pth")
    rendered = toy(**RENDERED)
    with pytest.raises(CheckpointError, match="trained without rendering"):
        load_released(rendered, tmp_path / "occ.pth")
    left = load_released(rendered, tmp_path / "occ.pth", allow_missing_renderer=True)
    assert len(left) == 7 and all(torch.equal(value, rendered.state_dict()[name]) for name, value in donor.state_dict().items())
    torch.save(rendered.state_dict(), tmp_path / "rendered.pth")
    with pytest.raises(CheckpointError, match="trained with rendering"):
        load_released(toy(), tmp_path / "rendered.pth")

    start = toy(depth=(1.0, 31.0, 2.0))
    loaded = load_bevdet_pretrain(start, tmp_path / "occ.pth")
    assert "img_neck.fpn_convs.0.conv.weight" in loaded and "img_view_transformer.depth_net.depth_conv.4.weight" not in loaded
    headless = {name: value for name, value in donor.state_dict().items() if name != "img_neck.fpn_convs.0.conv.weight"}
    torch.save(headless, tmp_path / "headless.pth")
    with pytest.raises(CheckpointError, match=r"img_neck\.fpn_convs\.0\.conv\.weight"):
        load_bevdet_pretrain(start, tmp_path / "headless.pth")


def test_what_it_reads() -> None:
    assert RECIPE.parts(training=False) == {"chain": (0,), "history": (-1, -2)}
    assert RECIPE.parts(training=True) == {"chain": (0,), "history": (-1, -2), "depth": (0,)}
    assert all(extent % 16 == 0 for extent in RECIPE.image_size["paper"])


def test_every_voxel_has_logits_and_features(model: BEVDetOcc, batch: OccupancyBatch) -> None:
    prediction = model.predict(batch)
    assert [tuple(logits.shape) for logits in prediction.logits] == [(2, 18, *SMALL.shape)]
    assert prediction.features is not None and prediction.features.shape == (2, 8, *SMALL.shape)
    voxel = (1, slice(None), 3, 7, 2)
    expected = model.predicter(prediction.features[voxel])
    torch.testing.assert_close(prediction.logits[0][voxel], expected)


@pytest.mark.parametrize("rendered", [False, True])
def test_every_parameter_gets_a_gradient(batch: OccupancyBatch, rendered: bool) -> None:
    own = toy(**RENDERED if rendered else {}).train()
    losses = own.loss(batch)
    images = {f"loss_render_{name}" for name in ("image", "depth", "bev", "bev_depth")}
    assert losses.keys() == {"loss_ce", "loss_lss_depth"} | (images if rendered else set())
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
    assert {"img_backbone.conv1.weight", "predicter.2.bias", "renderer_prep.decoder.mlp_coarse.4.weight"} <= touched


def test_rendering_changes_no_prediction(model: BEVDetOcc, batch: OccupancyBatch) -> None:
    rendered = toy(**RENDERED).eval()
    rendered.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(rendered.predict(batch).logits[0], model.predict(batch).logits[0])


def test_frames_with_axes_turned_round_are_rendered_as_their_cameras_see_them(batch: OccupancyBatch) -> None:
    """What is predicted and labelled of a turned frame, each sample another way, comes back as of the plain one."""
    assert batch.chain is not None
    plain = OccupancyPrediction((torch.randn(2, 18, *SMALL.shape),), torch.randn(2, 4, *SMALL.shape))
    turns = torch.tensor([[-1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]])

    def turned(voxels: torch.Tensor) -> torch.Tensor:
        return torch.stack([voxels[0].flip(-3), voxels[1].flip(-3, -2)])

    assert plain.features is not None
    prediction = OccupancyPrediction((turned(plain.logits[0]),), turned(plain.features))
    pose = torch.diag_embed(torch.cat([turns, torch.ones(2, 1)], dim=1))[:, None]
    chain = replace(batch.chain, reference=torch.diag_embed(turns))
    other = replace(batch, chain=chain, labels=turned(batch.labels), reference_to_camera=batch.reference_to_camera @ pose)
    for back, expected in zip(_as_cameras_see(prediction, other), _as_cameras_see(plain, batch), strict=True):
        assert back is not None and torch.equal(back, expected)
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).expand(2, 3, 3)
    with pytest.raises(ValueError, match="rotated and scaled frames cannot be"):
        _as_cameras_see(plain, replace(batch, chain=replace(batch.chain, reference=quarter)))


@pytest.mark.parametrize("weighted", [False, True])
def test_voxels_of_the_camera_mask_teach_alone(batch: OccupancyBatch, weighted: bool) -> None:
    """The published sum over the mask by its number; by the sum of its weights where classes have some."""
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(batch.labels.shape, generator=g) < 0.3
    labels = batch.labels.masked_fill(torch.rand(batch.labels.shape, generator=g) < 0.1, SMALL.ignore)
    weights = torch.rand(18, generator=g) + 0.5 if weighted else torch.ones(18)
    own = toy(class_weights=weights.tolist() if weighted else None).eval()
    with torch.no_grad():
        prediction = own.extract(batch)
        found = own.occupancy_losses(prediction, replace(batch, labels=labels, camera_mask=mask))["loss_ce"]
        counted = mask & (labels != SMALL.ignore)
        scores = prediction.logits[0].log_softmax(1).movedim(1, -1)[counted]
        share = weights[labels[counted]]
        expected = -(share * scores.gather(1, labels[counted][:, None])[:, 0]).sum() / share.sum()
        torch.testing.assert_close(found, expected)
        others = labels.where(mask, torch.zeros(()).long())
        again = own.occupancy_losses(prediction, replace(batch, labels=others, camera_mask=mask))["loss_ce"]
    assert torch.equal(again, found)


def test_the_loss_on_depths_has_a_weight(batch: OccupancyBatch) -> None:
    own, twice, without = toy().eval(), toy(lss_depth_weight=0.1).eval(), toy(lss_depth_weight=0.0).eval()
    with torch.no_grad():
        prediction = own.extract(batch)
        own_loss, other = own.occupancy_losses(prediction, batch), twice.occupancy_losses(prediction, batch)
        assert without.occupancy_losses(prediction, replace(batch, depth=None)).keys() == {"loss_ce"}
    assert own_loss["loss_lss_depth"] > 0
    torch.testing.assert_close(other["loss_lss_depth"], 2 * own_loss["loss_lss_depth"])


def test_classifiers_start_from_shares(batch: OccupancyBatch) -> None:
    own = toy().eval()
    torch.nn.init.zeros_(own.predicter[-1].weight)
    bias = [0.1 * number for number in range(18)]
    own.start_from_bias(bias)
    torch.testing.assert_close(own.predict(batch).logits[0][0, :, 0, 0, 0], torch.tensor(bias))


def test_wrong_input_is_named(model: BEVDetOcc, batch: OccupancyBatch) -> None:
    with pytest.raises(ValueError, match="BEVDetOcc needs the batch's 'chain'"):
        model.predict(replace(batch, chain=None))
    with pytest.raises(ValueError, match="BEVDetOcc needs the batch's 'history' of 2 earlier frames, got none"):
        model.predict(replace(batch, history=None))
    with pytest.raises(ValueError, match="BEVDetOcc's lss_depth loss needs the batch's 'depth'"):
        model.loss(replace(batch, depth=None))
    with pytest.raises(ValueError, match="a bias for each of the 18 classes"):
        model.start_from_bias([0.0])
    with pytest.raises(ValueError, match="class_weights must be 18 numbers"):
        toy(class_weights=[1.0])
    with pytest.raises(ValueError, match="unknown BEVDet-Occ size 'huge'"):
        bevdetocc_config("huge", SMALL)  # type: ignore[arg-type]
