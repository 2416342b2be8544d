// Data that the scheduler (op.cpp) and the blending kernels (blend.h) share.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace splat {

constexpr float kLog2E = 1.4426950408889634f;

// One projected Gaussian: centre (px), inverse covariance [[a, b], [b, c]] (px^-2), log2 of the opacity,
// squared Mahalanobis radius of the alpha_min contour, and camera depth (m).
struct Splat {
  float u, v, a, b, c, log_opacity, reach, z;
};

// Pixels [x0, x1) x [y0, y1) a Gaussian may touch under the "tile3sigma" extent.
struct Rect {
  int32_t x0, y0, x1, y1;
};

// Numerical settings, see renderers/interface.py RasterSettings.
struct Settings {
  float near, far, low_pass, alpha_min, alpha_max, transmittance_min;
  int32_t tile3sigma, tile_size, principal_clamp, clamp_gradient, legacy_fov_y;
};

// Big pages for freshly allocated memory: a page fault every 4 KiB costs as much as blending into it.
inline void big_pages(void* p, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t page = size_t{2} << 20, begin = (reinterpret_cast<uintptr_t>(p) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / page * page;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: failure changes nothing
#else
  (void)p, (void)bytes;
#endif
}

// A growable, uninitialised, 64-byte aligned array.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n) { reserve(n); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  // Room for n with what is in it now.
  void reserve(size_t n) {
    if (n <= capacity_) return;
    size_t grown = capacity_ + capacity_ / 2 > n ? capacity_ + capacity_ / 2 : n;
    size_t bytes = (grown * sizeof(T) + 63) / 64 * 64;
    T* fresh = static_cast<T*>(std::aligned_alloc(64, bytes));
    if (!fresh) throw std::bad_alloc();
    big_pages(fresh, bytes);
    if (data_) __builtin_memcpy(static_cast<void*>(fresh), data_, capacity_ * sizeof(T));
    std::free(data_);
    data_ = fresh;
    capacity_ = grown;
  }
  // Room for n with anything in it.
  void renew(size_t n) {
    if (n <= capacity_) return;
    std::free(data_);
    data_ = nullptr, capacity_ = 0;
    reserve(n);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t capacity_ = 0;
};

// Everything the kernels need to know about one view. What is blended are the features `payload` [N, channels - 1], then
// the depth. Images are row-major, features channel-last.
struct View {
  int32_t width, height, channels;  // channels = features + 1
  Settings settings;
  const Splat* splats;
  const Rect* rects;    // "tile3sigma" only
  const uint32_t* ids;  // rows of payload
  const float* payload;
  const float* background;  // [channels - 1] or null
  // forward outputs
  float* features;
  float* depth;
  float* alpha;
  // backward inputs (null: zero) and what to compute
  const float* grad_features;
  const float* grad_depth;
  const float* grad_alpha;
  bool want_payload, want_alpha, want_geometry;
};

// The Gaussians of one bin of pixels, nearest first, and the pixels.
struct Bin {
  const uint32_t* list;  // indices into View::splats
  int32_t length;
  int32_t x0, y0, x1, y1;
};

// Gradient slots: one row a (bin, Gaussian) pair. Columns: payload gradients (padded to a multiple of 8), then the sum
// of h = dL/d(exponent) and its moments h*dx, h*dy, h*dx^2, h*dx*dy, h*dy^2, with d = pixel - centre.
constexpr int kMoments = 8;
inline int32_t padded(int32_t channels) { return (channels + 7) / 8 * 8; }
inline int32_t slot_stride(int32_t channels) { return padded(channels) + kMoments; }

}  // namespace splat
