// Gaussians at the centres of voxels, eight at a time, and work shared out among threads: what ops have in common that put
// Gaussians into grids.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstring>

#include <omp.h>

#include "../../renderers/cpu/simd.h"
#include "../../renderers/cpu/splat.h"

using splat::Buffer;

namespace {

constexpr float kFaintest = -126.0f;  // log2 of a weight: below it is a denormal number, and taken for zero
constexpr float kHalfLog2E = 0.72134752f;

struct Range {
  int32_t begin, end;
};

inline Range candidates(int32_t base, int32_t reach, int32_t size) { return {std::max(base - reach, 0), std::min(base + reach + 1, size)}; }

// Weights of a Gaussian in a column of voxels, eight at a time: d is the last lanes' offset from the centre, y what it is in the
// Gaussian's own axes, in deviations.
struct Lanes {
  v8 dz, y[3], g;
  int32_t low, high;  // lanes that are not zero
};

// False if all are zero. `at`: the offsets in own axes at the centre's height; real: how many lanes are candidates.
inline bool weigh(const float* axes, const float at[3], const float* zs, float mean_z, int32_t real, Lanes& o) {
  o.dz = load<v8>(zs) - mean_z;
  for (int k = 0; k < 3; ++k) o.y[k] = fma(splat1<v8>(axes[3 * k + 2]), o.dz, splat1<v8>(at[k]));
  const v8 square = fma(o.y[0], o.y[0], fma(o.y[1], o.y[1], o.y[2] * o.y[2]));
  const v8 exponent = -kHalfLog2E * square;
  const auto near = exponent >= kFaintest;
  uint32_t hits = 0;
#if defined(__AVX2__)
  hits = static_cast<uint32_t>(_mm256_movemask_ps((__m256)near));
#else
  for (int i = 0; i < 8; ++i) hits |= static_cast<uint32_t>(near[i] & 1) << i;
#endif
  hits &= (1u << std::min(real, 8)) - 1;
  if (!hits) return false;
  o.low = __builtin_ctz(hits), o.high = 32 - __builtin_clz(hits);
  typedef int32_t i8 __attribute__((vector_size(32)));
  const i8 lane = {0, 1, 2, 3, 4, 5, 6, 7};
  const v8 e = near ? exponent : splat1<v8>(kFaintest);
  o.g = (v8)((i8)exp2_within<v8>(e) & near & (i8)(lane < real));
  return true;
}

inline float across(v8 a) {  // in a fixed order
  float lane[8];
  store(lane, a);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

// The offset (dx, dy) from a Gaussian in its own axes, at its own height.
struct Offset {
  float at[3];
  Offset(const float* axes, float dx, float dy) {
    for (int k = 0; k < 3; ++k) at[k] = axes[3 * k] * dx + axes[3 * k + 1] * dy;
  }
};

// Adds the row of a Gaussian, times its weights, to what is summed in the voxels of a column; all of `wide` numbers.
inline void spread(const Lanes& lanes, const float* row, int64_t wide, float* cells) {
  float g[8];
  store(g, lanes.g);
  for (int64_t k = 0; k < wide; k += 8) {
    const v8 f = load<v8>(row + k);
    for (int32_t lane = lanes.low; lane < lanes.high; ++lane) {
      float* cell = cells + lane * wide + k;
      store(cell, fma(splat1<v8>(g[lane]), f, load<v8>(cell)));
    }
  }
}

// The way back of `spread`: adds to `sums` the gradient of the row, and returns that of the weights.
inline v8 gathered(const Lanes& lanes, const float* row, int64_t wide, const float* cells, float* sums) {
  float g[8];
  store(g, lanes.g);
  v8 dots[8] = {};
  for (int64_t k = 0; k < wide; k += 8) {
    const v8 f = load<v8>(row + k);
    v8 sum = load<v8>(sums + k);
#pragma GCC unroll 8
    for (int32_t lane = 0; lane < 8; ++lane) {
      if (lane < lanes.low || lane >= lanes.high) continue;
      const v8 cell = load<v8>(cells + lane * wide + k);
      dots[lane] = fma(f, cell, dots[lane]);
      sum = fma(splat1<v8>(g[lane]), cell, sum);
    }
    store(sums + k, sum);
  }
  transpose(dots);
  return ((dots[0] + dots[4]) + (dots[2] + dots[6])) + ((dots[1] + dots[5]) + (dots[3] + dots[7]));
}

// The numbers of a column's voxels within the grid, zeros behind them.
inline v8 column(const float* from, int32_t real) {
  float values[8] = {};
  std::copy_n(from, std::min(real, 8), values);
  return load<v8>(values);
}

// What the voxels say of where a Gaussian is and how it lies: sums of h y, and of h y times d, with h = g dL/dg.
struct Moments {
  v8 own[3] = {}, tilted[9] = {};

  void add(const Lanes& lanes, v8 h, float dx, float dy) {
    for (int k = 0; k < 3; ++k) {
      const v8 hy = h * lanes.y[k];
      own[k] += hy;
      tilted[3 * k] = fma(hy, splat1<v8>(dx), tilted[3 * k]);
      tilted[3 * k + 1] = fma(hy, splat1<v8>(dy), tilted[3 * k + 1]);
      tilted[3 * k + 2] = fma(hy, lanes.dz, tilted[3 * k + 2]);
    }
  }

  void write(const float* axes, float* grad_mean, float* grad_axes) const {
    float moments[3];
    for (int k = 0; k < 3; ++k) moments[k] = across(own[k]);
    for (int j = 0; j < 3; ++j) grad_mean[j] = axes[j] * moments[0] + axes[3 + j] * moments[1] + axes[6 + j] * moments[2];
    for (int k = 0; k < 9; ++k) grad_axes[k] = -across(tilted[k]);
  }
};

// Rows of `wide` numbers, the first `channels` of each.
inline void cut(const float* rows, int64_t count, int64_t wide, int64_t channels, float* out) {
  if (channels == wide)
    std::copy_n(rows, count * wide, out);
  else
    for (int64_t v = 0; v < count; ++v) std::copy_n(rows + v * wide, channels, out + v * channels);
}

// Calls work(index, own) for 0 .. count, `grain` at a time; `own` is the thread's, of `size` floats.
template <typename F>
int32_t shared_out(int32_t threads, int64_t count, int64_t grain, int64_t size, F&& work) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(threads)
  {
    Buffer<float> own;
    try {
      own.reserve(size);
      for (int64_t at; (at = next.fetch_add(grain)) < count;)
        for (int64_t i = at; i < std::min(at + grain, count); ++i) work(i, own.data());
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  }
  return failed ? 1 : 0;
}

}  // namespace
