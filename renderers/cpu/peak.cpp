// What the machine can do at most, measured: fused multiply-adds and memory traffic. Part of the op's library, so that the
// instruction set is the one that the op itself is compiled for.
#include <omp.h>

#include <chrono>
#include <cstdint>
#include <new>

#include "simd.h"

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Independent chains: enough to cover latency x units (4 or 5 cycles x 2) and few enough for 16 registers.
constexpr int kChains = 12;
constexpr int kInner = 2000;

float chains(int rounds) {
  vf sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = splat1<vf>(1.0f + 0.01f * static_cast<float>(i));
  const vf factor = splat1<vf>(0.999f), term = splat1<vf>(0.1f);  // stays near 100: no denormals, no overflow
  for (int k = 0; k < rounds; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = fma(sums[i], factor, term);
  }
  float total = 0;
  for (int i = 0; i < kChains; ++i) total += sum(sums[i]);
  return total;
}

}  // namespace

extern "C" {

// Floating-point operations a second of `threads` threads that do nothing but multiply-adds (2 each) for about `duration` s.
__attribute__((visibility("default"))) double occ_peak_flops(int32_t threads, double duration) {
  double done = 0;
  volatile float kept = 0;
  const double start = seconds();
#pragma omp parallel num_threads(threads) reduction(+ : done)
  {
    float own = 0;
    int64_t rounds = 0;
    while (seconds() - start < duration) own += chains(kInner), rounds += kInner;
    done += 2.0 * kChains * kLanes * static_cast<double>(rounds);
#pragma omp critical
    kept = kept + own;
  }
  return done / (seconds() - start);
}

// Bytes a second of a[i] = b[i] + s * c[i] over three arrays of `count` floats (STREAM triad): 12 bytes an element, what the
// processor reads to write a line not counted. Best of `repeats`; 0 if there is no memory for the arrays.
__attribute__((visibility("default"))) double occ_peak_bytes(int32_t threads, int64_t count, int32_t repeats) {
  float* memory = new (std::nothrow) float[static_cast<size_t>(3 * count)];
  if (!memory) return 0;
  float *a = memory, *b = memory + count, *c = memory + 2 * count;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < count; ++i) a[i] = 0, b[i] = 1, c[i] = 2;
  double best = 0;
  for (int32_t k = 0; k < repeats; ++k) {
    const double start = seconds();
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; ++i) a[i] = b[i] + 3.0f * c[i];
    const double rate = 12.0 * static_cast<double>(count) / (seconds() - start);
    if (rate > best) best = rate;
  }
  delete[] memory;
  return best;
}
}
