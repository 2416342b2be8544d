"""The plug-in as a whole: losses, gradients, batches, options, errors."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from grids import published

from baselines.gaussrender import GaussRender, GaussRenderConfig, VoxelToGaussians, gaussian_scale
from baselines.gaussrender.losses import depth_l1, kl, l1
from baselines.gaussrender.voxels import transferred_opacity
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel
from renderers import Cameras, RasterSettings
from renderers.dialects import Dialect
from renderers.reference import ReferenceRenderer

NAMES = ("empty", "car", "road", "tree")


def make_grid(dataset: str = "occ3d") -> OccupancyGrid:
    return OccupancyGrid((-4.0, -4.0, -1.0), (4.0, 4.0, 3.0), 1.0, NAMES, empty=0, dataset=dataset, published=published(dataset))


GRID = make_grid()
CONFIG = GaussRenderConfig(bev_reduction=10)


def make_cameras(batch: int = 1) -> Cameras:
    """Two cameras at z = 1 that look along +x and -x."""
    k = torch.tensor([[24.0, 0, 20], [0, 24, 12], [0, 0, 1]])
    ahead = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 6], [0, 0, 0, 1]])
    back = torch.tensor([[0.0, 1, 0, 0], [0, 0, -1, 1], [-1, 0, 0, 6], [0, 0, 0, 1]])
    return Cameras(k.expand(batch, 2, 3, 3), torch.stack([ahead, back]).expand(batch, 2, 4, 4), 40, 24)


def make_sample(batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 4, *GRID.shape, generator=g)
    features = torch.randn(batch, 6, *GRID.shape, generator=g)
    labels = torch.randint(0, 4, (batch, *GRID.shape), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.7] = 0
    return logits, features, labels


def make_plugin(config: GaussRenderConfig = CONFIG, channels: int | None = 6) -> GaussRender:
    torch.manual_seed(0)
    return GaussRender(GRID, ReferenceRenderer(), channels, config)


def test_sum_of_named_terms() -> None:
    logits, features, labels = make_sample()
    plugin = make_plugin()
    with torch.no_grad():
        terms = plugin.losses(logits, features, make_cameras(), labels, torch.Generator().manual_seed(1))
    assert list(terms) == ["loss_render_image", "loss_render_depth", "loss_render_bev", "loss_render_bev_depth"]
    total = plugin(logits, features, make_cameras(), labels, torch.Generator().manual_seed(1)).detach()
    assert float(total) == pytest.approx(float(sum(terms.values())), rel=1e-6)
    assert all(value > 0 for value in terms.values())


def test_terms_by_hand() -> None:
    """Each term from the rendered images, spelled out."""
    logits, features, labels = make_sample()
    config = GaussRenderConfig(bev_reduction=10, camera_indices=(0, 1), bev_weight=3.0)
    plugin = make_plugin(config)
    terms = plugin.losses(logits, features, make_cameras(), labels)
    seen = plugin.renderer.in_image(make_cameras())
    with torch.no_grad():
        p = plugin.renderer.prediction(plugin.renderer_prep(logits, features), make_cameras(), labels, seen)
        t = plugin.renderer.truth(labels, make_cameras(), seen)
    assert t.image.shape == (1, 2, 24, 40, 4) and t.bev.shape == (1, 1, 40, 40, 4)
    image = sum((p.image[0, v] - t.image[0, v]).abs().mean() for v in range(2)) / 2
    torch.testing.assert_close(terms["loss_render_image"], 10 * image)
    shown = [t.depth[0, v] > 0.1 for v in range(2)]
    depth = sum((p.depth[0, v][m] / 50 - t.depth[0, v][m] / 50).abs().mean() for v, m in enumerate(shown)) / 2
    torch.testing.assert_close(terms["loss_render_depth"], 10 * depth)
    torch.testing.assert_close(terms["loss_render_bev"], 3 * (p.bev - t.bev).abs().mean())
    m = t.bev_depth > 0.1
    torch.testing.assert_close(terms["loss_render_bev_depth"], 10 * (p.bev_depth[m] - t.bev_depth[m]).abs().mean() / 100)


def test_gradient_reaches_opacity_and_semantics_only() -> None:
    logits, features, labels = make_sample()
    plugin = make_plugin()
    logits.requires_grad_()
    features.requires_grad_()
    plugin(logits, features, make_cameras(), labels).backward()
    assert logits.grad.abs().sum() > 0 and features.grad.abs().sum() > 0
    rows = plugin.renderer_prep.decoder.mlp_coarse[4].weight.grad.abs().sum(dim=1)
    opacity = 3 + 4
    assert rows[opacity] > 0
    assert rows.sum() == rows[opacity]  # offset, decoded classes, scale and rotation are not read
    voxels = plugin.renderer_prep(logits, features)
    assert not voxels.scales.requires_grad and voxels.rotations is None


def test_gradients_agree_with_finite_differences() -> None:
    logits, features, labels = make_sample()
    plugin = make_plugin(GaussRenderConfig(bev_reduction=10, camera_indices=(0,)))
    logits.requires_grad_()
    plugin(logits, features, make_cameras(), labels).backward()
    flat = logits.grad.flatten()
    direction = torch.zeros_like(flat)
    strongest = flat.abs().topk(20).indices
    direction[strongest] = flat[strongest].sign()
    step = 1e-2 * direction.view_as(logits)
    with torch.no_grad():
        up = plugin(logits + step, features, make_cameras(), labels)
        down = plugin(logits - step, features, make_cameras(), labels)
    assert float((up - down) / 2e-2) == pytest.approx(float(flat @ direction), rel=0.05)


def test_batch_equals_samples() -> None:
    """A batch is the mean of its samples, draws included."""
    logits, features, labels = make_sample(batch=2)
    for strategy in ("sensor", "elevated", "random", "stereo", "trajectory"):
        plugin = make_plugin(GaussRenderConfig(bev_reduction=10, num_cameras=2, camera_strategy=strategy))
        g = torch.Generator().manual_seed(3)
        both = plugin.losses(logits, features, make_cameras(2), labels, g)
        g = torch.Generator().manual_seed(3)
        each = [plugin.losses(logits[[b]], features[[b]], make_cameras(), labels[[b]], g) for b in range(2)]
        for name, value in both.items():
            torch.testing.assert_close(value, (each[0][name] + each[1][name]) / 2, msg=f"{strategy} {name}")


@torch.no_grad()
def test_own_generator_is_seeded_and_copies() -> None:
    logits, features, labels = make_sample()
    config = GaussRenderConfig(bev_reduction=10, camera_strategy="random", seed=5)
    plugin = make_plugin(config)

    def loss_of(module: GaussRender) -> float:
        return float(module(logits, features, make_cameras(), labels))

    first = loss_of(plugin)
    assert first == loss_of(make_plugin(config))
    assert first != loss_of(make_plugin(GaussRenderConfig(bev_reduction=10, camera_strategy="random", seed=6)))
    copied = copy.deepcopy(plugin)  # what a moving average of weights does
    assert loss_of(copied) == loss_of(plugin)
    assert copied.renderer.backend is plugin.renderer.backend
    assert copied.renderer.bg_color.data_ptr() != plugin.renderer.bg_color.data_ptr()


def test_state_dict_has_the_published_names_and_shapes() -> None:
    names = tuple(f"class {i}" for i in range(17)) + ("empty",)
    grid = OccupancyGrid((-40, -40, -1), (40, 40, 5.4), 1.6, names, empty=17, dataset="occ3d", published=published("occ3d"))
    state = GaussRender(grid, "diff_gauss", 256).state_dict()  # needs no GPU until it renders
    shapes = {name: list(value.shape) for name, value in state.items()}
    assert shapes == {
        "renderer_prep.decoder.mlp_coarse.0.weight": [256, 256],
        "renderer_prep.decoder.mlp_coarse.0.bias": [256],
        "renderer_prep.decoder.mlp_coarse.2.weight": [256, 256],
        "renderer_prep.decoder.mlp_coarse.2.bias": [256],
        "renderer_prep.decoder.mlp_coarse.4.weight": [29, 256],
        "renderer_prep.decoder.mlp_coarse.4.bias": [29],
        "renderer.bg_color": [19],
    }
    assert sum(v.numel() for k, v in state.items() if "decoder" in k) == 139_037
    assert state["renderer.bg_color"].argmax() == 17 and state["renderer.bg_color"].sum() == 1


def test_autocast_renders_in_float32() -> None:
    logits, features, labels = make_sample()
    plugin = make_plugin()
    logits.requires_grad_()
    full = plugin(logits, features, make_cameras(), labels, torch.Generator().manual_seed(0)).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = plugin(logits.bfloat16(), features, make_cameras(), labels, torch.Generator().manual_seed(0))
    assert mixed.dtype == torch.float32
    assert float(mixed.detach()) == pytest.approx(float(full), rel=0.02)


@pytest.mark.parametrize("kind", ["l1", "kl"])
def test_a_perfect_prediction_costs_less_than_a_wrong_one(kind: str) -> None:
    _, _, labels = make_sample()
    config = GaussRenderConfig(bev_reduction=10, loss=kind, overwrite_opacity=True, camera_indices=(0, 1))
    plugin = make_plugin(config, None)
    right = 30 * torch.nn.functional.one_hot(labels, 4).float().movedim(-1, 1)
    wrong = right.roll(1, dims=1)
    good = plugin.losses(right, None, make_cameras(), labels)
    bad = plugin.losses(wrong, None, make_cameras(), labels)
    assert all(float(good[name]) == pytest.approx(0, abs=1e-4) for name in good)
    assert all(bad[name] > 0.01 for name in bad)


def test_kl_is_the_divergence_of_pixel_distributions() -> None:
    truth = torch.tensor([1.0, 0, 0, 0]).expand(1, 1, 2, 2, 4)
    even = torch.full((1, 1, 2, 2, 4), 0.25)
    assert float(kl(truth, truth)) == 0
    # ln 4 a pixel, averaged over four classes, times ten; the floor costs a little
    assert float(kl(even, truth)) == pytest.approx(10 * torch.log(torch.tensor(4.0)).item() / 4, rel=0.01)
    assert float(kl(truth, even)) > float(kl(even, truth))
    assert torch.isfinite(kl(truth, truth.roll(1, -1)))
    assert float(l1(even, truth)) == pytest.approx((0.75 + 3 * 0.25) / 4)


def test_empty_view_switch() -> None:
    """Two cameras, one of which sees nothing: published, the whole depth term is dropped."""
    truth = torch.zeros(1, 2, 2, 2)
    truth[0, 0, 0, 0] = 20.0
    predicted = torch.full_like(truth, 10.0)
    assert float(depth_l1(predicted, truth, 50.0, empty_view_drops_all=True)) == 0
    assert float(depth_l1(predicted, truth, 50.0, empty_view_drops_all=False)) == pytest.approx(0.2)
    truth[0, 1, 1, 1] = 10.0
    assert float(depth_l1(predicted, truth, 50.0, empty_view_drops_all=True)) == pytest.approx(0.1)
    two = torch.cat([truth, torch.zeros_like(truth)])  # a sample without depth does not touch the other
    assert float(depth_l1(torch.cat([predicted] * 2), two, 50.0, True)) == pytest.approx(0.05)


def test_terms_can_be_left_out() -> None:
    logits, features, labels = make_sample()
    only_bev = make_plugin(GaussRenderConfig(bev_reduction=10, with_camera=False, with_depth=False))
    assert list(only_bev.losses(logits, features, make_cameras(), labels)) == ["loss_render_bev", "loss_render_bev_depth"]
    only_camera = make_plugin(GaussRenderConfig(with_bev=False, with_bev_depth=False, with_depth=False))
    assert list(only_camera.losses(logits, features, make_cameras(), labels)) == ["loss_render_image"]
    with pytest.raises(ValueError, match="no rendered loss"):
        GaussRenderConfig(with_camera=False, with_depth=False, with_bev=False, with_bev_depth=False)


OCC3D = OccupancyGrid(
    GRID.lower, GRID.upper, 1.0, tuple(f"class {i}" for i in range(18)), empty=17, dataset="occ3d", published=published("occ3d")
)


class Remembering(OccupancyModel):
    """Answers every batch with the logits and features it was made with."""

    def __init__(self, logits: torch.Tensor, features: torch.Tensor, config: GaussRenderConfig) -> None:
        super().__init__(OCC3D)
        self.answers = OccupancyPrediction((logits.requires_grad_(),), features.requires_grad_())
        torch.manual_seed(0)
        plugin = GaussRender(OCC3D, ReferenceRenderer(), 6, config)
        assert plugin.renderer_prep.decoder is not None
        torch.nn.init.constant_(plugin.renderer_prep.decoder.mlp_coarse[-1].bias, -3.0)  # some voxels have faded out
        self.attach_rendering(plugin, torch.nn.Module())

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        return self.answers


def test_images_alone_teach_opacity_and_the_faint_is_empty() -> None:
    _, features, labels = make_sample()
    labels[labels == 0] = OCC3D.empty
    logits = torch.randn(1, 18, *OCC3D.shape, generator=torch.Generator().manual_seed(1))
    cameras = make_cameras()
    batch = OccupancyBatch(
        images=torch.zeros(1, 2, 3, 4, 4),
        projection=cameras.world_to_camera,
        intrinsics=cameras.intrinsics,
        reference_to_camera=cameras.world_to_camera,
        camera_size=(40, 24),
        labels=labels,
        camera_mask=labels >= 0,
        reference_to_lidar=torch.eye(4)[None],
    )
    rendered = {"loss_render_image", "loss_render_depth", "loss_render_bev", "loss_render_bev_depth"}
    both = Remembering(logits.clone(), features * 5, CONFIG)
    assert rendered < set(both(batch, mode="loss"))
    alone = Remembering(logits.clone(), features * 5, replace(CONFIG, with_occupancy=False))
    losses = alone(batch, mode="loss")
    assert set(losses) == rendered
    torch.stack(list(losses.values())).sum().backward()
    assert alone.answers.logits[0].grad.abs().sum() > 0 and alone.answers.features.grad.abs().sum() > 0

    plain, told = both.predict(batch), alone.predict(batch)
    assert torch.equal(plain.logits[0], logits)
    opacity = alone.gaussrender.renderer_prep(logits, features * 5).opacities.reshape(1, *OCC3D.shape)
    faint = opacity < 0.1
    assert 0.02 < faint.float().mean() < 0.98
    assert (told.labels[faint] == OCC3D.empty).all() and (plain.labels[faint] != OCC3D.empty).any()
    assert torch.equal(told.labels[~faint], plain.labels[~faint])
    assert torch.equal(alone(batch, mode="predict")[0]["labels"], told.labels[0])


def test_ignored_voxels_are_not_rendered() -> None:
    logits, features, labels = make_sample()
    labels[:, :, :, :] = GRID.ignore
    plugin = make_plugin()
    with torch.no_grad():  # nothing is left: both sides show the background
        assert float(plugin(logits, features, make_cameras(), labels)) == 0
    kept = make_plugin(GaussRenderConfig(bev_reduction=10, drop_ignored=False))
    assert float(kept(logits, features, make_cameras(), labels).detach()) > 0


def test_flags_of_the_conversion() -> None:
    logits, features, _ = make_sample()

    def convert(**flags: object):
        torch.manual_seed(0)
        prep = VoxelToGaussians(GRID, 6, GaussRenderConfig(**flags))
        return prep(logits, features), prep

    n = 8 * 8 * 4
    base, prep = convert()
    by_voxel = logits.flatten(2).transpose(1, 2)
    assert base.semantics.shape == (1, n, 19)
    torch.testing.assert_close(base.semantics[..., :4], by_voxel)
    assert base.semantics[..., 4:].eq(-10_000).all() and base.semantics.softmax(-1)[..., 4:].eq(0).all()
    raw = prep.decoder.mlp_coarse(features.flatten(2).transpose(1, 2))
    assert raw.shape == (1, n, 11 + 4)
    torch.testing.assert_close(base.opacities, torch.sigmoid(raw[..., 7] - 1))
    assert base.scales.shape == (1, n, 1) and base.scales.eq(gaussian_scale(GRID)).all()

    free, _ = convert(overwrite_scales=False, transfer_colors=False)
    torch.testing.assert_close(free.scales, 0.63 * torch.sigmoid(raw[..., 8:11] - 1) + 0.01)
    length = raw[..., 11:].norm(dim=-1, keepdim=True)
    assert (length == 0).any()  # a voxel that no hidden unit answers to gets the identity
    identity = torch.tensor([1.0, 0, 0, 0])
    torch.testing.assert_close(free.rotations, torch.where(length > 0, raw[..., 11:] / length, identity))
    torch.testing.assert_close(free.semantics[..., :4], raw[..., 3:7])
    straight, _ = convert(overwrite_scales=False, overwrite_rotations=True)
    assert straight.rotations.eq(identity).all()

    hard, _ = convert(overwrite_opacity=True)
    assert hard.opacities.equal((by_voxel.argmax(-1) != 0).float())
    masked, _ = convert(mask_elements=True)
    assert masked.kept.equal(by_voxel.argmax(-1) != 0) and masked.semantics[..., 0].eq(-10_000).all()
    moved, _ = convert(transfer_opacity=True)
    bare = VoxelToGaussians(GRID, None)(logits, None)
    assert bare.rotations is None
    torch.testing.assert_close(moved.opacities, bare.opacities)
    torch.testing.assert_close(bare.opacities, transferred_opacity(by_voxel.softmax(-1)[..., 0]))


def test_transferred_opacity_rule() -> None:
    p = torch.tensor([0.0, 0.4, 0.5, 0.9, 1.0])
    torch.testing.assert_close(transferred_opacity(p), torch.tensor([1.0, 0.84, 0.25, 0.01, 0.0]))


def test_mask_elements_trains() -> None:
    logits, features, labels = make_sample()
    logits.requires_grad_()
    make_plugin(GaussRenderConfig(bev_reduction=10, mask_elements=True))(logits, features, make_cameras(), labels).backward()
    assert logits.grad.abs().sum() > 0


def test_decoded_scales_train() -> None:
    logits, features, labels = make_sample()
    plugin = make_plugin(GaussRenderConfig(bev_reduction=10, overwrite_scales=False))
    plugin(logits, features, make_cameras(), labels).backward()
    rows = plugin.renderer_prep.decoder.mlp_coarse[4].weight.grad.abs().sum(dim=1)
    assert (rows[7:11] > 0).all() and rows[:7].sum() == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        *({name: True} for name in ("mask_elements", "transfer_opacity", "overwrite_opacity", "overwrite_rotations")),
        *({name: False} for name in ("transfer_colors", "overwrite_scales", "drop_ignored", "empty_view_drops_depth")),
        *({"overwrite_opacity": True, name: False} for name in ("transfer_colors", "overwrite_scales")),
        {"num_layers": 3},
        {"loss": "kl"},
        *({"camera_strategy": name} for name in ("elevated", "random", "stereo", "trajectory")),
        *({n: False for n in ("with_camera", "with_depth", "with_bev", "with_bev_depth") if n != kept} for kept in
          ("with_camera", "with_depth", "with_bev", "with_bev_depth")),
    ],
    ids=str,
)  # fmt: skip
def test_every_parameter_has_a_gradient(options: dict[str, object]) -> None:
    """What an option leaves unread is no parameter: several processes train only where each parameter has a gradient."""
    logits, features, labels = make_sample()
    config = replace(CONFIG, **options)
    plugin = make_plugin(config)
    plugin(logits.requires_grad_(), features, make_cameras(), labels).backward()
    assert all(p.grad is not None for p in plugin.parameters())
    read = not (config.overwrite_opacity or config.transfer_opacity) or not (config.transfer_colors and config.overwrite_scales)
    assert (len(list(plugin.parameters())) > 0) == read
    if read:
        assert any(p.grad.any() for p in plugin.parameters())
    after = torch.rand(3)  # what is drawn behind the plug-in is the same under every option but the number of layers
    if config.num_layers == CONFIG.num_layers:
        make_plugin(CONFIG)
        assert after.equal(torch.rand(3))


def test_decoder_layers_are_not_tied() -> None:
    prep = VoxelToGaussians(GRID, 6, GaussRenderConfig(num_layers=3))
    layers = [layer for layer in prep.decoder.mlp_coarse if isinstance(layer, torch.nn.Linear)]
    assert len({layer.weight.data_ptr() for layer in layers}) == 4


@pytest.mark.parametrize(
    ("dataset", "voxel", "sigma"),
    [("occ3d", 0.4, 0.27), ("surroundocc", 0.5, 0.25), ("kitti360", 0.2, 0.1), ("occ3d", 1.6, 1.08), ("kitti360", 0.8, 0.4)],
)
def test_gaussian_scale(dataset: str, voxel: float, sigma: float) -> None:
    grid = OccupancyGrid((0, 0, 0), (voxel * 4,) * 3, voxel, NAMES, empty=0, dataset=dataset, published=published(dataset))
    assert gaussian_scale(grid) == pytest.approx(sigma, rel=1e-12)
    assert gaussian_scale(grid, GaussRenderConfig(gaussian_scale=0.3)) == 0.3
    assert gaussian_scale(grid, GaussRenderConfig(scale_factor=0.5)) == pytest.approx(sigma / 2, rel=1e-12)


@pytest.mark.parametrize("options", [{"scale_factor": 0.0}, {"scale_factor": 2.0, "gaussian_scale": 0.3}])
def test_a_scale_factor_is_positive_and_stands_alone(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="scale_factor"):
        GaussRenderConfig(**options)


def test_a_backends_own_settings_are_shown() -> None:
    saturating = ReferenceRenderer(Dialect("saturating", {"alpha_max": 0.999}))
    plugin = GaussRender(GRID, saturating, None, CONFIG)
    assert plugin.renderer.settings.alpha_max == 0.999
    assert plugin.renderer.departures == {"alpha_max": (0.99, 0.999)}
    logits, _, labels = make_sample()
    assert torch.isfinite(plugin(logits, None, make_cameras(), labels))
    expected = GaussRender(GRID, ReferenceRenderer(), None, GaussRenderConfig(raster=RasterSettings(depth="expected")))
    assert expected.renderer.settings.depth == "expected" and not expected.renderer.departures


def test_errors_name_the_argument() -> None:
    logits, features, labels = make_sample()
    plugin, cameras = make_plugin(), make_cameras()
    cases = [
        (logits[:, :3], features, cameras, labels, r"logits must be \[1, 4, 8, 8, 4\]"),
        (logits, features[..., :2], cameras, labels, r"features must be \[1, F, 8, 8, 4\]"),
        (logits, features, make_cameras(2), labels, r"cameras.intrinsics must be \[1, V, 3, 3\]"),
        (logits, features, cameras, labels[..., :2], r"labels must be \[B, 8, 8, 4\]"),
        (logits, features, cameras, labels.float(), "labels must hold integer"),
        (logits, features, cameras, labels + 2, "neither one of 4 classes nor the ignore label 255"),
    ]
    for *arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            plugin(*arguments)
    with pytest.raises(ValueError, match="features"):
        make_plugin(channels=None)(logits, features, cameras, labels)
    with pytest.raises(ValueError, match="features are None but a decoder of 6 channels was configured"):
        plugin(logits, None, cameras, labels)
    with pytest.raises(ValueError, match="features are None but a decoder"):
        plugin.without_faint(logits, None)
    with pytest.raises(ValueError, match="features have 5 channels, the decoder was made for 6"):
        plugin(logits, features[:, :5], cameras, labels)
    for flag in ("transfer_colors", "overwrite_scales"):
        with pytest.raises(ValueError, match="need voxel features"):
            make_plugin(GaussRenderConfig(**{flag: False}), channels=None)
    for dataset in ("mine", OccupancyGrid(GRID.lower, GRID.upper, 1.0, NAMES, empty=0).dataset):
        with pytest.raises(ValueError, match="no published camera strategy"):
            GaussRender(make_grid(dataset), config=GaussRenderConfig(gaussian_scale=0.3))
        with pytest.raises(ValueError, match="no published Gaussian scale"):
            GaussRender(make_grid(dataset), config=GaussRenderConfig(camera_strategy="sensor"))


def test_readme_snippet_runs() -> None:
    text = (
        (Path(__file__).parents[2] / "README.md")
        .read_text()
        .split("<!-- gaussrender:start -->")[1]
        .split("<!-- gaussrender:end -->")[0]
    )
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, object] = {}
    exec(code, scope)  # noqa: S102
    assert scope["loss"] > 0
    assert scope["logits"].grad.abs().sum() > 0 and scope["features"].grad.abs().sum() > 0
