// Gaussians into voxels and back: the compiled part of voxelise.py, which says what is computed.
//
// Forward: a thread takes a slice of the grid (one x) and adds, into a copy of its own, the Gaussians whose candidates reach it,
// in the order they come in (by their base voxel's x, then by index). Backward: a thread takes a Gaussian and reads its candidates.
// Nothing depends on the number of threads, and eight lanes are used on every processor.
#include <algorithm>

#include "gaussian_lanes.h"

extern "C" {

// Mirrored by voxelise.py. Tensors are contiguous float32 unless said otherwise; absent ones are null.
struct OccVoxels {
  int64_t count, channels, padded;       // padded: of `features` and `grad_semantics`, a multiple of 8
  int32_t nx, ny, nz, neighbourhood, threads;
  const float *means, *axes;             // [count, 3], [count, 3, 3]: rows are a Gaussian's own axes over its deviations
  const float *opacities, *features;     // [count], [count, padded]
  const int32_t *base, *order;           // [count, 3] voxel of each mean, [count] Gaussians by base x
  const int64_t *first, *last;           // [nx]: whose candidates reach slice x stand in order[first .. last)
  const float *xs, *ys, *zs;             // voxel centres by axis; zs is followed by seven more
  float *occupancy, *semantics;          // [nx, ny, nz], [nx, ny, nz, channels]
  const float *grad_occupancy, *grad_semantics;
  float *grad_means, *grad_axes, *grad_opacities, *grad_features;  // grad_features [count, padded]
};

int32_t occ_voxels_forward(const OccVoxels* call);
int32_t occ_voxels_backward(const OccVoxels* call);
}

namespace {

void forward_slice(const OccVoxels& c, int32_t x, float* occupancy, float* semantics) {
  const int64_t voxels = int64_t{c.ny} * c.nz, wide = c.padded;
  std::fill_n(occupancy, voxels + 8, 0.0f);
  std::fill_n(semantics, voxels * wide, 0.0f);
  for (int64_t j = c.first[x]; j < c.last[x]; ++j) {
    const int64_t i = c.order[j];
    const float *mean = c.means + 3 * i, *axes = c.axes + 9 * i, *row = c.features + i * wide;
    const Range ys = candidates(c.base[3 * i + 1], c.neighbourhood, c.ny), zs = candidates(c.base[3 * i + 2], c.neighbourhood, c.nz);
    const float dx = c.xs[x] - mean[0], opacity = c.opacities[i];
    for (int32_t y = ys.begin; y < ys.end; ++y) {
      const float dy = c.ys[y] - mean[1];
      const Offset offset(axes, dx, dy);
      for (int32_t z = zs.begin; z < zs.end; z += 8) {
        Lanes lanes;
        if (!weigh(axes, offset.at, c.zs + z, mean[2], zs.end - z, lanes)) continue;
        float* occupied = occupancy + int64_t{y} * c.nz + z;  // the lanes that are no candidates add zeros behind
        store(occupied, load<v8>(occupied) + opacity * lanes.g);
        spread(lanes, row, wide, semantics + (int64_t{y} * c.nz + z) * wide);
      }
    }
  }
  std::copy_n(occupancy, voxels, c.occupancy + x * voxels);
  cut(semantics, voxels, wide, c.channels, c.semantics + x * voxels * c.channels);
}

void backward_one(const OccVoxels& c, int64_t i, float* sums) {
  const int64_t wide = c.padded;
  const float *mean = c.means + 3 * i, *axes = c.axes + 9 * i, *row = c.features + i * wide;
  const Range xs = candidates(c.base[3 * i], c.neighbourhood, c.nx), ys = candidates(c.base[3 * i + 1], c.neighbourhood, c.ny);
  const Range zs = candidates(c.base[3 * i + 2], c.neighbourhood, c.nz);
  const float opacity = c.opacities[i];
  std::fill_n(sums, wide, 0.0f);
  v8 for_opacity = {};
  Moments moments;
  for (int32_t x = xs.begin; x < xs.end; ++x)
    for (int32_t y = ys.begin; y < ys.end; ++y) {
      const float dx = c.xs[x] - mean[0], dy = c.ys[y] - mean[1];
      const Offset offset(axes, dx, dy);
      for (int32_t z = zs.begin; z < zs.end; z += 8) {
        Lanes lanes;
        if (!weigh(axes, offset.at, c.zs + z, mean[2], zs.end - z, lanes)) continue;
        const int64_t voxel = (int64_t{x} * c.ny + y) * c.nz + z;
        const v8 grad = column(c.grad_occupancy + voxel, zs.end - z);
        for_opacity = fma(lanes.g, grad, for_opacity);
        const v8 dot = gathered(lanes, row, wide, c.grad_semantics + voxel * wide, sums);
        const v8 h = lanes.g * fma(splat1<v8>(opacity), grad, dot);
        moments.add(lanes, h, dx, dy);
      }
    }
  std::copy_n(sums, wide, c.grad_features + i * wide);
  c.grad_opacities[i] = across(for_opacity);
  moments.write(axes, c.grad_means + 3 * i, c.grad_axes + 9 * i);
}

}  // namespace

extern "C" {

// Fills occupancy and semantics. 0 on success, 1 if out of memory.
__attribute__((visibility("default"))) int32_t occ_voxels_forward(const OccVoxels* call) {
  const OccVoxels& c = *call;
  const int64_t voxels = int64_t{c.ny} * c.nz, occupied = (voxels + 15) / 8 * 8;
  return shared_out(c.threads, c.nx, 1, occupied + voxels * c.padded, [&](int64_t x, float* own) {
    forward_slice(c, static_cast<int32_t>(x), own, own + occupied);
  });
}

// Fills the four gradients. 0 on success, 1 if out of memory.
__attribute__((visibility("default"))) int32_t occ_voxels_backward(const OccVoxels* call) {
  const OccVoxels& c = *call;
  return shared_out(c.threads, c.count, 32, c.padded, [&](int64_t j, float* own) { backward_one(c, c.order[j], own); });
}
}
