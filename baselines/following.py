"""Models that go through a scene frame by frame and hand on what they saw; what they keep is in the hands of who calls them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.interface import OccupancyBatch, OccupancyPrediction, RenderedDepth
from baselines.model import OccupancyModel


class FrameMissing(ValueError):
    """A frame was to be predicted without the one before it in its scene."""


@dataclass(frozen=True)
class SceneState:
    """What a model hands on from a frame of a scene to the next one.

    token      of the frame
    to_global  [4, 4] float64 its reference frame -> global frame
    memory     what the model's ``step`` returned
    """

    token: str
    to_global: NDArray[np.float64]
    memory: Any


States = Mapping[str, SceneState]
"""By scene, behind the last frame that was predicted of it."""


class Follower(OccupancyModel):
    """A model whose answer depends on the frames before, from the first one of the scene on. A subclass implements ``step``.

    Frames say in ``meta`` which one comes before them: "previous", its token, None for the first frame of a scene; and where they
    are: "to_global" [4, 4], their reference frame -> global frame; "token" and "scene" besides.
    """

    @abstractmethod
    def step(self, batch: OccupancyBatch, memory: Any | None, motion: Tensor | None) -> tuple[OccupancyPrediction, Any]:
        """The prediction of a batch of one frame on the model's device, and what the next frame takes as ``memory``.

        memory  what this returned for the frame before; None for the first frame of a scene
        motion  [1, 4, 4] float64 reference frame of the frame before -> this one's
        """

    @torch.no_grad()
    def follow(self, batch: OccupancyBatch, states: States) -> tuple[OccupancyPrediction, dict[str, SceneState]]:
        """Predict frames, of one scene or several, in the order of the batch; returns the states behind them too.

        ``states`` are those behind the frames before; they are not changed. The batch may be on any device. Raises FrameMissing
        for a frame whose predecessor is neither there nor earlier in the batch, ValueError where ``meta`` does not say which one
        that is.
        """
        held = dict(states)
        predictions: list[OccupancyPrediction] = []
        moved = batch.to(self.data_preprocessor.device)
        for index in range(batch.batch_size):
            token, scene, previous = check_following(batch, index)
            to_global = np.asarray(batch.meta[index]["to_global"], dtype=np.float64)
            memory = motion = None
            if previous is not None:
                before = held.get(scene)
                if before is None or before.token != previous:
                    stands = "none of its scene was predicted yet" if before is None else f"{before.token} was predicted last"
                    raise FrameMissing(
                        f"frame {token} of scene {scene} comes after {previous}, but {stands}: predict the frames of a scene one "
                        "after the other, from its first one on"
                    )
                memory = before.memory
                motion = torch.from_numpy(np.linalg.inv(to_global) @ before.to_global)[None]
            prediction, memory = self.step(moved.one(index), memory, motion)
            predictions.append(prediction)
            held[scene] = SceneState(token, to_global, memory)
        scales = zip(*(prediction.logits for prediction in predictions), strict=True)
        features = [prediction.features for prediction in predictions if prediction.features is not None]
        depths = [prediction.depth for prediction in predictions if prediction.depth is not None]
        joined = OccupancyPrediction(
            tuple(map(torch.cat, scales)),
            torch.cat(features) if features else None,
            RenderedDepth.joined(depths, [1] * len(depths)) if depths else None,
        )
        return joined, held


def check_following(batch: OccupancyBatch, index: int) -> tuple[str, str, str | None]:
    """Token, scene and predecessor of a sample; ValueError where ``meta`` does not have them."""
    meta = batch.meta[index] if index < len(batch.meta) else {}
    if lacking := [name for name in ("token", "scene", "previous", "to_global") if name not in meta]:
        raise ValueError(
            f"meta of sample {meta.get('token', index)} has no {' and no '.join(lacking)}: a model that follows scenes needs to "
            "know which frame comes before"
        )
    return meta["token"], meta["scene"], meta["previous"]
