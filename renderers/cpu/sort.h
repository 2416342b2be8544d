// Radix sort by several threads; the order does not depend on their number.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace splat {

// Sorts `values` by `keys`, stable. Both come back in their own place or in that of `other_*`; returns where the values are.
inline const uint32_t* radix_sort(uint32_t* keys, uint32_t* values, uint32_t* other_keys, uint32_t* other_values, int64_t n,
                                  int threads) {
  constexpr int kBits = 11, kPasses = 3, kDigits = 1 << kBits;
  constexpr int64_t kFewest = 1 << 14;  // numbers that are worth a thread
  threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, n / kFewest)));
  std::vector<uint32_t> counts(static_cast<size_t>(threads) * kDigits);
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto digit = [=](uint32_t key) { return (key >> (pass * kBits)) & (kDigits - 1); };
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
      uint32_t* count = counts.data() + static_cast<size_t>(t) * kDigits;
      std::fill_n(count, kDigits, 0u);
      for (int64_t i = n * t / threads; i < n * (t + 1) / threads; ++i) ++count[digit(keys[i])];
    }
    uint32_t total = 0;
    bool sorted = false;
    for (int d = 0; d < kDigits; ++d) {
      const uint32_t before = total;
      for (int t = 0; t < threads; ++t) {
        uint32_t& count = counts[static_cast<size_t>(t) * kDigits + d];
        const uint32_t c = count;
        count = total, total += c;
      }
      sorted |= total - before == n;
    }
    if (sorted) continue;  // all keys share the digit
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
      uint32_t* next = counts.data() + static_cast<size_t>(t) * kDigits;
      for (int64_t i = n * t / threads; i < n * (t + 1) / threads; ++i) {
        const uint32_t at = next[digit(keys[i])]++;
        other_keys[at] = keys[i], other_values[at] = values[i];
      }
    }
    std::swap(keys, other_keys), std::swap(values, other_values);
  }
  return values;
}

}  // namespace splat
