// One view's Gaussians in depth order and their bins, and what of them the backward pass needs.
#pragma once
#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "splat.h"

namespace splat {

struct BinRange {
  uint16_t x0, y0, x1, y1;  // bins [x0, x1) x [y0, y1)
};

inline int32_t bin_edge(int64_t width, int64_t height) {
  // Depends on the image alone, so that sums are formed in the same order on every machine.
  return width * height >= 64 * 64 * 64 ? 64 : width * height >= 32 * 32 * 64 ? 32 : 16;
}

struct Grid {
  int32_t edge, columns, rows;
  Grid(int32_t width, int32_t height)
      : edge(bin_edge(width, height)), columns((width + edge - 1) / edge), rows((height + edge - 1) / edge) {}
  int64_t bins() const { return int64_t{columns} * rows; }
};

// The buffers of a forward pass, used by one view after the other.
struct Scene {
  // What was projected: each thread's in the order of the input, with gaps between those of two threads.
  Buffer<Splat> splats;
  Buffer<Rect> rects;       // "tile3sigma" only
  Buffer<BinRange> ranges;
  Buffer<uint32_t> ids;     // -> index of the Gaussian
  int64_t visible = 0;
  Buffer<uint32_t> keys, places, other_keys, other_places;
  const uint32_t* order = nullptr;  // rank in depth -> index into the above
  Buffer<BinRange> sorted_ranges;
  Buffer<uint32_t> pairs;   // indices into the above in depth order, bin after bin
  Buffer<int64_t> starts;   // [bins + 1] into pairs
  Buffer<uint8_t> touched;  // by the same index: whether some pixel's blending depends on it
  Buffer<uint32_t> compact; // the same index -> that among those touched, in depth order
  std::vector<int32_t> needed;  // by bin: as many at the front of its list are touched
};

// What the backward pass needs of a view: the Gaussians that some pixel's blending depends on, in depth order, and for each bin
// those that its pixels' does. In one block without a pointer into itself, so that whoever keeps it may copy it:
// starts [bins + 1], splats, rects ("tile3sigma" only), ids, pairs.
struct Kept {
  int64_t count = 0;
  const int64_t* starts;
  const Splat* splats;
  const Rect* rects;
  const uint32_t *ids, *pairs;  // pairs: indices into splats

  static size_t bytes(int64_t bins, int64_t count, int64_t pairs, bool rects) {
    return 8 * (bins + 2) + count * (sizeof(Splat) + (rects ? sizeof(Rect) : 0) + sizeof(uint32_t)) + pairs * sizeof(uint32_t);
  }
  Kept(const void* block, int64_t bins, bool with_rects) {
    const char* at = static_cast<const char*>(block);
    const auto take = [&](auto*& array, int64_t number) {
      array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(at);
      at += number * sizeof *array;
    };
    const int64_t* size;
    take(size, 1), count = *size;
    take(starts, bins + 1), take(splats, count), take(rects, with_rects ? count : 0), take(ids, count);
    take(pairs, starts[bins]);
  }
};

// A new block for `Kept`, to be freed by std::free, and its size.
inline std::pair<void*, int64_t> keep(Scene& scene, int64_t bins, bool with_rects, int threads) {
  // Each thread has a stretch of ranks: first it counts, then it knows where to write.
  const int64_t visible = scene.visible;
  std::vector<int64_t> first(threads + 1, 0);
  const auto stretch = [&](int t) { return visible * t / threads; };
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t)
    for (int64_t k = stretch(t); k < stretch(t + 1); ++k) first[t + 1] += scene.touched[scene.order[k]];
  for (int t = 0; t < threads; ++t) first[t + 1] += first[t];
  const int64_t count = first[threads];
  int64_t pairs = 0;
  for (int64_t bin = 0; bin < bins; ++bin) pairs += scene.needed[bin];

  const size_t size = Kept::bytes(bins, count, pairs, with_rects);
  void* block = std::malloc(size);
  if (!block) throw std::bad_alloc();
  big_pages(block, size);
  int64_t* header = static_cast<int64_t*>(block);
  header[0] = count, header[1] = 0;
  for (int64_t bin = 0; bin < bins; ++bin) header[bin + 2] = header[bin + 1] + scene.needed[bin];
  const Kept kept(block, bins, with_rects);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    int64_t at = first[t];
    for (int64_t k = stretch(t); k < stretch(t + 1); ++k) {
      const uint32_t place = scene.order[k];
      if (!scene.touched[place]) continue;
      scene.compact[place] = static_cast<uint32_t>(at);
      const_cast<Splat*>(kept.splats)[at] = scene.splats[place];
      if (with_rects) const_cast<Rect*>(kept.rects)[at] = scene.rects[place];
      const_cast<uint32_t*>(kept.ids)[at++] = scene.ids[place];
    }
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t bin = 0; bin < bins; ++bin) {
    uint32_t* out = const_cast<uint32_t*>(kept.pairs) + kept.starts[bin];
    const uint32_t* list = scene.pairs.data() + scene.starts[bin];
    for (int32_t i = 0; i < scene.needed[bin]; ++i) out[i] = scene.compact[list[i]];
  }
  return {block, static_cast<int64_t>(size)};
}

}  // namespace splat
