"""What the trainable occupancy models share: mmengine's calling convention, losses, rendering, progress."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel, is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn

from baselines.gaussrender import GaussRender
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.losses import OccupancyLoss
from baselines.recipe import CheckpointNames
from renderers import Cameras


class BatchToDevice(BaseDataPreprocessor):
    """Moves ``{"batch": OccupancyBatch}``, what the data loaders yield, to the model's device."""

    def forward(self, data: dict[str, OccupancyBatch], training: bool = False) -> dict[str, OccupancyBatch]:
        """The same dictionary with the batch's tensors on the device; nothing else is changed."""
        return {"batch": data["batch"].to(self.device, non_blocking=self._non_blocking)}


class OccupancyModel(BaseModel):
    """Base of the baselines. A subclass implements ``extract`` and, to be rendered, calls ``attach_rendering``.

    grid            what the logits stand for
    dropout_epochs  dropout is active in that many first epochs only, None for always. The released GaussRender code
                    leaves training mode at its first validation and never returns to it, so that dropout acts in the
                    first epoch; 1 reproduces that. (There the first epoch after a resume has dropout once more; here
                    a resumed training continues as if it had not been interrupted.)
    loss            arguments of OccupancyLoss that differ from the published ones, None for none
    camera_seed     seed of the draws of rendered cameras. Each draw depends on the seed, the process rank and the
                    iteration only, so that a resumed training draws what an uninterrupted one would have.

    The state dict holds parameters and buffers under the published names; the loss and the rendering plug-in add
    nothing but ``renderer_prep`` and ``renderer``.
    """

    checkpoint_names: ClassVar[CheckpointNames] = CheckpointNames()
    """How published checkpoints name their content; a baseline takes its recipe's."""

    def __init__(
        self,
        grid: OccupancyGrid,
        dropout_epochs: int | None = None,
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor=BatchToDevice())
        self.grid = grid
        self.dropout_epochs = dropout_epochs
        self.camera_seed = camera_seed
        self.iteration = 0
        self.epoch = 0
        # Tuples keep these modules out of the module tree, hence out of the published state dict.
        self._occupancy_loss = (OccupancyLoss(grid, **(loss or {})),)
        self._gaussrender: tuple[GaussRender, ...] = ()

    @abstractmethod
    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits and voxel features of a batch that is already on the model's device."""

    def classifiers(self) -> tuple[nn.Module, ...]:
        """The layers whose outputs are logits, each with a bias [C], for ``start_from_bias``; none where they have no bias."""
        return ()

    def start_from_bias(self, bias: Sequence[float]) -> None:
        """Give every classifier these first biases [C]. Raises ValueError for another number of them, or without classifiers."""
        if len(bias) != self.grid.num_classes:
            raise ValueError(f"a bias for each of the {self.grid.num_classes} classes is needed, got {len(bias)}")
        biases = [layer.bias for layer in self.classifiers()]
        if not biases:
            raise ValueError(
                f"{type(self).__name__} names no classifier with a bias: name them in its method classifiers(), or have the "
                "preset draw it (class_bias)"
            )
        with torch.no_grad():
            for own in biases:
                own.copy_(own.new_tensor(bias))

    @property
    def gaussrender(self) -> GaussRender | None:
        """The rendering plug-in, or None for a model trained on voxels alone."""
        return self._gaussrender[0] if self._gaussrender else None

    @property
    def departures(self) -> dict[str, tuple[object, object]]:
        """What a renderer of the model's own, of another configuration than an evaluation's, has compiled in otherwise than it is
        asked for: setting -> (asked for, used)."""
        return {}

    def attach_rendering(self, plugin: GaussRender, owner: nn.Module) -> None:
        """Train with ``plugin``'s rendered losses too; ``owner`` is the submodule under which its weights are published.

        The renderer is published twice, below its owner and at the top (valeoai/GaussRender
        src/model/segmentor/bev_segmentor.py:37-40).
        """
        owner.renderer = plugin.renderer
        owner.renderer_prep = plugin.renderer_prep
        self.renderer = plugin.renderer
        self._gaussrender = (plugin,)

    def forward(self, batch: OccupancyBatch, mode: str = "tensor") -> Any:
        """mmengine's entry point.

        mode "loss"     dict of named losses, weighted, that add up to the objective
             "predict"  one dict a sample, see ``answers``
             "tensor"   OccupancyPrediction
        """
        if mode == "loss":
            return self.loss(batch)
        if mode == "predict":
            return answers(self.answer(batch))
        if mode == "tensor":
            return self.extract(batch)
        raise ValueError(f"unknown mode '{mode}' (known: loss, predict, tensor)")

    def loss(self, batch: OccupancyBatch) -> dict[str, Tensor]:
        """Occupancy losses (unless only images teach) and, if rendering is attached, rendered losses by name."""
        prediction, plugin = self.extract(batch), self.gaussrender
        losses: dict[str, Tensor] = {}
        if plugin is None or plugin.config.with_occupancy:
            losses |= self.occupancy_losses(prediction, batch)
        if plugin is not None:
            logits, features, labels, to_camera = _as_cameras_see(prediction, batch)
            cameras = Cameras(batch.intrinsics, to_camera, *batch.camera_size)
            losses |= plugin.losses(logits, features, cameras, labels, self.camera_generator())
        return losses

    def occupancy_losses(self, prediction: OccupancyPrediction, batch: OccupancyBatch) -> dict[str, Tensor]:
        """The weighted losses on voxels by name: OccupancyLoss at every scale, unless a model has its own."""
        return self.occupancy_loss(prediction.logits, batch.labels, batch.sight)

    @property
    def occupancy_loss(self) -> OccupancyLoss:
        """The loss on voxels, with its class weights and its choice of voxels."""
        return self._occupancy_loss[0]

    @torch.no_grad()
    def predict(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """The prediction without gradients; the batch may be on any device. Does not change train/eval mode."""
        return self.answer(batch.to(self.data_preprocessor.device))

    def answer(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """``extract``; where only images were taught, voxels that the rendering leaves faint are empty."""
        prediction, plugin = self.extract(batch), self.gaussrender
        if plugin is None or plugin.config.with_occupancy:
            return prediction
        finest = plugin.without_faint(prediction.logits[-1], prediction.features)
        return replace(prediction, logits=(*prediction.logits[:-1], finest))

    def camera_generator(self) -> torch.Generator:
        """A CPU generator for this iteration's camera draws."""
        seed = np.random.SeedSequence((self.camera_seed, get_rank(), self.iteration)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(seed[0]))

    def set_progress(self, iteration: int, epoch: int) -> None:
        """Tell the model where training stands: camera draws and the dropout rule follow from it."""
        self.iteration = iteration
        if epoch != self.epoch:
            self.epoch = epoch
            self.train(self.training)

    def train(self, mode: bool = True) -> OccupancyModel:
        """``nn.Module.train``, less the dropout when its epochs are over."""
        super().train(mode)
        if mode and self.dropout_epochs is not None and self.epoch >= self.dropout_epochs:
            for module in self.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()
        return self


def answers(prediction: OccupancyPrediction) -> list[dict[str, Any]]:
    """One dict a sample: "labels" [X, Y, Z] int64 and "logits" [C, X, Y, Z] of the finest scale, and where it was rendered
    "depth", a ``RenderedDepth`` of that sample alone, and of a model that says how the vehicle moved "motion" [T, 4, 4]."""
    depth, motion = prediction.depth, prediction.motion
    return [
        {"labels": labels, "logits": logits}
        | ({} if depth is None else {"depth": depth.one(number)})
        | ({} if motion is None else {"motion": motion[number]})
        for number, (labels, logits) in enumerate(zip(prediction.labels, prediction.logits[-1], strict=True))
    ]


def _as_cameras_see(prediction: OccupancyPrediction, batch: OccupancyBatch) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """The finest logits, features, labels and cameras' poses, for rendering. Of a sample whose reference frame has axes turned
    round (BEVDet's augmentation) they are turned back: seen through a mirror, no pose would be one.

    Raises ValueError for a reference frame that is changed otherwise.
    """
    logits, features, labels, to_camera = prediction.logits[-1], prediction.features, batch.labels, batch.reference_to_camera
    reference = None if batch.chain is None else batch.chain.reference.cpu()  # one look, not one an entry
    if reference is None or torch.equal(reference, torch.eye(3).to(reference).expand_as(reference)):
        return logits, features, labels, to_camera
    if not torch.equal(reference, torch.diag_embed(reference.diagonal(dim1=1, dim2=2).sign())):
        raise ValueError("chain.reference may turn axes round where voxels are rendered; rotated and scaled frames cannot be")
    axes = [[axis - 3 for axis in range(3) if one[axis, axis] < 0] for one in reference]

    def back(voxels: Tensor) -> Tensor:
        return torch.stack([one.flip(own) for one, own in zip(voxels, axes, strict=True)])

    turn = torch.eye(4).repeat(len(reference), 1, 1, 1)
    turn[:, 0, :3, :3] = reference
    return back(logits), None if features is None else back(features), back(labels), to_camera @ turn.to(to_camera)


@HOOKS.register_module()
class TrainingProgress(Hook):
    """Tells the model iteration and epoch before each training step (epochs count passes over the training data)."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """``runner`` is mmengine's; both its epoch- and its iteration-based loop are understood."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.set_progress(runner.iter, runner.iter // len(runner.train_dataloader))
