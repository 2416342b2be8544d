"""Agreement of a backend with the reference on scenes too large for the reference: in blocks of pixels spread over them.

The backend renders the whole scene. The reference, in float64 and with the same settings, blends chosen blocks of 16x16 pixels
of it from all Gaussians that can touch them: those pixels are exactly what it would give for the whole scene. Gradients are
those of a random weighting of the blocks' pixels, which no other Gaussian has a part in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from renderers import reference
from renderers.cases import Case
from renderers.conformance import ALPHA_SLACK, DEPTH_SLACK, PIXEL_SLACK, largest
from renderers.interface import Gaussians, Renderer

BLOCK = 16
MOST_BLOCKS = 12
MOST_PAIRS = 1e7  # (pixel, Gaussian) pairs in all blocks; one block a rendering is compared in any case


@dataclass(frozen=True)
class Coverage:
    """Where one view's Gaussians lie.

    drawn   Gaussians that can touch the image
    counts  [rows, columns] int64 of them by block, by bounding box
    index [K], bounds [K, 4]  their places in the input, and the pixels they can reach (see ``reference.Projected``)
    """

    drawn: int
    counts: Tensor
    index: Tensor
    bounds: Tensor


@dataclass(frozen=True)
class Agreement:
    """errors: of features, alpha, depth (as a part of the largest depth) and "gradient of <field>" (relative to its largest
    entry); cosines by field; pixels compared; undecided: the share left out because they hang on a threshold."""

    errors: dict[str, float]
    cosines: dict[str, float]
    pixels: int
    undecided: float


@dataclass(frozen=True)
class Block:
    """A block of pixels of a view: first column, first row, end column, end row."""

    view: int
    pixels: tuple[int, int, int, int]

    def of(self, image: Tensor) -> Tensor:
        """Its part of an image [1, V, H, W, ...]."""
        x, y, x_end, y_end = self.pixels
        return image[0, self.view, y:y_end, x:x_end]


@torch.no_grad()
def coverage(case: Case) -> list[Coverage]:
    """What each view of a case (of one scene) sees."""
    g, c = case.gaussians, case.cameras
    bare = replace(g, features=g.features[..., :1])  # the payload is of no interest
    found = []
    for view in range(c.views):
        splats = reference.project(bare, c, case.settings, 0, view, None if case.visible is None else case.visible[0, view])
        left, top, right, bottom = splats.bounds.unbind(-1)
        inside = ((right > left) & (bottom > top)).nonzero().squeeze(1)
        first = splats.bounds[inside, :2] // BLOCK
        end = (splats.bounds[inside, 2:] + BLOCK - 1) // BLOCK
        # The corners of each rectangle of blocks, then running sums along both axes.
        rows, columns = -(-c.height // BLOCK), -(-c.width // BLOCK)
        corners = torch.zeros((rows + 1) * (columns + 1), dtype=torch.int64, device=first.device)
        for x, y, sign in ((first, first, 1), (end, end, 1), (first, end, -1), (end, first, -1)):
            corners += sign * torch.bincount(y[:, 1] * (columns + 1) + x[:, 0], minlength=len(corners))
        counts = corners.reshape(rows + 1, columns + 1).cumsum(0).cumsum(1)[:rows, :columns]
        found.append(Coverage(len(inside), counts.cpu(), splats.index[inside], splats.bounds[inside]))
    return found


def choose(case: Case, seen: list[Coverage], generator: torch.Generator, most: int, pairs: float) -> list[Block]:
    """Up to ``most`` blocks that Gaussians touch, at random, with at most ``pairs`` (pixel, Gaussian) pairs; one at least."""
    counts = torch.stack([view.counts for view in seen])
    touched = counts.nonzero()
    chosen: list[Block] = []
    spent = 0.0
    for view, row, column in touched[torch.randperm(len(touched), generator=generator)[:most]].tolist():
        spent += float(counts[view, row, column]) * BLOCK**2
        if chosen and spent > pairs:
            break
        x, y = column * BLOCK, row * BLOCK
        chosen.append(Block(view, (x, y, min(x + BLOCK, case.cameras.width), min(y + BLOCK, case.cameras.height))))
    return chosen


def agreement(renderer: Renderer, parts: list[Case], seen: list[list[Coverage]], trained: tuple[str, ...]) -> Agreement:
    """Compare on blocks of every part; settings are those of the parts, which the renderer must honour."""
    errors: dict[str, float] = {}
    cosines: dict[str, float] = {}
    pixels = left_out = 0
    for number, (case, views) in enumerate(zip(parts, seen, strict=True)):
        generator = torch.Generator().manual_seed(1000 + number)
        blocks = choose(case, views, generator, MOST_BLOCKS // len(parts), MOST_PAIRS / len(parts))
        if not blocks:
            continue
        right = _right(case, views, blocks, trained, generator)
        found, similar = _compared(renderer, case, blocks, right, trained)
        errors = {key: max(value, errors.get(key, 0.0)) for key, value in found.items()}
        cosines = {key: min(value, cosines.get(key, 1.0)) for key, value in similar.items()}
        decided = sum(int(keep.sum()) for keep in right.decided)
        pixels += decided
        left_out += sum(keep.numel() for keep in right.decided) - decided
    return Agreement(errors, cosines, pixels, left_out / max(pixels + left_out, 1))


@dataclass(frozen=True)
class _Right:
    """What the reference says. images: one [h, w, C+2] (features, depth, alpha) a block; decided [h, w] bool; weights like
    images, of the loss; index [n]: the Gaussians of gradients, field -> [n, ...], all others having none."""

    images: list[Tensor]
    decided: list[Tensor]
    weights: list[Tensor]
    index: Tensor
    gradients: dict[str, Tensor]


def _right(case: Case, seen: list[Coverage], blocks: list[Block], trained: tuple[str, ...], generator: torch.Generator) -> _Right:
    part, index = _part(case, seen, blocks)
    with torch.no_grad():
        images = _images(part, blocks)
        decided = _decided(part, blocks)
    weights = [
        torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image.device) * keep[..., None]
        for image, keep in zip(images, decided, strict=True)
    ]
    leaves = {name: getattr(part.gaussians, name).requires_grad_() for name in trained}
    part = replace(part, gaussians=replace(part.gaussians, **leaves))  # type: ignore[arg-type]
    loss = torch.stack([(image * weight).sum() for image, weight in zip(_images(part, blocks), weights, strict=True)]).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return _Right(images, decided, weights, index, dict(zip(leaves, gradients, strict=True)))


def _part(case: Case, seen: list[Coverage], blocks: list[Block]) -> tuple[Case, Tensor]:
    """The Gaussians that touch any block, float64, and their places in the case in their order."""
    wanted = []
    for block in blocks:
        view = seen[block.view]
        wanted.append(view.index[_touching(view.bounds, block)])
    index = torch.cat(wanted).unique()
    g = case.gaussians
    some = Gaussians(
        means=g.means[..., index, :],
        scales=g.scales[:, index],
        opacities=g.opacities[:, index],
        features=g.features[:, index],
        quaternions=None if g.quaternions is None else g.quaternions[:, index],
    )
    visible = None if case.visible is None else case.visible[:, :, index]
    return replace(case, gaussians=some, visible=visible).to(index.device, torch.float64), index


def _touching(bounds: Tensor, block: Block) -> Tensor:
    x, y, x_end, y_end = block.pixels
    left, top, right, bottom = bounds.unbind(-1)
    return ((left < x_end) & (right > x) & (top < y_end) & (bottom > y)).nonzero().squeeze(1)


def _splats(case: Case, blocks: list[Block]) -> dict[int, reference.Projected]:
    """What each view that has a block sees."""
    g, c, visible = case.gaussians, case.cameras, case.visible
    return {
        view: reference.project(g, c, case.settings, 0, view, None if visible is None else visible[0, view])
        for view in {block.view for block in blocks}
    }


def _images(case: Case, blocks: list[Block]) -> list[Tensor]:
    """[h, w, C+2] features over the background, depth and alpha of each block."""
    splats, background = _splats(case, blocks), case.settings.background
    images = []
    for block in blocks:
        own = splats[block.view]
        blended = reference.blend(own, _touching(own.bounds, block), block.pixels, case.settings)
        features, depth, transmittance = blended[..., :-2], blended[..., -2:-1], blended[..., -1:]
        if background is not None:
            features = features + transmittance * background
        images.append(torch.cat([features, depth, 1 - transmittance], -1))
    return images


def _decided(case: Case, blocks: list[Block]) -> list[Tensor]:
    """[h, w] bool a block: pixels in which float32 decides as float64 does (see ``conformance.undecided``)."""
    g, c = case.gaussians, case.cameras
    moved = [replace(case, gaussians=replace(g, opacities=g.opacities * (1 + sign * ALPHA_SLACK))) for sign in (1, -1)]
    if case.settings.extent == "tile3sigma":
        for sign in (1, -1):
            intrinsics = c.intrinsics.clone()
            intrinsics[..., :2, 2] += sign * PIXEL_SLACK
            moved.append(replace(case, cameras=replace(c, intrinsics=intrinsics)))
    own, others = _splats(case, blocks), [_splats(other, blocks) for other in moved]
    reach = max(float(g.means.abs().max()), float(c.world_to_camera[..., :3, 3].abs().max()))
    found = []
    for block in blocks:
        taken, tied = _taken(own[block.view], block, case, DEPTH_SLACK * reach)
        close = tied
        for other in others:
            close = close | (_taken(other[block.view], block, case, 0.0)[0] != taken).any(1)
        x, y, x_end, y_end = block.pixels
        found.append(~close.reshape(y_end - y, x_end - x))
    return found


def _taken(splats: reference.Projected, block: Block, case: Case, gap: float) -> tuple[Tensor, Tensor]:
    """[P, 2N] bool: which of the case's Gaussians count in each pixel, and which are cut to alpha_max; [P] whether two that
    count lie closer than ``gap`` (m) in depth, but not at the same."""
    s = case.settings
    index = _touching(splats.bounds, block)
    pixels = reference.pixels_of(block.pixels, splats.centre.device)
    raw = reference.density(splats, index, pixels)
    alpha = reference.limited(raw, splats.bounds[index], pixels, s)
    counts = (alpha > 0) & (torch.cumprod(1 - alpha, 1) >= reference.float32(s.transmittance_min))
    taken = counts.new_zeros(2, len(pixels), case.gaussians.count)
    taken[0, :, splats.index[index]] = counts
    taken[1, :, splats.index[index]] = counts & (raw > s.alpha_max)
    gaps = splats.payload[index, -1].diff()
    tied = counts[:, 1:] & counts[:, :-1] & (gaps > 0) & (gaps < gap)
    return torch.cat([taken[0], taken[1]], 1), tied.any(1)


def _compared(
    renderer: Renderer, case: Case, blocks: list[Block], right: _Right, trained: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, float]]:
    """Errors and cosines of the backend on the whole case against the blocks."""
    leaves = {name: getattr(case.gaussians, name).detach().requires_grad_() for name in trained}
    gaussians = replace(case.gaussians, **leaves)  # type: ignore[arg-type]
    out = renderer.render(gaussians, case.cameras, case.settings, case.visible)
    outputs = (out.features, out.depth, out.alpha)
    _require_finite(renderer, dict(zip(("features", "depth", "alpha"), outputs, strict=True)))
    far = max(1.0, *(float(image[..., -2].max()) for image in right.images))
    errors = {"features": 0.0, "alpha": 0.0, "depth": 0.0}
    gradients = [torch.zeros_like(image) for image in outputs]
    for block, image, keep, weight in zip(blocks, right.images, right.decided, right.weights, strict=True):
        parts = {"features": (block.of(out.features), image[..., :-2])}
        parts["depth"] = (block.of(out.depth) / far, image[..., -2] / far)
        parts["alpha"] = (block.of(out.alpha), image[..., -1])
        for name, (ours, theirs) in parts.items():
            errors[name] = max(errors[name], largest((ours.detach().double() - theirs)[keep]))
        for target, value in zip(gradients, (weight[..., :-2], weight[..., -2], weight[..., -1]), strict=True):
            block.of(target).copy_(value)
    cosines = {}
    found = torch.autograd.grad(outputs, list(leaves.values()), gradients)
    _require_finite(renderer, {f"gradient of {name}": value for name, value in zip(leaves, found, strict=True)})
    for name, ours in zip(leaves, found, strict=True):
        theirs = right.gradients[name]
        at = ours[..., right.index, :] if name == "means" else ours[:, right.index]
        at = at.double()
        scale = largest(theirs)
        if scale > 0:
            errors[f"gradient of {name}"] = max(largest(at - theirs), _elsewhere(ours, right.index, name)) / scale
            length = float(ours.double().norm()) * float(theirs.norm())
            cosines[name] = float((at * theirs).sum()) / length if length > 0 else 0.0
    return errors, cosines


def _require_finite(renderer: Renderer, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        if bad := int((~torch.isfinite(value)).sum()):
            raise ArithmeticError(f"renderer '{renderer.name}' returned {bad} non-finite values in {name}")


def _elsewhere(gradient: Tensor, index: Tensor, name: str) -> float:
    """The largest entry of a gradient outside ``index``, where it should be zero."""
    rest = gradient.clone()
    rest.index_fill_(-2 if name == "means" else 1, index, 0.0)
    return largest(rest)
