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
