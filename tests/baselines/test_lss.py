"""Lift-splat parts, each against its definition written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lift_rig import forward, lift_batch
from surround_rig import toy_grid
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.images import build_mmdet
from baselines.lss.depth_net import DepthNet, cost_volume
from baselines.lss.geometry import camera_vector, depth_bins, pixel_grid, reproject, unproject
from baselines.lss.images import FinestFPN, ImageNeck, StereoResNet, StereoSwin
from baselines.lss.pooling import splat, sums, voxel_numbers
from baselines.lss.view import ViewTransformer
from baselines.lss.volumes import Conv3D, ConvZYX, Neck3D, ResNet3D

SMALL = replace(toy_grid(), lower=(-8.0, -4.0, -1.0), upper=(8.0, 4.0, 3.0), voxel_size=1.0)
WIDTH, HEIGHT = 96, 64


# Geometry ----------------------------------------------------------------------------------------------------------


def test_depths_are_the_published_ones() -> None:
    depths = depth_bins((1.0, 45.0, 0.5))
    assert len(depths) == 88 and torch.equal(depths, torch.arange(1.0, 45.0, 0.5))


def test_first_and_last_cell_are_first_and_last_pixel() -> None:
    pixels = pixel_grid((96, 64), 8, torch.device("cpu"))
    assert pixels.shape == (8, 12, 2)
    assert pixels[0, 0].tolist() == [0, 0] and pixels[-1, -1].tolist() == [95, 63] and pixels[0, -1].tolist() == [95, 0]


def augmented(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Affine maps of pixels [1, 6, 3, 3] (scale, rotation, mirroring, shift) and of the reference frame [1, 3, 3]."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.rand(6, generator=g) - 0.5
    image = torch.eye(3).repeat(6, 1, 1)
    image[:, :2, :2] = 0.7 * torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(6, 2, 2)
    image[::2, 0] *= -1
    image[:, :2, 2] = torch.rand(6, 2, generator=g) * 20
    turn = torch.tensor([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]) * torch.tensor([1.0, -1.0, 1.0]) * 1.1
    return image[None], turn[None]


def test_augmentation_moves_points_of_the_frame_alone() -> None:
    """What a pixel shows: its place in the augmented image, lifted with the augmented cameras, is the augmented place."""
    chain = lift_batch(SMALL).chain
    assert chain is not None
    image, reference = augmented()
    moved = replace(chain, image=image, reference=reference)
    pixels, depths = pixel_grid((WIDTH, HEIGHT), 16, torch.device("cpu")), torch.tensor([2.0, 7.0, 30.0])
    plain = unproject(chain.projection(), pixels, depths)
    expected = torch.einsum("ij,...j->...i", reference[0], plain)
    for camera in range(6):
        there = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ image[0, camera].T
        lifted = unproject(moved.projection(), there[..., :2], depths)[0, camera]
        torch.testing.assert_close(lifted, expected[0, camera], rtol=1e-4, atol=1e-3)


def test_lifting_inverts_projection_link_by_link() -> None:
    """The published chain: undo the image's augmentation, times depth, inverse intrinsics, camera to frame, augment the frame."""
    chain = lift_batch(SMALL).chain
    assert chain is not None
    image, reference = augmented(1)
    chain = replace(chain, image=image, reference=reference)
    pixels, depths = pixel_grid((WIDTH, HEIGHT), 32, torch.device("cpu")), torch.tensor([1.5, 12.0])
    points = unproject(chain.projection(), pixels, depths)
    for camera in (0, 3):
        for row, column in ((0, 0), (1, 2)):
            u, v, _ = torch.linalg.inv(image[0, camera]) @ torch.tensor([*pixels[row, column].tolist(), 1.0])
            for d, depth in enumerate(depths):
                seen = torch.linalg.inv(chain.intrinsics[0, camera]) @ torch.stack([u * depth, v * depth, depth])
                there = chain.camera_to_reference[0, camera] @ torch.cat([seen, torch.ones(1)])
                expected = reference[0] @ there[:3]
                torch.testing.assert_close(points[0, camera, d, row, column], expected, rtol=1e-4, atol=1e-3)


def test_a_place_is_found_in_the_other_image() -> None:
    batch = lift_batch(SMALL)
    earlier = batch.projection @ forward(2.0)
    pixels, depths = pixel_grid((WIDTH, HEIGHT), 16, torch.device("cpu")), torch.tensor([1.0, 9.0])
    found, front = reproject(batch.projection, earlier, pixels, depths)
    points = unproject(batch.projection, pixels, depths)
    image = torch.einsum("bvij,bvdhwj->bvdhwi", earlier, torch.cat([points, torch.ones_like(points[..., :1])], -1))
    assert torch.equal(front, image[..., 2] > 1e-3)
    torch.testing.assert_close(found[front], (image[..., :2] / image[..., 2:3])[front], rtol=1e-3, atol=1e-2)
    # The camera behind has lost what is 1 m behind it once the vehicle was 2 m further back.
    assert not front[0, 3, 0].any() and front[0, 3, 1].all() and front[0, 0].all()


def test_the_camera_vector_is_in_the_published_order() -> None:
    chain = lift_batch(SMALL).chain
    assert chain is not None
    chain = replace(chain, image=augmented()[0], reference=augmented()[1])
    vector = camera_vector(chain)[0, 2]
    k, a, e, r = chain.intrinsics[0, 2], chain.image[0, 2], chain.camera_to_reference[0, 2], chain.reference[0]
    entries = [k[0, 0], k[1, 1], k[0, 2], k[1, 2], a[0, 0], a[0, 1], a[0, 2], a[1, 0], a[1, 1], a[1, 2]]
    entries += [r[0, 0], r[0, 1], r[1, 0], r[1, 1], r[2, 2], *e[:3].flatten()]
    assert vector.shape == (27,) and torch.equal(vector, torch.stack(entries))


# Pooling -----------------------------------------------------------------------------------------------------------


def test_sums_are_a_loop_and_so_are_their_gradients() -> None:
    torch.manual_seed(0)
    values = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    numbers = torch.randint(0, 7, (50,))
    numbers[numbers == 4] = 5
    out = sums(values, numbers, 7)
    expected = torch.zeros(7, 3, dtype=torch.float64)
    for value, number in zip(values.detach(), numbers.tolist(), strict=True):
        expected[number] += value
    torch.testing.assert_close(out, expected)
    assert not out[4].any()
    assert torch.autograd.gradcheck(lambda v: sums(v, numbers, 7), values)


def test_voxels_short_of_the_grid() -> None:
    points = torch.tensor([[-8.0, -4.0, -1.0], [-8.6, 0.5, 0.5], [7.99, 3.99, 2.99], [8.0, 0.0, 0.0], [-9.0, 0.0, 0.0]])
    numbers, inside = voxel_numbers(points, SMALL, published_rounding=False)
    assert inside.tolist() == [True, False, True, False, False]
    assert numbers[0] == 0 and numbers[2] == 16 * 8 * 4 - 1
    numbers, inside = voxel_numbers(points, SMALL, published_rounding=True)
    assert inside.tolist() == [True, True, True, False, False]
    assert numbers[1] == (0 * 8 + 4) * 4 + 1


@pytest.mark.parametrize("published", [False, True])
def test_the_splat_is_a_loop(published: bool) -> None:
    torch.manual_seed(0)
    context = torch.randn(2, 2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    depth = torch.rand(2, 2, 5, 2, 4, dtype=torch.float64, requires_grad=True)
    points = (torch.rand(2, 2, 5, 2, 4, 3, dtype=torch.float64) - 0.5) * torch.tensor([20.0, 10.0, 6.0])
    volume = splat(context, depth, points, SMALL, published)
    expected = torch.zeros(2, 3, *SMALL.shape, dtype=torch.float64)
    for b in range(2):
        for camera in range(2):
            for d in range(5):
                for row in range(2):
                    for column in range(4):
                        cell = points[b, camera, d, row, column] - torch.tensor(SMALL.lower)
                        index = [int(c) if published else int(c // 1) for c in cell.tolist()]
                        if all(0 <= i < n for i, n in zip(index, SMALL.shape, strict=True)):
                            x, y, z = index
                            amount = depth[b, camera, d, row, column] * context[b, camera, :, row, column]
                            expected[b, :, x, y, z] += amount.detach()
    torch.testing.assert_close(volume, expected)
    assert torch.autograd.gradcheck(lambda c, s: splat(c, s, points, SMALL, published), (context, depth), fast_mode=True)


def test_nothing_in_the_grid_is_an_empty_volume() -> None:
    context = torch.randn(1, 1, 2, 1, 1, requires_grad=True)
    volume = splat(context, torch.ones(1, 1, 1, 1, 1), torch.full((1, 1, 1, 1, 1, 3), 1e9), SMALL)
    assert not volume.any()
    volume.sum().backward()
    assert context.grad is not None and not context.grad.any()


# Stereo ------------------------------------------------------------------------------------------------------------


def test_the_cost_volume_is_a_loop() -> None:
    """One pixel, depth and channel after the other; published rule: what is warped to 0 by the border is out of view."""
    torch.manual_seed(0)
    batch = lift_batch(SMALL)
    projection, earlier = batch.projection[:, :4:3], (batch.projection @ forward(1.5))[:, :4:3]
    h, w, channels = 4, 6, 20
    current, before = torch.randn(1, 2, channels, h, w), torch.randn(1, 2, channels, h, w) + 5
    pixels, depths = pixel_grid((WIDTH, HEIGHT), 16, torch.device("cpu")), torch.tensor([1.0, 3.0, 9.0])
    out = cost_volume(current, before, projection, earlier, pixels, depths, (WIDTH, HEIGHT), out_of_view=5.0)
    points = unproject(projection, pixels, depths)
    cost = torch.zeros(2, 3, h, w)
    hidden = torch.zeros(2, 3, h, w, dtype=torch.bool)
    for camera in range(2):
        for d in range(3):
            for row in range(h):
                for column in range(w):
                    x, y, z, _ = earlier[0, camera] @ torch.cat([points[0, camera, d, row, column], torch.ones(1)])
                    place = torch.tensor([-2.0, -2.0])
                    if z >= 1e-3:
                        place = torch.stack([x / z / (WIDTH - 1), y / z / (HEIGHT - 1)]) * 2 - 1
                    warped = F.grid_sample(before[:1, camera], place[None, None, None], align_corners=True)[0, :, 0, 0]
                    hidden[camera, d, row, column] = warped[16] == 0
                    cost[camera, d, row, column] = (current[0, camera, :, row, column] - warped).abs().sum()
    assert hidden.any() and not hidden.all()
    torch.testing.assert_close(out[0], (-(cost + 5.0 * hidden)).softmax(dim=1), rtol=1e-3, atol=1e-4)


def test_the_cost_volume_finds_the_depth_that_was_seen_before() -> None:
    """A wall across the road, seen from two places: where both images show it the right depth is the likeliest."""
    batch = lift_batch(SMALL)
    projection, earlier = batch.projection[:, :1], (batch.projection @ forward(2.0))[:, :1]
    pixels = pixel_grid((WIDTH, HEIGHT), 4, torch.device("cpu"))
    depths = torch.tensor([3.0, 6.0, 12.0, 24.0])

    def wall(view: Tensor) -> Tensor:
        """[1, 1, 4, h, w]: the pattern on the plane x = 7 m (6 m before the camera) at each pixel."""
        near, far = unproject(view, pixels, torch.tensor([1.0, 2.0]))[0, 0]
        point = near + (far - near) * ((7.0 - near[..., :1]) / (far - near)[..., :1])
        waves = [(f * point[..., axis]).sin() for f in (0.7, 1.9) for axis in (1, 2)]
        return 8 * torch.stack(waves)[None, None]

    out = cost_volume(wall(projection), wall(earlier), projection, earlier, pixels, depths, (WIDTH, HEIGHT), 5.0)
    middle = out[0, 0, :, 4:-4, 4:-4]
    assert (middle.argmax(dim=0) == 1).float().mean() > 0.95


# Networks ----------------------------------------------------------------------------------------------------------


def test_the_depth_network_is_told_of_camera_and_stereo() -> None:
    torch.manual_seed(0)
    net = DepthNet(8, 8, context=4, depths=6, aspp=4, halvings=2, dropout=0.0).eval()
    features, vector = torch.randn(2, 8, 4, 6), torch.randn(2, 27)
    cost = torch.rand(2, 6, 16, 24).softmax(dim=1)
    depth, context = net(features, vector, cost)
    assert depth.shape == (2, 6, 4, 6) and context.shape == (2, 4, 4, 6)
    other, same = net(features, vector, cost.flip(1))
    assert not torch.allclose(other, depth) and torch.equal(same, context)
    told, also = net(features, vector.flip(0), cost)
    assert not torch.allclose(told, depth) and not torch.allclose(also, context)


def test_a_kernel_lies_as_published() -> None:
    """Against PyTorch's convolution of the volume z, y, x."""
    torch.manual_seed(0)
    conv = ConvZYX(2, 3, 3, stride=2, padding=1)
    volume = torch.randn(1, 2, 6, 4, 2)
    expected = F.conv3d(volume.permute(0, 1, 4, 3, 2), conv.weight, conv.bias, 2, 1).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(conv(volume), expected)


def test_networks_on_volumes() -> None:
    net, neck = ResNet3D(4, (1, 2, 1), (4, 8, 16), (1, 2, 2)), Neck3D(28, 5)
    assert [len(stage) for stage in net.layers] == [1, 2, 1]
    assert net.layers[0][0].downsample is not None and net.layers[1][1].downsample is None
    out = net(torch.randn(2, 4, 12, 10, 4))
    assert [tuple(v.shape) for v in out] == [(2, 4, 12, 10, 4), (2, 8, 6, 5, 2), (2, 16, 3, 3, 1)]
    assert neck(out).shape == (2, 5, 12, 10, 4)
    assert (Conv3D(3, 4, 1, norm=False)(torch.randn(1, 3, 2, 2, 2)) >= 0).all()


def test_stereo_swin_is_mmdets_with_one_map_more() -> None:
    sizes = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), window_size=4, out_indices=(0, 1))
    torch.manual_seed(0)
    plain = build_mmdet(dict(type="SwinTransformer", **sizes))
    stereo = build_mmdet(dict(type="StereoSwin", **sizes))
    assert isinstance(stereo, StereoSwin) and stereo.state_dict().keys() == plain.state_dict().keys()
    stereo.load_state_dict(plain.state_dict())
    plain.eval()
    stereo.eval()
    images = torch.randn(2, 3, 36, 52)
    first, *maps = stereo(images)
    for own, theirs in zip(maps, plain(images), strict=True):
        torch.testing.assert_close(own, theirs)
    torch.testing.assert_close(stereo.first_stage(images), first)
    normed = stereo.norm0(first.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(normed, maps[0])
    assert not torch.allclose(first, maps[0])


def test_checkpointing_changes_no_gradient_of_swin() -> None:
    sizes = dict(embed_dims=8, depths=(2,), num_heads=(1,), strides=(4,), window_size=4, out_indices=(0,), drop_path_rate=0.0)
    torch.manual_seed(0)
    plain, saving = (build_mmdet(dict(type="StereoSwin", with_cp=with_cp, **sizes)) for with_cp in (False, True))
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 16, 16)
    for model in (plain, saving):
        model(images)[-1].square().sum().backward()
    for own, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("deep", [False, True])
def test_stereo_resnets_first_map(deep: bool) -> None:
    config = dict(type="StereoResNet", depth=18, base_channels=8, stem_channels=8, out_indices=(0, 2, 3), deep_stem=deep)
    model = build_mmdet(config)
    model.eval()
    assert isinstance(model, StereoResNet)
    images = torch.randn(1, 3, 32, 48)
    first, fine, coarse = model(images)
    torch.testing.assert_close(model.first_stage(images), first)
    assert ImageNeck(32 + 64, 8)([fine, coarse]).shape == (1, 8, *fine.shape[-2:])


def test_the_finest_fpn_is_mmdets_with_one_output() -> None:
    torch.manual_seed(0)
    plain = build_mmdet(dict(type="FPN", in_channels=[4, 6, 8], out_channels=5, num_outs=3))
    finest = build_mmdet(dict(type="FinestFPN", in_channels=(4, 6, 8), out_channels=5))
    assert isinstance(finest, FinestFPN)
    finest.load_state_dict(
        {name: v for name, v in plain.state_dict().items() if not name.startswith(("fpn_convs.1", "fpn_convs.2"))}
    )
    maps = [torch.randn(2, width, *size) for width, size in ((4, (9, 13)), (6, (5, 7)), (8, (3, 4)))]
    torch.testing.assert_close(finest(maps), plain(maps)[0])


# The whole transformer ---------------------------------------------------------------------------------------------


def transformer(**options: object) -> ViewTransformer:
    torch.manual_seed(0)
    sizes: dict[str, object] = dict(
        grid=SMALL, inputs=8, outputs=3, depth=(1.0, 7.0, 0.5), reduction=16, stereo_reduction=8, aspp=4, out_of_view=5.0,
        published_rounding=False, dropout=0.0,
    )  # fmt: skip
    return ViewTransformer(**(sizes | options))  # type: ignore[arg-type]


def test_a_feature_goes_where_its_depth_says() -> None:
    """All depth at one distance, one feature: the volume's sum is the number of cells seen in the grid, and lies there."""
    view = transformer().eval()
    batch = lift_batch(SMALL)
    depth_net = view.depth_net
    nn.init.zeros_(depth_net.depth_conv[4].weight)
    nn.init.zeros_(depth_net.context_conv.weight)
    with torch.no_grad():
        depth_net.depth_conv[4].bias.copy_(torch.where(torch.arange(12) == 6, 100.0, 0.0))
        depth_net.context_conv.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert batch.chain is not None
    volume, shares = view(
        torch.randn(1, 6, 8, 4, 6), camera_vector(batch.chain), batch.projection, (WIDTH, HEIGHT), cost(view, batch)
    )
    assert shares.shape == (1, 6, 12, 4, 6) and (shares[:, :, 6] > 0.999).all()
    points = unproject(batch.projection, pixel_grid((WIDTH, HEIGHT), 16, torch.device("cpu")), torch.tensor([4.0]))
    numbers, inside = voxel_numbers(points, SMALL, published_rounding=False)
    assert inside.any() and not inside.all()
    torch.testing.assert_close(volume[0].sum((1, 2, 3)), inside.sum() * torch.tensor([1.0, 2.0, 3.0]), rtol=1e-3, atol=1e-3)
    lit = (volume[0, 0] > 0.5).flatten().nonzero()[:, 0]
    assert torch.equal(lit, numbers[inside].unique())


def cost(view: ViewTransformer, batch: object) -> Tensor:
    return torch.rand(1, 6, view.num_depths, 8, 12).softmax(dim=2)


def test_depth_targets_are_the_nearest_point_in_a_cell() -> None:
    view = transformer(depth=(1.0, 45.0, 0.5))
    depth = torch.zeros(1, 1, 32, 64)
    depth[0, 0, 3, 5], depth[0, 0, 9, 2] = 20.3, 7.6  # one cell: the nearer one
    depth[0, 0, 0, 16] = 1.0  # the first depth
    depth[0, 0, 0, 32] = 0.99  # nearer than it
    depth[0, 0, 0, 48] = 44.99
    depth[0, 0, 16, 0] = 45.0  # beyond the last
    targets = view.depth_targets(depth)
    assert targets.tolist() == [[[[13, 0, -1, 87], [-1, -1, -1, -1]]]]


def test_the_depth_loss_is_a_loop() -> None:
    view = transformer(depth=(1.0, 4.0, 1.0))
    shares = torch.rand(1, 2, 3, 2, 2).softmax(dim=2).requires_grad_()
    depth = torch.zeros(1, 2, 32, 32)
    depth[0, 0, 0, 0], depth[0, 1, 20, 20] = 2.5, 3.9
    loss = view.depth_loss(shares, depth)
    expected = torch.zeros(())
    for camera, row, column, target in ((0, 0, 0, 1), (1, 1, 1, 2)):
        for d in range(3):
            p = shares[0, camera, d, row, column].detach()
            expected -= p.log() if d == target else (1 - p).log()
    torch.testing.assert_close(loss.detach(), expected / 2)
    unknown = view.depth_loss(shares, torch.zeros_like(depth))
    assert unknown == 0
    unknown.backward()
    assert shares.grad is not None and not shares.grad.any()
    with pytest.raises(ValueError, match="has .* cells of 16 pixels, the features have"):
        view.depth_loss(shares, torch.zeros(1, 2, 64, 32))
