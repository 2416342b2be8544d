"""GaussianFlowOcc (arXiv:2502.17288): free Gaussians that move with their scene, taught by rendered classes and depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.following import Follower, FrameMissing
from baselines.gaussianflowocc.classes import moving_channels, rendered_classes
from baselines.gaussianflowocc.config import (
    ATTRIBUTES,
    LARGEST_SCALE,
    OPERATIONS,
    check_names,
    check_sizes,
)
from baselines.gaussianflowocc.decoder import Cloud, DecoderSizes, GaussianDecoder, ImageFeatures
from baselines.gaussianflowocc.gaussians import Attributes, Flow, drawn_start, head
from baselines.gaussianflowocc.losses import Teaching, depth_loss, semantic_loss, voxel_losses
from baselines.gaussianflowocc.recipe import RECIPE
from baselines.gaussianflowocc.voxelise import voxelise
from baselines.gaussianflowocc.voxels import ReadOut, voxel_logits
from baselines.images import build_image_network, check_images
from baselines.interface import ImageSupervision, OccupancyBatch, OccupancyGrid, OccupancyPrediction, RenderedDepth
from baselines.options import check_class_weights
from renderers import Cameras, Gaussians, RasterSettings, Renderer, Rendering, get
from renderers.dialects import DIALECTS

_GSPLAT = DIALECTS["gsplat-1.5"]
RASTER = RasterSettings(near=_GSPLAT.near, low_pass=0.3, depth="accumulated", **_GSPLAT.settings)  # type: ignore[arg-type]
"""How the published gsplat 1.2.0 renders, with all of its arguments at their defaults and no background."""


@MODELS.register_module()
class GaussianFlowOcc(Follower):
    """Learned Gaussians that look at the images of a frame, and at what became of them in the frame before.

    grid           occupancy grid (an OccupancyGrid, or its fields as a dict)
    backbone       mmdet backbone, a config for mmdet's registry; its outputs go to ``neck``
    neck           mmdet neck with ``dim`` output channels
    gaussians      number of them
    dim, heads     width of features and number of attention heads
    blocks         of the decoder
    points         sampling points of a Gaussian a level and head
    inducing       learned points of each induced attention
    num_cameras    most cameras a batch can have (each camera position has a learned code, in the order of the batches, which is
                   the data set's, not the published one)
    horizon        key frames to either side to which Gaussians can be moved
    flow_layers    hidden layers of what moves them
    dropout        probability in all attentions
    largest_scale  metres, largest standard deviation of a Gaussian along an axis
    neighbourhood  voxels from the one that a mean is in up to which a Gaussian reaches, along each axis (Q1)
    operations     which of ``OPERATIONS`` a block of the decoder does, in that order; None: all. Without "temporal_att" nothing
                   looks at the frame before, and no ``history`` is needed
    attributes     which of ``ATTRIBUTES`` are decoded, in that order; None: all. The others are what stands there
    first_twice    the first frame of a scene is gone through twice, the second time after itself, as published
    read_out       fields of ReadOut
    teaching       fields of Teaching
    catch_all      names of classes that no image shows by name; None: those published for the grid's data set, if any
    moving         names of classes that move by themselves; None: those published for the grid's data set, which must be there
    renderer       name of a backend that renders Gaussians, or a backend; what it has compiled in otherwise than ``RASTER`` says
                   is in ``departures``
    camera_seed    seed of the first means and features

    Reads of a batch its ``chain``; in training ``history`` and ``views`` besides. Parameters have the published names.
    Everything after the neck runs in float32, also under autocast. Without ``history``, ``extract`` and ``predict`` answer for
    first frames of scenes alone and ``follow`` for all, as published; with it they look back as training does, to where the
    history begins.

    Raises ValueError for sizes, classes and options that do not fit together.
    """

    checkpoint_names = RECIPE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        neck: dict[str, Any],
        gaussians: int = 10_000,
        dim: int = 256,
        heads: int = 8,
        blocks: int = 3,
        points: int = 8,
        inducing: int = 500,
        num_cameras: int = 6,
        horizon: int = 6,
        flow_layers: int = 3,
        dropout: float = 0.1,
        largest_scale: float = LARGEST_SCALE,
        neighbourhood: int = 4,
        operations: Sequence[str] | None = None,
        attributes: Sequence[str] | None = None,
        first_twice: bool = True,
        read_out: dict[str, Any] | None = None,
        teaching: dict[str, Any] | None = None,
        catch_all: Sequence[str] | None = None,
        moving: Sequence[str] | None = None,
        renderer: str | Renderer = "cpu",
        camera_seed: int = 0,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        # It has losses of its own on voxels, which know no weights.
        super().__init__(grid, camera_seed=camera_seed, loss={"class_weights": (1.0,) * grid.num_classes})
        check_sizes(dim, heads, gaussians, neighbourhood, largest_scale)
        self.teaching = Teaching(**(teaching or {}))
        check_class_weights(self.teaching.class_weights, grid.num_classes, "teaching: ")
        self.read_out = ReadOut(**(read_out or {}))
        self.classes = rendered_classes(grid, catch_all)
        self.num_cameras, self.neighbourhood, self.first_twice = num_cameras, neighbourhood, first_twice
        self.largest_scale = largest_scale
        self._renderer = renderer
        done = check_names("operations", operations, OPERATIONS, "cross_att")
        decoded = check_names("attributes", attributes, tuple(ATTRIBUTES))
        self.looks_back = "temporal_att" in done

        generator = torch.Generator().manual_seed(camera_seed)
        means, queries = drawn_start(grid, gaussians, dim, generator)
        self.initial_means, self.gaussian_queries = nn.Parameter(means), nn.Parameter(queries)
        self.img_backbone, self.img_neck = build_image_network(backbone, neck)
        self.gaussian_decoder = GaussianDecoder(
            grid, DecoderSizes(blocks, dim, heads, neck["num_outs"], points, inducing, num_cameras, dropout, done)
        )
        self.semantic_head = head(dim, len(self.classes))
        self.opacity_head = head(dim, 1) if "opacity" in decoded else None
        self.scale_head = head(dim, 3) if "scale" in decoded else None
        self.rotation_head = head(dim, 4) if "rotation" in decoded else None
        self.temporal_module = Flow(dim, horizon, flow_layers, moving_channels(grid, self.classes, moving))

        channel = torch.full((grid.num_classes,), -1)
        channel[list(self.classes)] = torch.arange(len(self.classes))
        self.register_buffer("channel", channel, persistent=False)
        weights = self.teaching.class_weights
        kept = None if weights is None else torch.tensor([float(weights[number]) for number in self.classes])
        self.register_buffer("class_weights", kept, persistent=False)

    @property
    def backend(self) -> Renderer:
        """The renderer in use; raises RendererUnavailable or UnknownRenderer if it cannot be had."""
        return get(self._renderer) if isinstance(self._renderer, str) else self._renderer

    @property
    def departures(self) -> dict[str, tuple[object, object]]:
        """Settings in use that differ from the published ones: name -> (published, used)."""
        return self.backend.departures(RASTER) if self.teaching.renders else {}

    def start_from_bias(self, bias: Sequence[float]) -> None:
        """Give the logits of the rendered classes these first biases [C]; the others are of no class here."""
        if len(bias) != self.grid.num_classes:
            raise ValueError(f"a bias for each of the {self.grid.num_classes} classes is needed, got {len(bias)}")
        last = self.semantic_head[-1]
        with torch.no_grad():
            last.bias.copy_(last.bias.new_tensor([bias[number] for number in self.classes]))

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits [B, C, X, Y, Z] (one scale), with the depth that is rendered in the views of a batch with ``lidar``.

        Raises FrameMissing, without ``history``, for frames that are not the first ones of their scenes, and ValueError for a
        batch without ``chain`` or with images of the wrong shape or of more cameras than the model has codes for.
        """
        if batch.history is not None:
            return self.answered(self.cloud(batch), batch)
        for index in range(batch.batch_size):
            meta = batch.meta[index] if index < len(batch.meta) else {}
            if meta.get("previous", "") is not None:
                what = "is not the first one" if "previous" in meta else "does not say in its meta whether it is the first one"
                raise FrameMissing(
                    f"frame {meta.get('token', index)} {what} of its scene: predict with follow(batch, states), or give the "
                    "batch 'history'"
                )
        return self.answered(self._first(self._own(batch)), batch)

    def step(self, batch: OccupancyBatch, memory: Cloud | None, motion: Tensor | None) -> tuple[OccupancyPrediction, Cloud]:
        images = self._own(batch)
        if memory is None or motion is None:
            cloud = self._first(images)
        else:
            cloud = self.decoded(images, memory.moved(motion))
        return self.answered(cloud, batch), cloud

    def _first(self, images: ImageFeatures) -> Cloud:
        """The Gaussians of the first frame of a scene."""
        before = self.decoded(images, None) if self.first_twice and self.looks_back else None
        return self.decoded(images, before)

    def cloud(self, batch: OccupancyBatch) -> Cloud:
        """The Gaussians of the key frame behind its ``history``, which has no gradient: from its oldest frame on, each sees what
        became of them in the one before, where that is now. If the model looks back."""
        history = batch.history
        if not self.looks_back:
            return self.decoded(self._own(batch), None)
        if history is None:
            raise ValueError("GaussianFlowOcc needs the batch's 'history' to be trained")
        check_images(batch, self.num_cameras)  # before what is of no key frame is gone through
        before: Cloud | None = None
        own = torch.eye(4, dtype=torch.float64, device=history.images.device).expand(len(history.images), 4, 4)
        # Newest first: the frame after that of ``number`` is the one before it, or the key frame.
        poses = [own, *history.to_reference.double().unbind(1)]
        with torch.no_grad():
            for number in reversed(range(history.images.shape[1])):
                projection = history.projection[:, number].double() @ poses[number + 1][:, None]
                images = self._features(history.images[:, number], projection.to(history.projection))
                motion = torch.linalg.inv(poses[number]) @ poses[number + 1]
                before = self.decoded(images, before).moved(motion)
        return self.decoded(self._own(batch), before)

    def _own(self, batch: OccupancyBatch) -> ImageFeatures:
        check_images(batch, self.num_cameras)
        if batch.chain is None:
            raise ValueError("GaussianFlowOcc needs the batch's 'chain'")
        return self._features(batch.images, batch.chain.projection())

    def _features(self, images: Tensor, projection: Tensor) -> ImageFeatures:
        levels = self.img_neck(self.img_backbone(images.flatten(0, 1)))
        height, width = images.shape[-2:]
        return ImageFeatures([level.float().unflatten(0, images.shape[:2]) for level in levels], projection, (width, height))

    def decoded(self, images: ImageFeatures, before: Cloud | None) -> Cloud:
        """The learned Gaussians after the decoder; ``before``: those of the frame before, in this one's reference frame."""
        batch = len(images.projection)
        start = Cloud(self.initial_means.expand(batch, -1, -1), self.gaussian_queries.expand(batch, -1, -1))
        with torch.autocast(images.projection.device.type, enabled=False):
            cloud: Cloud = self.gaussian_decoder(start, before, images)
        return cloud

    def attributes(self, cloud: Cloud) -> Attributes:
        """What is rendered and voxelised of Gaussians."""
        features = cloud.features

        def constant(name: str) -> Tensor:
            values = cloud.means.new_tensor(ATTRIBUTES[name])
            return values.expand(*features.shape[:2], len(values))

        with torch.autocast(features.device.type, enabled=False):
            return Attributes(
                means=cloud.means,
                quaternions=F.normalize(self.rotation_head(features), dim=-1) if self.rotation_head else constant("rotation"),
                scales=self.largest_scale * self.scale_head(features).sigmoid() if self.scale_head else constant("scale"),
                opacities=self.opacity_head(features)[..., 0].sigmoid() if self.opacity_head else constant("opacity")[..., 0],
                logits=self.semantic_head(features),
            )

    def voxels(self, attributes: Attributes) -> tuple[Tensor, Tensor]:
        """Occupancy [B, X, Y, Z] in 0..1 and semantics [B, X, Y, Z, K], which opacity has no part in (Q7): the sums of
        ``voxelise``, occupancy cut at 1."""
        a = attributes
        samples = zip(a.means, a.quaternions, a.scales, a.opacities, a.logits, strict=True)
        found = [voxelise(*sample, self.grid, self.neighbourhood) for sample in samples]
        return torch.stack([one[0] for one in found]).clamp(0, 1), torch.stack([one[1] for one in found])

    def answered(self, cloud: Cloud, batch: OccupancyBatch) -> OccupancyPrediction:
        """``voxelised``, with the rendered depth where it is measured."""
        attributes = self.attributes(cloud)
        answer = self.voxelised(attributes)
        return answer if batch.lidar is None else replace(answer, depth=self.rendered_depth(attributes, batch))

    def rendered_depth(self, attributes: Attributes, batch: OccupancyBatch) -> RenderedDepth:
        """Accumulated depth, not divided by alpha, as published (tools/eval_depth.py), in the views of the batch's ``lidar``."""
        assert batch.lidar is not None
        to_view = batch.lidar.to_view
        with torch.autocast(attributes.means.device.type, enabled=False):
            gaussians = Gaussians(
                means=attributes.means,
                scales=attributes.scales,
                opacities=attributes.opacities,
                features=attributes.logits[..., :1],  # what they look like makes no depth
                quaternions=attributes.quaternions,
            )
            cameras = Cameras(to_view @ batch.intrinsics, batch.reference_to_camera, *batch.lidar.size)
            return RenderedDepth(self.backend.render(gaussians, cameras, self.backend.native(RASTER)).depth, to_view)

    def voxelised(self, attributes: Attributes) -> OccupancyPrediction:
        """The answer of Gaussians, as ``read_out`` says."""
        pairs = zip(*self.voxels(attributes), strict=True)
        return OccupancyPrediction(
            (torch.stack([voxel_logits(*pair, self.grid, self.classes, self.read_out) for pair in pairs]),)
        )

    def rendered(self, cloud: Cloud, attributes: Attributes, views: ImageSupervision) -> Rendering:
        """What all cameras see at all moments of ``views``, T * V images a sample in one call; features are class logits."""
        batch, times, cameras = views.semantic.shape[:3]
        height, width = views.semantic.shape[-2:]
        moments = torch.arange(times, device=views.steps.device).repeat_interleave(cameras)
        with torch.autocast(cloud.means.device.type, enabled=False):
            gaussians = Gaussians(
                means=self.temporal_module(cloud, attributes.logits, views.steps),
                scales=attributes.scales,
                opacities=attributes.opacities,
                features=attributes.logits,
                quaternions=attributes.quaternions,
            )
            poses = views.reference_to_camera.flatten(1, 2), width, height, moments
            return self.backend.render(gaussians, Cameras(views.intrinsics.flatten(1, 2), *poses), self.backend.native(RASTER))

    def loss(self, batch: OccupancyBatch) -> dict[str, Tensor]:
        """The weighted losses of ``Teaching`` by name: ``loss_gs_sem``, ``loss_gs_depth``, and those on voxels.

        Raises ValueError as ``extract``, and for a batch without ``history``, or ``views`` where images teach.
        """
        teaching = self.teaching
        views = self._checked_views(batch) if teaching.renders else None
        cloud = self.cloud(batch)
        attributes = self.attributes(cloud)
        losses: dict[str, Tensor] = {}
        if views is not None:
            losses |= self._rendered_losses(cloud, attributes, views)
        if teaching.voxels != "none":
            occupancy, semantics = self.voxels(attributes)
            labels = batch.labels.long()
            known = labels != self.grid.ignore
            channel = torch.where(known, self.channel[torch.where(known, labels, self.grid.empty)], -1)
            occupied = known & (channel >= 0)
            # What is of a class that has no channel is neither occupied by one nor empty.
            counted = occupied | (labels == self.grid.empty)
            counted = counted & batch.camera_mask if teaching.voxels == "seen" else counted
            losses |= voxel_losses(occupancy, semantics, channel, occupied, counted, teaching.voxel_weight)
        return losses

    def _rendered_losses(self, cloud: Cloud, attributes: Attributes, views: ImageSupervision) -> dict[str, Tensor]:
        teaching = self.teaching
        rendering = self.rendered(cloud, attributes, views)
        valid = views.valid[:, :, None, None, None].expand(views.semantic.shape)
        losses: dict[str, Tensor] = {}
        if teaching.semantic:
            known = valid & (views.semantic != self.grid.ignore)
            channel = torch.where(known, self.channel[torch.where(known, views.semantic, self.grid.empty)], -1)
            term = semantic_loss(rendering.features, channel.flatten(1, 2), self.class_weights)
            losses["loss_gs_sem"] = teaching.semantic * term
        if teaching.depth:
            depth = rendering.depth
            if teaching.normalise_depth:
                depth = depth / rendering.alpha.clamp(min=RASTER.alpha_min)
            losses["loss_gs_depth"] = teaching.depth * depth_loss(depth, torch.where(valid, views.depth, 0.0).flatten(1, 2))
        return losses

    def _checked_views(self, batch: OccupancyBatch) -> ImageSupervision:
        """The batch's, without moments that no sample has."""
        views = batch.views
        if views is None:
            raise ValueError("GaussianFlowOcc needs the batch's 'views' to be trained")
        known = views.semantic[views.semantic != self.grid.ignore]
        wrong = known[(known < 0) | (known >= self.grid.num_classes)]
        if wrong.numel():
            raise ValueError(
                f"views: semantic must be a class id in 0..{self.grid.num_classes - 1} or {self.grid.ignore}, got {int(wrong[0])}"
            )
        there = views.valid.any(dim=0)
        return type(views)(**{name: value[:, there] for name, value in views._tensors().items()})
