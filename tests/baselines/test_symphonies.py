"""Symphonies: published parameters and names, and the behaviour of a model that can be trained here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kitti_rig import IMAGE, KITTI360, RENDERING, SMALL, kitti_batch
from torch import Tensor, nn

from baselines.checkpoints import CheckpointError, load_maskdino_pretrain, load_released
from baselines.gaussrender import GaussRender
from baselines.interface import OccupancyBatch, OccupancyGrid
from baselines.symphonies import Symphonies, symphonies_config
from baselines.symphonies.geometry import frustums
from baselines.symphonies.losses import voxel_losses

GAUSSIANS = 2 * (128 * 128 + 128) + 129 * (11 + 19)


def build(size: str, grid: OccupancyGrid, **options: Any) -> Symphonies:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(symphonies_config(size, grid) | options)  # type: ignore[arg-type]


def small(**options: Any) -> Symphonies:
    return build("toy", SMALL, image_size=(176, 48), **options)


def paper(**options: Any) -> Symphonies:
    """The published model without memory for its values: for names, shapes and counts."""
    with torch.device("meta"):
        return build("paper", KITTI360, **options)


def with_gradients_everywhere(model: Symphonies) -> Symphonies:
    """Attentions whose offsets and weights depend on their queries, residual blocks that are not the identity."""
    for name, parameter in model.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    return kitti_batch(SMALL, batch=2, **IMAGE)


@pytest.fixture(scope="module")
def toy() -> Symphonies:
    return with_gradients_everywhere(small()).eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Published parameters ----------------------------------------------------------------------------------------------


def test_paper_model_has_the_published_parameters() -> None:
    model = paper()
    assert count(model.decoder) == 21_584_467
    assert [count(layer) for layer in model.decoder.layers] == [715_040, 715_040, 458_720]
    assert count(model.decoder.aspp) == 1_770_496
    assert count(model.encoder) - count(model.encoder.model) == 161_992
    assert count(model.encoder.model["backbone"]) == 23_508_032  # ResNet-50
    rendered = paper(gaussrender={})
    assert count(rendered) - count(model) == GAUSSIANS
    assert rendered.state_dict().keys() - model.state_dict().keys() == {"renderer.bg_color", "decoder.renderer.bg_color"} | {
        f"decoder.renderer_prep.decoder.mlp_coarse.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")
    }


def test_paper_model_has_the_published_names() -> None:
    """As Lightning writes them, with ``model.`` in front."""
    found = {f"model.{name}": list(value.shape) for name, value in paper().state_dict().items()}
    pixel = "model.encoder.model.panoptic_head.pixel_decoder"
    layer = "model.decoder.layers"
    published = {
        "model.encoder.model.backbone.layer4.2.conv3.weight": [2048, 512, 1, 1],
        "model.encoder.model.backbone.layer1.0.downsample.1.running_var": [256],
        f"{pixel}.input_proj.0.0.weight": [256, 512, 1, 1],
        f"{pixel}.input_proj.2.1.bias": [256],
        f"{pixel}.input_proj.3.0.weight": [256, 2048, 3, 3],
        f"{pixel}.transformer.level_embed": [4, 256],
        f"{pixel}.transformer.encoder.layers.5.self_attn.sampling_offsets.weight": [256, 256],
        f"{pixel}.transformer.encoder.layers.0.ffn.layers.0.0.weight": [2048, 256],
        f"{pixel}.transformer.encoder.layers.0.ffn.layers.1.bias": [256],
        f"{pixel}.transformer.encoder.layers.3.norms.1.weight": [256],
        f"{pixel}.mask_features.bias": [256],
        f"{pixel}.adapter_1.conv.weight": [256, 256, 1, 1],
        f"{pixel}.layer_1.gn.weight": [256],
        "model.encoder.query_embed.weight": [100, 128],
        "model.encoder.pts_embed.weight": [100, 2],
        "model.encoder.out_projs.2.0.weight": [128, 256, 1, 1],
        "model.encoder.out_projs.0.1.num_batches_tracked": [],
        "model.encoder.out_projs.1.3.bias": [128],
        "model.decoder.image_grid": [1, 2, 376, 1408],
        "model.decoder.voxel_grid": [3, 128, 128, 8],
        "model.decoder.scene_embed.weight": [131_072, 128],
        "model.decoder.scene_pos.embeds.0.weight": [256, 64],
        "model.decoder.scene_pos.embeds.2.weight": [2, 64],
        "model.decoder.scene_pos.proj.weight": [128, 192],
        "model.decoder.voxel_proposal.attn.attn.sampling_offsets.bias": [8 * 3 * 4 * 2],
        "model.decoder.voxel_proposal.attn.ffn.2.weight": [128, 512],
        f"{layer}.0.query_image_cross_defrom_attn.attn.attention_weights.weight": [96, 128],
        f"{layer}.0.query_image_cross_defrom_attn.norm2.bias": [128],
        f"{layer}.1.scene_query_cross_attn.attn.in_proj_weight": [384, 128],
        f"{layer}.1.scene_query_cross_attn.attn.out_proj.bias": [128],
        f"{layer}.2.scene_self_deform_attn.attn.attns.0.sampling_offsets.weight": [8 * 8 * 2, 128],
        f"{layer}.2.scene_self_deform_attn.ffn.0.weight": [512, 128],
        f"{layer}.1.query_scene_cross_deform_attn.attn.attns.0.value_proj.weight": [128, 128],
        f"{layer}.1.query_self_attn.ffn.2.bias": [128],
        "model.decoder.aspp.blks.1.3.weight": [128, 128, 3, 3, 3],
        "model.decoder.aspp.blks.0.4.running_mean": [128],
        "model.decoder.cls_head.0.0.weight": [128, 128, 3, 3, 3],
        "model.decoder.cls_head.0.1.weight": [128],
        "model.decoder.cls_head.1.up_bn.0.bias": [128],
        "model.decoder.cls_head.1.up_bn.1.running_var": [128],
        "model.decoder.cls_head.2.weight": [19, 128, 1, 1, 1],
    }
    assert {name: found.get(name) for name in published} == published
    absent = ("scene_query_cross_attn.ffn", "query_scene_cross_deform_attn.ffn", "predictor", "layers.2.query_self_attn")
    assert not [name for name in found if any(part in name for part in absent)]


def lightning(state: dict[str, Tensor]) -> dict[str, Any]:
    """What Lightning saves around the weights of such a training."""
    return {
        "epoch": 26,
        "global_step": 54_000,
        "pytorch-lightning_version": "2.0.0",
        "state_dict": {f"model.{name}": value for name, value in state.items()}
        | {"model.encoder.model.panoptic_head.criterion.empty_weight": torch.ones(134)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1836), "dirpath": "outputs"}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}],
        "lr_schedulers": [{"milestones": Counter([25]), "gamma": 0.1, "last_epoch": 26}],
    }


def test_lightning_checkpoint_loads(tmp_path: Path, toy: Symphonies) -> None:
    torch.save(lightning(toy.state_dict()), tmp_path / "kitti_360_e26_miou0.1836.ckpt")
    model = small(gaussrender={})
    with pytest.raises(CheckpointError, match="trained without rendering"):
        load_released(model, tmp_path / "kitti_360_e26_miou0.1836.ckpt")
    left = load_released(model, tmp_path / "kitti_360_e26_miou0.1836.ckpt", allow_missing_renderer=True)
    assert len(left) == 8 and all("renderer" in name for name in left)
    model.init_weights()  # what mmengine's Runner does before training
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in toy.state_dict().items())


def test_image_network_starts_from_maskdino(tmp_path: Path, toy: Symphonies) -> None:
    network = toy.encoder.model.state_dict()
    others = {"panoptic_head.predictor.query_feat.weight": torch.ones(3), "panoptic_head.criterion.empty_weight": torch.ones(134)}
    torch.save(network | others, tmp_path / "maskdino.pth")
    model = small()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    loaded = load_maskdino_pretrain(model, tmp_path / "maskdino.pth")
    assert set(loaded) == {f"encoder.model.{name}" for name in network}
    assert all(torch.equal(value, network[name]) for name, value in model.encoder.model.state_dict().items())
    assert (model.decoder.scene_embed.weight == 0.5).all()
    torch.save({n: v for n, v in network.items() if "input_proj.3" not in n}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="input_proj.3.0.weight"):
        load_maskdino_pretrain(model, tmp_path / "part.pth")


def test_paper_structure_trains_on_a_small_scene() -> None:
    """Every published block at its width, one step on 16 x 16 x 16 voxels; rendering changes the published features."""
    grid = replace(KITTI360, upper=(51.2, 25.6, 49.2), voxel_size=3.2)
    model = build("paper", grid, image_size=(96, 64), gaussrender=RENDERING).train()
    losses = model.loss(kitti_batch(grid, width=96, height=64))
    assert len(losses) == 3 * 4 + 4 and all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert model.decoder.scene_embed.weight.grad is not None
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# Behaviour of the toy model ----------------------------------------------------------------------------------------


def test_toy_prediction(toy: Symphonies, batch: OccupancyBatch) -> None:
    prediction = toy.predict(batch)
    assert [tuple(scale.shape) for scale in prediction.logits] == [(2, 19, 32, 32, 8)]
    assert prediction.features is not None and prediction.features.shape == (2, 32, *SMALL.shape)
    # the rendered features are what the last convolution sees
    torch.testing.assert_close(toy.decoder.cls_head[2](prediction.features), prediction.logits[-1])


def test_training_predicts_at_every_layer_with_the_published_weights(batch: OccupancyBatch) -> None:
    model = small().train()
    prediction = model.extract(batch)
    assert [tuple(scale.shape) for scale in prediction.logits] == [(2, 19, 32, 32, 8)] * 3
    losses = model.occupancy_losses(prediction, batch)
    parts = frustums(SMALL, batch.projection[:, 0], (176, 48), 8)
    for logits, weight, suffix in zip(prediction.logits, (0.5, 0.5, 1.0), ("_layer1", "_layer2", ""), strict=True):
        terms = voxel_losses(logits, batch.labels, parts, 64, model.occupancy_loss.class_weights, 0, 255)
        for name, value in terms.items():
            torch.testing.assert_close(losses.pop(f"loss_{name}{suffix}"), weight * value)
    assert not losses


def test_a_batch_is_its_samples(toy: Symphonies, batch: OccupancyBatch) -> None:
    """Samples with different cameras, hence different cells in view."""
    both = toy.predict(batch).logits[-1]
    names = ("images", "projection", "intrinsics", "reference_to_camera", "labels", "camera_mask", "reference_to_lidar", "depth")
    for index in range(2):
        one = replace(batch, **{name: getattr(batch, name)[index : index + 1] for name in names}, meta=batch.meta[index:][:1])
        torch.testing.assert_close(toy.predict(one).logits[-1][0], both[index], rtol=1e-3, atol=1e-3)


def test_predictions_depend_on_image_camera_and_depth(toy: Symphonies, batch: OccupancyBatch) -> None:
    plain = toy.predict(batch).logits[-1]
    assert batch.depth is not None
    for other in (
        replace(batch, images=batch.images.flip(0)),
        replace(batch, projection=batch.projection.flip(0)),
        replace(batch, depth=batch.depth * 0.5),
    ):
        assert not torch.allclose(toy.predict(other).logits[-1], plain)


def test_images_reach_the_backbone_as_rgb(toy: Symphonies, batch: OccupancyBatch) -> None:
    """BGR minus the mean -> RGB in ImageNet's normalisation of values in 0..1."""
    bgr = torch.tensor([[10.0, 120.0, 250.0]]).expand(2, 3)[:, None, :, None, None].expand(2, 1, 3, 48, 176)
    seen: list[Tensor] = []
    hook = toy.encoder.model["backbone"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mean = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    toy.predict(replace(batch, images=bgr - mean))
    hook.remove()
    rgb = torch.tensor([250.0, 120.0, 10.0]) / 255
    expected = (rgb - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0], expected[:, None, None].expand(2, 3, 48, 176))


def test_every_trained_parameter_gets_a_gradient(batch: OccupancyBatch) -> None:
    model = with_gradients_everywhere(small()).train()
    sum(model.loss(batch).values()).backward()
    lost = {name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert not lost
    frozen = {name.split(".")[4] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"mask_features", "adapter_1", "layer_1"}


def test_rendering_reaches_the_last_output_only(batch: OccupancyBatch) -> None:
    model = small(gaussrender=RENDERING).train()
    assert model.gaussrender is not None and model.gaussrender.grid == SMALL
    assert model.decoder.renderer is model.renderer is model.gaussrender.renderer
    losses = model.loss(batch)
    rendered = [value for name, value in losses.items() if name.startswith("loss_render_")]
    assert len(rendered) == 4
    torch.stack(rendered).sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"decoder.cls_head.2.weight", "decoder.aspp.blks.0.0.weight", "encoder.query_embed.weight"} <= touched
    assert "decoder.renderer_prep.decoder.mlp_coarse.4.weight" in touched
    assert any(name.startswith("encoder.model.backbone.") for name in touched)


def test_rendering_leaves_inference_as_it_is(toy: Symphonies, batch: OccupancyBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same modules run in the same order on the same numbers, and nothing of the plug-in."""
    rendered = small(gaussrender=RENDERING)
    rendered.load_state_dict(toy.state_dict(), strict=False)
    monkeypatch.setattr(GaussRender, "losses", lambda *_: pytest.fail("the plug-in ran"))
    runs = []
    for model in (toy, rendered.eval()):
        order: list[str] = []
        hooks = [
            module.register_forward_hook(lambda *_, name=name, order=order: order.append(name))
            for name, module in model.named_modules()
        ]
        prediction = model.predict(batch)
        for hook in hooks:
            hook.remove()
        runs.append((order, prediction))
    (plain_order, plain), (order, prediction) = runs
    assert order == plain_order and "decoder.cls_head.2" in order and not [name for name in order if "renderer" in name]
    assert torch.equal(prediction.logits[-1], plain.logits[-1])
    assert prediction.features is not None and plain.features is not None
    assert torch.equal(prediction.features, plain.features)


def test_training_lowers_the_loss() -> None:
    batch = kitti_batch(SMALL, **IMAGE)
    model = small().train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.stack(list(model.loss(batch).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_unknown_depth_proposes_nothing(toy: Symphonies, batch: OccupancyBatch) -> None:
    """A frame without any depth: no cell looks at the image for itself, the rest works."""
    assert batch.depth is not None
    seen: list[int] = []
    hook = toy.decoder.voxel_proposal.attn.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    logits = toy.predict(replace(batch, depth=torch.zeros_like(batch.depth))).logits[-1]
    hook.remove()
    assert seen == [0, 0] and torch.isfinite(logits).all()


def test_the_decoder_runs_in_float32_under_autocast(toy: Symphonies, batch: OccupancyBatch) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = toy.predict(batch)
    assert prediction.logits[-1].dtype == torch.float32 and prediction.features is not None
    assert prediction.features.dtype == torch.float32


def test_wrong_input_is_named(toy: Symphonies, batch: OccupancyBatch) -> None:
    assert batch.depth is not None
    with pytest.raises(ValueError, match=r"batch.depth must be \[2, 1, 48, 176\], got None"):
        toy.predict(replace(batch, depth=None))
    with pytest.raises(ValueError, match=r"depth must be \[2, 1, 48, 176\], got \[2, 1, 24, 176\]"):
        toy.predict(replace(batch, depth=batch.depth[..., ::2, :]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        toy.predict(replace(batch, depth=batch.depth.masked_fill(batch.depth > 39, float("nan"))))
    with pytest.raises(ValueError, match="must be 176 x 48 pixels, got 88 x 48"):
        toy.predict(replace(batch, images=batch.images[..., ::2]))
    with pytest.raises(ValueError, match="2 cameras, the model was built for 1 to 1"):
        toy.predict(replace(batch, images=batch.images.repeat(1, 2, 1, 1, 1)))
    with pytest.raises(ValueError, match="2 cells in height cannot be folded by"):
        small(position_fold=(2, 2, 1))
    with pytest.raises(ValueError, match="must be multiples of 4 heads"):
        small(dim=30)
    with pytest.raises(ValueError, match="must be 1 or 2, got 4"):
        small(volume_scale=4)
    with pytest.raises(ValueError, match="unknown Symphonies size 'huge'"):
        symphonies_config("huge", SMALL)  # type: ignore[arg-type]
