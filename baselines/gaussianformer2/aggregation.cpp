// Gaussians superposed in voxels and back: the compiled part of aggregation.py, which says what is computed.
//
// Forward: a thread takes a slice of the grid (one x), and the Gaussians that reach it in the order they come in (by their base
// voxel's x, then by index), into a copy of its own. Backward: a thread takes a Gaussian and reads the voxels that it reaches.
// Nothing depends on the number of threads, and eight lanes are used on every processor.
#include <algorithm>
#include <cstdlib>

#include "../gaussianflowocc/gaussian_lanes.h"

extern "C" {

// Mirrored by aggregation.py. Tensors are contiguous float32 unless said otherwise; absent ones are null.
struct OccSuperposition {
  int64_t count, channels, padded;  // padded: of `rows` and `grad_sums`, a multiple of 8
  int32_t nx, ny, nz, threads;
  const float *means, *axes, *rows;             // [count, 3], [count, 3, 3]: own axes over deviations, [count, padded]
  const int32_t *reach;                         // [count]
  const int32_t *base, *order;                  // [count, 3] voxel of each mean, [count] Gaussians by base x
  const int64_t *first, *last;                  // [nx]: who may reach slice x stands in order[first .. last)
  const float *xs, *ys, *zs;                    // voxel centres by axis; zs is followed by seven more
  float *clear, *sums;                          // [nx, ny, nz], [nx, ny, nz, channels]
  const float *grad_clear, *grad_sums;          // [nx, ny, nz] of log(clear), [nx, ny, nz, padded]
  float *grad_means, *grad_axes, *grad_rows;    // grad_rows [count, padded]
};

int32_t occ_superpose_forward(const OccSuperposition* call);
int32_t occ_superpose_backward(const OccSuperposition* call);
}

namespace {

void forward_slice(const OccSuperposition& c, int32_t x, float* clear, float* sums) {
  const int64_t voxels = int64_t{c.ny} * c.nz, wide = c.padded;
  std::fill_n(clear, voxels + 8, 1.0f);
  std::fill_n(sums, voxels * wide, 0.0f);
  for (int64_t j = c.first[x]; j < c.last[x]; ++j) {
    const int64_t i = c.order[j];
    const int32_t *base = c.base + 3 * i, reach = c.reach[i];
    if (std::abs(x - base[0]) > reach) continue;
    const float *mean = c.means + 3 * i, *axes = c.axes + 9 * i, *row = c.rows + i * wide;
    const Range ys = candidates(base[1], reach, c.ny), zs = candidates(base[2], reach, c.nz);
    const float dx = c.xs[x] - mean[0];
    for (int32_t y = ys.begin; y < ys.end; ++y) {
      const float dy = c.ys[y] - mean[1];
      const Offset offset(axes, dx, dy);
      for (int32_t z = zs.begin; z < zs.end; z += 8) {
        Lanes lanes;
        if (!weigh(axes, offset.at, c.zs + z, mean[2], zs.end - z, lanes)) continue;
        float* through = clear + int64_t{y} * c.nz + z;  // lanes that are not reached are multiplied by one
        store(through, load<v8>(through) * (1.0f - lanes.g));
        spread(lanes, row, wide, sums + (int64_t{y} * c.nz + z) * wide);
      }
    }
  }
  std::copy_n(clear, voxels, c.clear + x * voxels);
  cut(sums, voxels, wide, c.channels, c.sums + x * voxels * c.channels);
}

void backward_one(const OccSuperposition& c, int64_t i, float* sums) {
  const int64_t wide = c.padded;
  const int32_t *base = c.base + 3 * i, reach = c.reach[i];
  const float *mean = c.means + 3 * i, *axes = c.axes + 9 * i, *row = c.rows + i * wide;
  const Range xs = candidates(base[0], reach, c.nx), ys = candidates(base[1], reach, c.ny), zs = candidates(base[2], reach, c.nz);
  std::fill_n(sums, wide, 0.0f);
  Moments moments;
  for (int32_t x = xs.begin; x < xs.end; ++x)
    for (int32_t y = ys.begin; y < ys.end; ++y) {
      const float dx = c.xs[x] - mean[0], dy = c.ys[y] - mean[1];
      const Offset offset(axes, dx, dy);
      for (int32_t z = zs.begin; z < zs.end; z += 8) {
        Lanes lanes;
        if (!weigh(axes, offset.at, c.zs + z, mean[2], zs.end - z, lanes)) continue;
        const int64_t voxel = (int64_t{x} * c.ny + y) * c.nz + z;
        const v8 dot = gathered(lanes, row, wide, c.grad_sums + voxel * wide, sums);
        // log(clear) falls by 1 / (1 - g); on a centre, where g is 1, its gradient is nought in everything that moves
        const v8 rest = 1.0f - lanes.g;
        const v8 fall = rest > 0.0f ? column(c.grad_clear + voxel, zs.end - z) / rest : v8{};
        const v8 h = lanes.g * (dot - fall);
        moments.add(lanes, h, dx, dy);
      }
    }
  std::copy_n(sums, wide, c.grad_rows + i * wide);
  moments.write(axes, c.grad_means + 3 * i, c.grad_axes + 9 * i);
}

}  // namespace

extern "C" {

// Fills clear and sums. 0 on success, 1 if out of memory.
__attribute__((visibility("default"))) int32_t occ_superpose_forward(const OccSuperposition* call) {
  const OccSuperposition& c = *call;
  const int64_t voxels = int64_t{c.ny} * c.nz, through = (voxels + 15) / 8 * 8;
  return shared_out(c.threads, c.nx, 1, through + voxels * c.padded, [&](int64_t x, float* own) {
    forward_slice(c, static_cast<int32_t>(x), own, own + through);
  });
}

// Fills the three gradients. 0 on success, 1 if out of memory.
__attribute__((visibility("default"))) int32_t occ_superpose_backward(const OccSuperposition* call) {
  const OccSuperposition& c = *call;
  return shared_out(c.threads, c.count, 8, c.padded, [&](int64_t j, float* own) { backward_one(c, c.order[j], own); });
}
}
