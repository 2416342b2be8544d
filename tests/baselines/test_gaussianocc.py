"""GaussianOcc's second stage: contracted grid, lifting, rendering, losses, published names, folders of weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from surround_rig import RIG, surround_batch, toy_grid, world_to_camera
from torch import Tensor
from torch.nn import functional as F

from baselines.checkpoint_files import CheckpointError
from baselines.checkpoints import CheckpointMismatch, load_gaussianocc_pretrain, load_released
from baselines.gaussianocc import RECIPE, SENSOR_POSES, Teaching
from baselines.gaussianocc.config import check_options, gaussianocc_config
from baselines.gaussianocc.lifting import ContractedGrid, lifted
from baselines.gaussianocc.losses import semantic_loss, total_variation
from baselines.gaussianocc.model import AIR, GaussianOcc, resampled
from baselines.gaussianocc.rendering import RASTER, gaussians, half_spaces, ray_settings
from baselines.gaussianocc.volume import Hourglasses
from baselines.interface import ImageSupervision, Neighbours, OccupancyBatch, OccupancyGrid
from baselines.photometric.losses import Photometric
from renderers import get
from renderers.dialects import DIALECTS
from renderers.rays.published import GAUSSIANOCC_DENSITY, GAUSSIANOCC_PROB, GAUSSIANOCC_RANGE

BOX = ((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4))
PUBLISHED = ContractedGrid(*BOX, (300, 300, 24))
TINY: dict[str, Any] = dict(
    resnet=dict(
        type="ResNet", depth=18, base_channels=4, stem_channels=4, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
        out_indices=(2,), norm_eval=False, style="pytorch",
    ),
    widths=(8, 16, 8, 8),
    channels=6,
    planes=2,
    shape=(12, 12, 4),
    scale=2.0,
    pose=dict(depth=18, base_channels=4, channels=8, scale=0.05),
)  # fmt: skip


def tiny(grid: OccupancyGrid | None = None, seed: int = 0, **options: Any) -> GaussianOcc:
    torch.manual_seed(seed)
    return GaussianOcc(grid or toy_grid(), **{**TINY, **options})


def batch_of(samples: int = 1, seed: int = 0, semantic: int | None = None) -> OccupancyBatch:
    """The rig's batch with classes of its images at half their size, and the images of two other moments."""
    plain = surround_batch(toy_grid(), samples, width=48, height=32, seed=seed)
    g = torch.Generator().manual_seed(seed + 1)
    cameras = plain.images.shape[1]
    classes = torch.randint(0, 18, (samples, 1, cameras, 16, 24), generator=g)
    classes[torch.rand(classes.shape, generator=g) < 0.3] = 255
    half = plain.intrinsics.clone()
    half[..., :2, :] /= 2
    semantics = ImageSupervision(
        intrinsics=half[:, None],
        reference_to_camera=plain.reference_to_camera[:, None],
        steps=torch.zeros(samples, 1, dtype=torch.int64),
        semantic=classes if semantic is None else torch.full_like(classes, semantic),
        depth=torch.zeros(classes.shape),
        valid=torch.ones(samples, 1, dtype=torch.bool),
    )
    motion = torch.eye(4).repeat(samples, 2, cameras, 1, 1)
    motion[:, 0, :, 2, 3], motion[:, 1, :, 2, 3] = 0.5, -0.5
    neighbours = Neighbours(
        images=torch.rand(samples, 2, cameras, 3, 32, 48, generator=g),
        current=torch.rand(samples, cameras, 3, 32, 48, generator=g),
        intrinsics=plain.intrinsics,
        camera_to_ego=torch.linalg.inv(plain.reference_to_camera),
        camera_motion=motion,
        valid=torch.ones(samples, 2, cameras, dtype=torch.bool),
    )
    return replace(plain, semantics=semantics, neighbours=neighbours)


# --- the contracted grid ----------------------------------------------------------------------------------------------


def test_vertices_are_the_published_ones() -> None:
    vertices = PUBLISHED.vertices()
    assert vertices.shape == (300, 300, 24, 3)
    x, z = vertices[:, 0, 0, 0], vertices[0, 0, :, 2]
    assert float(x[0]) == pytest.approx(-2013.28, abs=0.01) and float(x[-1]) == pytest.approx(2013.28, abs=0.01)
    assert float(z[0]) == pytest.approx(-122.06, abs=0.01) and float(z[-1]) == pytest.approx(126.46, abs=0.01)
    inside = x[x.abs() < 40]
    torch.testing.assert_close(inside.diff(), torch.full_like(inside[1:], 0.40133), atol=1e-5, rtol=0)
    assert len(inside) == 200
    assert PUBLISHED.samples == 424 and PUBLISHED.voxel == pytest.approx(0.399998, abs=1e-6)
    assert PUBLISHED.distances().shape == (1, 424) and float(PUBLISHED.distances()[0, 1]) == pytest.approx(0.4, abs=0.01)
    with pytest.raises(ValueError, match="multiples of 4"):
        ContractedGrid.of(toy_grid(), (10, 12, 4))


@pytest.mark.parametrize(("volume", "published"), [("prob", GAUSSIANOCC_PROB), ("density", GAUSSIANOCC_DENSITY)])
def test_volumes_are_rendered_as_the_renderers_have_it(volume: Any, published: Any) -> None:
    found = ray_settings(PUBLISHED, volume)
    assert found.activation == published.activation and found.unit_directions is False
    for name in ("lower", "upper", "ratio", "reach", "count", "near", "end"):
        assert getattr(found.sampler, name) == pytest.approx(getattr(published.sampler, name)), name
    assert found.skip.distances == pytest.approx(published.skip.distances)  # type: ignore[union-attr]
    assert PUBLISHED.range == tuple(pytest.approx(corner) for corner in GAUSSIANOCC_RANGE)


def test_voxels_are_read_where_they_lie() -> None:
    """Of a volume that holds the places of its vertices, the voxels of the box get their own centres."""
    grid = toy_grid()
    space = ContractedGrid.of(grid, (60, 60, 24))
    got = space.at_voxels(space.vertices().permute(3, 0, 1, 2)[None].float(), grid)[0].permute(1, 2, 3, 0)
    inside = slice(2, -2)  # beside the box's faces, cells reach beyond it, where places are contracted
    torch.testing.assert_close(
        got[inside, inside, inside], grid.centres()[inside, inside, inside], atol=2e-3, rtol=0
    )  # fmt: skip


def seen_by_hand(features: Tensor, pixel: tuple[float, float], published: bool) -> Tensor:
    """One camera's feature [C] at a pixel (u, v) of the features' own grid, pixel centres at +0.5, zeros beyond."""
    _, height, width = features.shape
    u, v = pixel
    if published:
        u, v = u * width / (width - 1), v * height / (height - 1)
    out = torch.zeros(features.shape[0])
    for row in range(height):
        for column in range(width):
            weight = max(0.0, 1 - abs(u - 0.5 - column)) * max(0.0, 1 - abs(v - 0.5 - row))
            out += weight * features[:, row, column]
    return out


@pytest.mark.parametrize("published", [True, False])
def test_vertices_get_the_mean_of_the_cameras_that_see_something(published: bool) -> None:
    g = torch.Generator().manual_seed(0)
    features = torch.randn(2, 2, 3, 4, 6, generator=g)
    features[1, 1, 2] = 0  # a channel in which the second camera of the second sample sees nothing
    projection = torch.eye(4).repeat(2, 2, 1, 1)
    projection[..., 0, 0] = projection[..., 1, 1] = 12.0
    projection[..., 0, 2], projection[..., 1, 2] = 12.0, 8.0
    projection[:, 1, 0, 3] = 2.0
    points = torch.tensor([[0.0, 0.0, 1.0], [0.4, -0.3, 2.0], [0.1, 0.1, -1.0], [5.0, 0.0, 1.0]])
    got = lifted(features, projection, (24, 16), points.view(2, 2, 1, 3).double(), published).flatten(2)
    for scene in range(2):
        for number, (x, y, z) in enumerate(points.tolist()):
            values = []
            for camera in range(2):
                u, v = (12 * x + 12 * z + 2 * camera) / z / 4, (12 * y + 8 * z) / z / 4
                if z > 0 and 0 <= u < 6 and 0 <= v < 4:
                    values.append(seen_by_hand(features[scene, camera], (u, v), published))
            seen = torch.stack(values) if values else torch.zeros(1, 3)
            mean = seen.sum(0) / (seen != 0).sum(0).clamp(min=1)
            torch.testing.assert_close(got[scene, :, number], mean, atol=1e-5, rtol=1e-4)
    assert bool((got[:, :, 2:] == 0).all())


# --- rendering --------------------------------------------------------------------------------------------------------


def test_half_spaces_are_the_published_ones() -> None:
    """By the camera's number there: front x >, left ones y >, back x <, right ones y <."""
    g = torch.Generator().manual_seed(0)
    means = 10 * torch.randn(1, 500, 3, generator=g)
    to_camera = torch.stack([world_to_camera(yaw) for yaw, _ in RIG])[None]
    got = half_spaces(means, to_camera)[0]
    for number, (yaw, _) in enumerate(RIG):
        axis, sign = {0: (0, 1), 180: (0, -1)}.get(yaw, (1, 1 if yaw > 0 else -1))
        place = (math.cos(math.radians(yaw)), math.sin(math.radians(yaw)))[axis]
        assert torch.equal(got[number], sign * (means[0, :, axis] - place) > 0), yaw


def test_every_vertex_is_a_gaussian() -> None:
    logits = torch.randn(2, 18, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    vertices = torch.zeros(4, 4, 8, 3, dtype=torch.float64)
    vertices[0, 0, 0, 0], vertices[1, 0, 0, 0], vertices[2, 0, 0, 0] = 59.0, 61.0, 81.0
    cloud = gaussians(logits, 17, vertices, 0.2, 40.0, 80.0)
    assert cloud.count == 128 and cloud.isotropic
    torch.testing.assert_close(cloud.scales[1, :3, 0], torch.tensor([0.2, 0.8, 1.6]))
    # z outermost, then y, then x
    assert torch.equal(cloud.features[1, 3 * 16 + 2 * 4 + 1], logits[1, :, 1, 2, 3])
    torch.testing.assert_close(cloud.opacities[0, 5], 1 - torch.sigmoid(logits[0, 17, 1, 1, 0]))


def test_the_rasterizer_is_the_published_fork() -> None:
    assert RASTER.legacy_fov_y and RASTER.depth == "accumulated" and RASTER.background is None
    assert not get("reference").departures(RASTER) and not get("cpu").departures(RASTER)
    assert all(getattr(RASTER, name) == value for name, value in DIALECTS["original"].settings.items())


def test_maps_are_read_at_the_pixels_of_other_images() -> None:
    maps = torch.rand(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([[10.0, 0, 4.0], [0, 10.0, 2.5], [0, 0, 1]]).expand(1, 2, 3, 3)
    twice = own.clone()
    twice[..., :2, :] *= 2
    wanted = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resampled(maps, own, twice, (10, 16)), wanted)
    cut = twice.clone()
    cut[..., 1, 2] -= 3  # the upper three rows
    torch.testing.assert_close(resampled(maps, own, cut, (7, 16)), wanted[..., 3:, :])


# --- losses -----------------------------------------------------------------------------------------------------------


def test_classes_are_weighted_and_may_be_unknown() -> None:
    g = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 4, generator=g), torch.randint(-1, 4, (2, 3, 5), generator=g)
    weights = torch.tensor([0.0, 0.5, 1.0, 2.0])
    for given in (weights, None):
        wanted = F.cross_entropy(logits.flatten(0, 2), target.flatten(), weight=given, ignore_index=-1)
        torch.testing.assert_close(semantic_loss(logits, target, given), wanted)
    for nothing in (torch.full_like(target, -1), torch.zeros_like(target)):  # no class, or one without weight
        assert float(semantic_loss(logits, nothing, weights)) == 0


def test_variation_is_a_mean_over_axes() -> None:
    volume = torch.arange(3.0).view(1, 1, 3, 1, 1) * torch.ones(1, 2, 3, 4, 2)
    assert float(total_variation(volume)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unlabelled": "sky"}, "unknown unlabelled 'sky'"),
        ({"entropy_weight": -1.0}, "entropy_weight must not be negative"),
        ({"farthest": 0.0}, "farthest must be positive"),
        ({"photometric": {"ssim": 2.0}}, "ssim must be within 0..1"),
        ({"photometric": {"smoothness": 0.1}}, "smoothness_weight is its weight"),
        ({"scales": (0,)}, "scales must be whole numbers of at least 1"),
        ({"semantic_weight": 0.0, "photometric_weight": 0.0}, "nothing teaches"),
    ],
)
def test_what_cannot_teach_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Teaching(**options)
    with pytest.raises(ValueError, match=message):
        check_options(gaussianocc_config("toy", toy_grid()) | {"teaching": options})


def test_options_of_the_model_are_checked() -> None:
    for options, message in (
        ({"poses": "yes"}, "unknown poses 'yes'"),
        ({"volume": "neus"}, "unknown volume 'neus'"),
        ({"class_weights": (1.0, 2.0)}, "one for each of the 18 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            check_options(gaussianocc_config("toy", toy_grid()) | options)
        with pytest.raises(ValueError, match=message):
            tiny(**options)
    with pytest.raises(ValueError, match="gain must be positive"):
        tiny(gain=0.0)
    with pytest.raises(ValueError, match="scales must be whole numbers"):
        tiny(scales=())
    with pytest.raises(ValueError, match="smoothness_weight is its weight"):
        tiny(photometric={"smoothness": 0.1})
    with pytest.raises(ValueError, match="takes no gaussrender"):
        gaussianocc_config("toy", toy_grid(), gaussrender={})


def test_published_class_weights() -> None:
    weights = gaussianocc_config("paper", toy_grid())["class_weights"]
    published = "0 .350 1.741 .976 .450 2.372 1.866 1.849 4.360 1.503 .552 .227 0 .488 .483 .208 .312 .264"
    assert weights == pytest.approx([float(value) for value in published.split()], abs=6e-4)
    few = replace(toy_grid(), class_names=("thing", "free"), empty=1)
    assert gaussianocc_config("toy", few)["class_weights"] is None


# --- the model --------------------------------------------------------------------------------------------------------

TERMS = {
    None: {"loss_semantic", "loss_photometric", "loss_smoothness", "loss_entropy", "loss_variation"},
    "prob": {"loss_semantic", "loss_photometric", "loss_smoothness", "loss_entropy", "loss_distortion"},
    "density": {"loss_semantic", "loss_photometric", "loss_smoothness", "loss_entropy", "loss_distortion"},
}


@pytest.mark.parametrize("volume", TERMS)
@pytest.mark.parametrize("poses", ["learned", "sensors"])
def test_everything_but_the_poses_learns(volume: Any, poses: str) -> None:
    model = tiny(volume=volume, poses=poses, renderer="cpu")
    losses = model.loss(batch_of(2))
    assert set(losses) == TERMS[volume] and all(bool(torch.isfinite(value)) for value in losses.values())
    sum(losses.values()).backward()  # type: ignore[union-attr]
    for part in (model.encoder.backbone[0].weight, model.depth._3DCNN.dres0[0][0].weight):
        assert part.grad is not None and float(part.grad.abs().max()) > 0
    for name, parameter in model.named_parameters():
        idle = name.startswith(("pose_network.", "depth._3DCNN.classif3.", "depth._3DCNN.classif_flow."))
        assert parameter.requires_grad != idle and (parameter.grad is None) == idle, name


def test_a_batch_is_the_mean_of_its_samples() -> None:
    """But for batch normalisation, which is fixed here; weighted means of classes are over all pixels of a batch."""
    model = tiny(poses="sensors", teaching={"photometric_weight": 0.0}).eval()
    both = batch_of(2)
    together = model.loss(both)
    apart = [model.loss(both.one(number)) for number in range(2)]
    for name in ("loss_entropy", "loss_variation"):
        torch.testing.assert_close(together[name], (apart[0][name] + apart[1][name]) / 2)
    torch.testing.assert_close(model.extract(both).logits[0][1:], model.extract(both.one(1)).logits[0], atol=1e-5, rtol=1e-4)


def test_unlabelled_pixels_are_free_or_teach_nothing() -> None:
    unknown = batch_of(semantic=255)
    free = tiny(poses="sensors").eval()
    as_if = free.loss(batch_of(semantic=17))["loss_semantic"]
    torch.testing.assert_close(free.loss(unknown)["loss_semantic"], as_if)
    assert float(as_if.detach()) > 0
    ignored = tiny(poses="sensors", teaching={"unlabelled": "ignored"}).eval()
    assert float(ignored.loss(unknown)["loss_semantic"].detach()) == 0


@pytest.mark.parametrize("unlabelled", ["free", "ignored"])
def test_pixels_that_show_the_vehicle_teach_no_class(unlabelled: str) -> None:
    model, batch = tiny(teaching={"unlabelled": unlabelled}), batch_of()
    assert batch.semantics is not None and batch.neighbours is not None
    classes = batch.semantics.semantic
    left = torch.arange(classes.shape[-1]) < classes.shape[-1] // 2
    mask = torch.ones(batch.neighbours.current.shape[:2] + batch.neighbours.current.shape[3:], dtype=torch.bool)
    mask[..., : mask.shape[-1] // 2] = False

    def loss(semantic: Tensor, mask: Tensor | None) -> Tensor:
        assert batch.semantics is not None and batch.neighbours is not None
        neighbours = replace(batch.neighbours, mask=mask)
        return model.loss(replace(batch, semantics=replace(batch.semantics, semantic=semantic), neighbours=neighbours))[
            "loss_semantic"
        ]

    for other in (1, 255):  # 255: unlabelled
        changed = torch.where(left, other, classes)
        assert loss(changed, mask) == loss(classes, mask)
        assert loss(changed, None) != loss(classes, None)
    seen = model._classes(batch.semantics, replace(batch.neighbours, mask=mask))
    assert torch.equal(seen < 0, (left | (classes[:, -1] == 255)) if unlabelled == "ignored" else left.expand_as(seen))
    assert loss(classes, torch.ones_like(mask)) == loss(classes, None)


def test_depth_is_held_to_its_limits_and_may_be_divided_by_alpha() -> None:
    model = tiny(poses="sensors").eval()
    with torch.no_grad():
        logits = model.logits(batch_of())
    from renderers import Cameras

    b = batch_of()
    cameras = Cameras(b.intrinsics, b.reference_to_camera, *b.camera_size)
    seen = model.rendered(logits, cameras)
    assert float(model.depth_of(seen).min()) >= 0.1 - 1e-6 and float(model.depth_of(seen).max()) <= 80
    divided = tiny(poses="sensors", teaching={"normalise_depth": True, "farthest": 30.0}).depth_of(seen)
    assert float(divided.max()) <= 30
    solid = seen.alpha > 0.1
    torch.testing.assert_close(divided[solid], (seen.depth / seen.alpha)[solid].clamp(0.1, 30.0))


def test_squashed_splats_are_an_option() -> None:
    b = batch_of()
    squashed, right = (tiny(poses="sensors", legacy_fov_y=flag).eval() for flag in (True, False))
    assert squashed.departures == {} and right.raster.legacy_fov_y is False
    assert float((squashed.loss(b)["loss_semantic"] - right.loss(b)["loss_semantic"]).abs().detach()) > 1e-7


@pytest.mark.parametrize("drifting", [True, False])
def test_the_pose_network_goes_on_counting_only_as_published(drifting: bool) -> None:
    model = tiny(drifting_poses=drifting).train()
    assert model.pose_network is not None
    kept = {name: value.clone() for name, value in model.pose_network.state_dict().items()}
    batch = batch_of()
    neighbours = batch.neighbours
    assert neighbours is not None and len(batch.images) == 1
    model.loss(batch)
    changed = [name for name, value in model.pose_network.state_dict().items() if not torch.equal(value, kept[name])]
    assert bool(changed) == drifting and all("running" in name or "num_batches" in name for name in changed)
    other = tiny(drifting_poses=not drifting).train()
    other.load_state_dict(model.state_dict())
    assert torch.allclose(other.motion(neighbours), model.motion(neighbours), atol=1e-6), "one sample: poses are the same"


def test_prediction_and_first_biases() -> None:
    model = tiny(poses="sensors").eval()
    prediction = model.predict(batch_of(2))
    assert prediction.logits[0].shape == (2, 18, 100, 100, 8) and prediction.labels.shape == (2, 100, 100, 8)
    model.start_from_bias([0.1 * number for number in range(18)])
    bias = model.depth.last.bias.detach()
    assert float(bias[17]) == AIR and float(bias[3]) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="each of the 18 classes"):
        model.start_from_bias([0.0])


def test_with_a_gain_logits_start_alike_and_learn_faster() -> None:
    plain, fast = tiny(), tiny(gain=20.0)
    for model in (plain, fast):
        model.start_from_bias([0.1 * number for number in range(18)])
    torch.testing.assert_close(fast.logits(batch_of()), plain.logits(batch_of()), rtol=1e-4, atol=1e-4)
    batch, before = batch_of(), plain.logits(batch_of()).detach()
    moved = []
    for model in (plain, fast):
        optimizer = torch.optim.Adam(model.depth.last.parameters(), lr=1e-3)
        sum(model.loss(batch).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        moved.append(float((model.logits(batch).detach() - before).abs().mean()))
    assert 15 < moved[1] / moved[0] < 25


def test_images_are_compared_as_the_teaching_says_else_the_model() -> None:
    assert (tiny().photometric, tiny().scales) == (Photometric(), (1,))
    absolute: dict[str, Any] = {"photometric": {"ssim": 0.0}, "scales": (1, 2)}
    assert (tiny(**absolute).photometric, tiny(**absolute).scales) == (Photometric(ssim=0.0), (1, 2))
    taught = tiny(**absolute, teaching={"photometric": {"auto_mask": False}, "scales": [4]})
    assert (taught.photometric, taught.scales) == (Photometric(ssim=0.0, auto_mask=False), (4,))
    batch = batch_of()
    errors = [float(tiny(**how).loss(batch)["loss_photometric"].detach()) for how in ({}, {"scales": (1, 2)}, absolute)]
    assert 0 < errors[2] < errors[1] and errors[0] != errors[1]


def test_with_a_residual_the_last_hourglass_adds_to_the_start() -> None:
    torch.manual_seed(0)
    plain = Hourglasses(4, 2, 3).eval()
    added = Hourglasses(4, 2, 3, residual=True).eval()
    added.load_state_dict(plain.state_dict())
    volume, kept = torch.rand(1, 4, 4, 4, 4), []
    for network in (plain, added):
        network.classif_semantic = torch.nn.Identity()
        kept.append(network(volume))
    start = plain.dres0(volume)
    torch.testing.assert_close(kept[1] - kept[0], plain.dres1(start) + start)


def test_what_a_batch_lacks_is_named() -> None:
    model, b = tiny(), batch_of()
    with pytest.raises(ValueError, match="'semantics'"):
        model.loss(replace(b, semantics=None))
    with pytest.raises(ValueError, match="'neighbours'"):
        model.loss(replace(b, neighbours=None))
    assert b.semantics is not None
    wrong = replace(b.semantics, semantic=torch.full_like(b.semantics.semantic, 18))
    with pytest.raises(ValueError, match="semantics: classes must be within 0..17 or 255, got 18"):
        model.loss(replace(b, semantics=wrong))
    with pytest.raises(ValueError, match="multiples of 4"):
        model.logits(replace(b, images=b.images[..., :-2], semantics=None, neighbours=None))


# --- published names, and folders of weights --------------------------------------------------------------------------


def normalised(name: str) -> list[str]:
    """A convolution and what normalises it."""
    return [f"{name}.0.weight", *(f"{name}.1.{kind}" for kind in NORM)]


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def resnet(prefix: str, blocks: int, convolutions: int, shortcut: bool) -> list[str]:
    names = [
        f"{prefix}.{block}.{kind}"
        for block in range(blocks)
        for number in range(1, convolutions + 1)
        for kind in (f"conv{number}.weight", *(f"bn{number}.{norm}" for norm in NORM))
    ]
    return names + (
        [f"{prefix}.0.downsample.{name}" for name in normalised("x")[0:0]] + normalised(f"{prefix}.0.downsample")
        if shortcut
        else []
    )


def published_names() -> dict[str, set[str]]:
    """What the four files hold, as GANWANSHUI/GaussianOcc's modules name it."""
    encoder = ["backbone.0.weight", *(f"backbone.1.{kind}" for kind in NORM), "depth_layer.weight", "depth_layer.bias"]
    for stage, blocks in {"backbone.4": 3, "backbone.5": 4, "layer3": 23}.items():
        encoder += resnet(stage, blocks, 3, shortcut=True)
    encoder += [f"{layer}.conv.{number}.weight" for layer in ("upsampling_layer", "Upsampling_4") for number in (0, 3)]
    heads = {"classif3": 5, "classif_semantic": 5, "classif_flow": 4, "dres0": 2, "dres1": 2}
    volume = [name for head, count in heads.items() for n in range(count) for name in normalised(f"{head}.{2 * n}")]
    parts = ("conv1.0", "conv2", "conv3.0", "conv4.0", "conv5", "conv6")
    volume += [name for glass in (2, 3, 4) for part in parts for name in normalised(f"dres{glass}.{part}")]
    constants = ["xyz_min", "xyz_max", "Zval", "scene_centroid", "vox_util.posfreq", "gs_vox_util.posfreq"]
    pose_encoder = ["encoder.conv1.weight", *(f"encoder.bn1.{kind}" for kind in NORM)]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        pose_encoder += resnet(f"encoder.layer{stage}", blocks, 2, shortcut=stage > 1)
    layers = [f"net.{n}" for n in range(4)] + ["refine_mlp.0", *(f"refine_mlp.{n}.0" for n in range(2, 7)), "refine_mlp.7"]
    pose = [f"{layer}.{kind}" for layer in (*layers, "finial_conv") for kind in ("weight", "bias")]
    return {
        "encoder": set(encoder),
        "depth": {*constants, *(f"_3DCNN.{name}" for name in volume)},
        "pose_encoder": set(pose_encoder),
        "pose": set(pose),
    }


def test_published_names_and_sizes() -> None:
    config = gaussianocc_config("paper", toy_grid())
    config.pop("type")
    with torch.device("meta"):
        model = GaussianOcc(**config)
    files = RECIPE.checkpoints.files
    state = model.state_dict()
    for stem, names in published_names().items():
        own = {name.removeprefix(files[stem]) for name in state if name.startswith(files[stem])}
        assert own == names, stem
    assert {name for name in state if not name.startswith(tuple(files.values()))} == set()
    shapes = {
        "encoder.backbone.0.weight": (64, 3, 7, 7),
        "encoder.upsampling_layer.conv.0.weight": (512, 1536, 3, 3),
        "encoder.depth_layer.weight": (64, 256, 1, 1),
        "depth.Zval": (1, 424),
        "depth._3DCNN.dres0.0.0.weight": (32, 64, 3, 3, 3),
        "depth._3DCNN.dres2.conv6.0.weight": (64, 32, 3, 3, 3),
        "depth._3DCNN.classif_semantic.8.0.weight": (18, 32, 3, 3, 3),
        "pose_network.pose_encoder.encoder.conv1.weight": (64, 6, 7, 7),
        "pose_network.pose.net.3.weight": (12, 256, 1, 1),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert model.pose_network is not None
    counts = [
        sum(parameter.numel() for parameter in part.parameters())
        for part in (model.encoder, model.depth, model.pose_network.pose_encoder, model.pose_network.pose)
    ]
    assert counts == [38_758_528, 2_123_372, 21_294_080, 2_008_984]
    assert model.vertices[..., 0].numel() == 2_160_000


def write_folder(model: GaussianOcc, folder: Path) -> None:
    """As upstream's save_model writes it: four files, with sizes and a classifier that nothing here reads, and the optimizer."""
    folder.mkdir()
    for stem, prefix in RECIPE.checkpoints.files.items():
        state: dict[str, Any] = {
            name.removeprefix(prefix): value for name, value in model.state_dict().items() if name.startswith(prefix)
        }
        if stem == "encoder":
            state |= {"height": 384, "width": 640}
        if stem == "pose_encoder":
            state |= {"encoder.fc.weight": torch.zeros(3, 3), "dummy": torch.zeros(1, 1, 1)}
        if state:
            torch.save(state, folder / f"{stem}.pth")
    torch.save({"state": {}, "param_groups": []}, folder / "adam.pth")


def test_a_folder_is_a_checkpoint(tmp_path: Path) -> None:
    trained, fresh = tiny(seed=1), tiny(seed=2)
    write_folder(trained, tmp_path / "weights_5")
    assert load_released(fresh, tmp_path / "weights_5") == []
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    # A model that sensors tell of motion has no use for half of it, whether it is there or not.
    sensors = tiny(seed=3, **SENSOR_POSES)
    for stem in ("pose", "pose_encoder"):
        (tmp_path / "weights_5" / f"{stem}.pth").unlink()
    assert load_released(sensors, tmp_path / "weights_5") == []
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"without pose_encoder.pth, pose.pth: it must hold encoder.pth, depth.pth"):
        load_released(fresh, tmp_path / "weights_5")
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    ahead = replace(toy_grid(), lower=(0.0, -40.0, -1.0), upper=(80.0, 40.0, 5.4))
    write_folder(tiny(ahead), tmp_path / "ahead")
    with pytest.raises(CheckpointMismatch, match="made for another range: depth.xyz_min, depth.xyz_max"):
        load_released(tiny(), tmp_path / "ahead")
    smaller = replace(toy_grid(), lower=(0.0, -25.6, -2.0), upper=(51.2, 25.6, 4.4))
    write_folder(tiny(smaller), tmp_path / "kitti")
    with pytest.raises(CheckpointMismatch, match=r"kitti' does not fit the model. 1 of another shape: depth.Zval"):
        load_released(tiny(), tmp_path / "kitti")
    write_folder(tiny(planes=4), tmp_path / "wide")
    with pytest.raises(CheckpointMismatch, match="of another shape: depth._3DCNN"):
        load_released(tiny(), tmp_path / "wide")
    (tmp_path / "wide" / "depth.pth").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"depth\.pth"):
        load_released(tiny(), tmp_path / "wide")
    with pytest.raises(CheckpointError, match="is a folder, and this model's are single files"):
        load_released(torch.nn.Linear(2, 2), tmp_path / "kitti")


def test_the_image_network_starts_from_torchvisions(tmp_path: Path) -> None:
    model = tiny()
    names = {"backbone.0": "conv1", "backbone.1": "bn1", "backbone.4": "layer1", "backbone.5": "layer2", "layer3": "layer3"}
    state = {
        there + name.removeprefix(f"encoder.{here}"): torch.full_like(value, 0.5 if value.is_floating_point() else 1)
        for name, value in model.state_dict().items()
        for here, there in names.items()
        if name.startswith(f"encoder.{here}.")
    }
    torch.save(state | {"layer4.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    loaded = load_gaussianocc_pretrain(model, tmp_path / "resnet.pth")
    assert len(loaded) == len(state) and bool((model.encoder.layer3[0].conv1.weight == 0.5).all())
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointMismatch, match="encoder.layer3.0.conv1.weight"):
        load_gaussianocc_pretrain(model, tmp_path / "resnet.pth")


def test_a_few_steps_teach_what_images_show() -> None:
    b = batch_of(semantic=11)
    model = tiny(poses="sensors", weights=(0.3, 0.0, 0.0), teaching={"photometric_weight": 0.0}).train()
    model.start_from_bias([0.0] * 18)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(25):
        loss = model.loss(b)["loss_semantic"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0], losses
