// The "cpu" renderer: a plain C interface over projection, depth sort, binning, blending and their gradients.
//
// Per view, forward: project and cull all Gaussians -> radix sort by depth, stable -> counting sort into bins of pixels,
// in depth order -> blend bins, one thread a bin. Backward repeats the first three (cheap) and blends again, storing each
// (bin, Gaussian) pair's gradients in a slot of its own; the slots are then added bin by bin. Nothing depends on the
// number of threads.
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include <omp.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "blend.h"

using namespace splat;

extern "C" {

// Mirrored by renderers/cpu/native.py. Tensors are contiguous float32; absent ones are null.
struct OccCall {
  int64_t batch, views, count, features, times;  // times 0: means have no time axis
  int32_t width, height, scale_columns, threads;
  Settings settings;
  const float *means, *scales, *quaternions, *opacities, *payload;
  const float *intrinsics, *world_to_camera, *background;
  const uint8_t* visible;
  const int64_t* time_index;
  float *out_features, *out_depth, *out_alpha;
  int32_t* needed;  // [batch, views, bins]: how much of each bin's list the forward pass used
  const float *grad_features, *grad_depth, *grad_alpha;
  float *grad_means, *grad_scales, *grad_quaternions, *grad_opacities, *grad_payload;
  double* stages;  // null, or [9] in the order of Stage: seconds, then counts
};

int32_t occ_bins(int32_t width, int32_t height);
int32_t occ_level();
int32_t occ_forward(const OccCall* call);
int32_t occ_backward(const OccCall* call);
}

namespace {

enum Stage { kProject, kSort, kBin, kBlend, kReduce, kSplats, kPairs, kNeeded, kWeights };
#ifndef OCC_SLOT_BYTES
#define OCC_SLOT_BYTES (size_t{192} << 20)
#endif
constexpr size_t kSlotBytes = OCC_SLOT_BYTES;  // gradient slots held at once

// The inputs are not those of the forward pass: what that left (`needed`) or a time index does not fit them.
struct Changed {};

class Clock {
 public:
  explicit Clock(double* stages) : stages_(stages) { if (stages_) last_ = now(); }
  void lap(Stage stage) {
    if (!stages_) return;
    const double t = now();
    stages_[stage] += t - last_;
    last_ = t;
  }
  void count(Stage stage, double amount) { if (stages_) stages_[stage] += amount; }

 private:
  static double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
  double* stages_;
  double last_ = 0;
};

// Big pages for freshly allocated outputs: a page fault every 4 KiB costs as much as blending into it.
void big_pages(void* p, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t page = size_t{2} << 20, begin = (reinterpret_cast<uintptr_t>(p) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / page * page;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: failure changes nothing
#else
  (void)p, (void)bytes;
#endif
}

struct Pose {
  float r[9], t[3], fx, fy, cx, cy;
  float shape_fy;  // fy in the Jacobian and its limits
  float low_x, high_x, low_y, high_y;  // limits of x/z and y/z in the Jacobian
};

Pose pose_of(const OccCall& call, int64_t index) {
  Pose p;
  const float* m = call.world_to_camera + 16 * index;
  const float* k = call.intrinsics + 9 * index;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) p.r[3 * i + j] = m[4 * i + j];
    p.t[i] = m[4 * i + 3];
  }
  p.fx = k[0], p.fy = k[4], p.cx = k[2], p.cy = k[5];
  p.shape_fy = call.settings.legacy_fov_y ? p.fx * call.height / call.width : p.fy;
  const float tan_x = call.width / (2 * p.fx), tan_y = call.height / (2 * p.shape_fy);
  if (call.settings.principal_clamp) {
    p.low_x = -(p.cx / p.fx + 0.3f * tan_x), p.high_x = (call.width - p.cx) / p.fx + 0.3f * tan_x;
    p.low_y = -(p.cy / p.shape_fy + 0.3f * tan_y), p.high_y = (call.height - p.cy) / p.shape_fy + 0.3f * tan_y;
  } else {
    p.low_x = -1.3f * tan_x, p.high_x = 1.3f * tan_x, p.low_y = -1.3f * tan_y, p.high_y = 1.3f * tan_y;
  }
  return p;
}

// Rotation matrix of a quaternion (w, x, y, z) of any length; `norm` is that length.
template <typename Real>
void rotation(const float* q, Real* m, Real unit[4], Real& norm) {
  norm = std::sqrt(Real(q[0]) * q[0] + Real(q[1]) * q[1] + Real(q[2]) * q[2] + Real(q[3]) * q[3]);
  for (int i = 0; i < 4; ++i) unit[i] = q[i] / norm;
  const Real w = unit[0], x = unit[1], y = unit[2], z = unit[3];
  m[0] = 1 - 2 * (y * y + z * z), m[1] = 2 * (x * y - w * z), m[2] = 2 * (x * z + w * y);
  m[3] = 2 * (x * y + w * z), m[4] = 1 - 2 * (x * x + z * z), m[5] = 2 * (y * z - w * x);
  m[6] = 2 * (x * z - w * y), m[7] = 2 * (y * z + w * x), m[8] = 1 - 2 * (x * x + y * y);
}

// A Gaussian on its way to the screen. m = Jacobian x rotation to the camera [2, 3]; axes = m x own rotation [2, 3]
// (anisotropic only); covariance without the low-pass.
template <typename Real>
struct Projection {
  Real x, y, z, tx, ty;
  bool clamped_x, clamped_y;
  Real m[6], own[9], unit[4], norm, axes[6];
  Real sxx, sxy, syy;
};

template <typename Real>
void project_one(const Pose& p, const float* mean, const float* scale, const float* quaternion, bool isotropic,
                 Projection<Real>& o) {
  const float* r = p.r;
  o.x = Real(r[0]) * mean[0] + Real(r[1]) * mean[1] + Real(r[2]) * mean[2] + p.t[0];
  o.y = Real(r[3]) * mean[0] + Real(r[4]) * mean[1] + Real(r[5]) * mean[2] + p.t[1];
  o.z = Real(r[6]) * mean[0] + Real(r[7]) * mean[1] + Real(r[8]) * mean[2] + p.t[2];
  const Real u = o.x / o.z, v = o.y / o.z;
  o.clamped_x = u < p.low_x || u > p.high_x, o.clamped_y = v < p.low_y || v > p.high_y;
  o.tx = o.z * std::min<Real>(std::max<Real>(u, p.low_x), p.high_x);
  o.ty = o.z * std::min<Real>(std::max<Real>(v, p.low_y), p.high_y);
  const Real jx = p.fx / o.z, jy = p.shape_fy / o.z, jxz = -jx * o.tx / o.z, jyz = -jy * o.ty / o.z;
  for (int k = 0; k < 3; ++k) o.m[k] = jx * r[k] + jxz * r[6 + k], o.m[3 + k] = jy * r[3 + k] + jyz * r[6 + k];
  const Real* rows = o.m;
  Real s[3] = {scale[0], scale[0], scale[0]};
  if (!isotropic) {
    s[1] = scale[1], s[2] = scale[2];
    rotation(quaternion, o.own, o.unit, o.norm);
    for (int i = 0; i < 2; ++i)
      for (int k = 0; k < 3; ++k)
        o.axes[3 * i + k] = o.m[3 * i] * o.own[k] + o.m[3 * i + 1] * o.own[3 + k] + o.m[3 * i + 2] * o.own[6 + k];
    rows = o.axes;
  }
  o.sxx = o.sxy = o.syy = 0;
  for (int k = 0; k < 3; ++k) {
    const Real a = rows[k] * s[k], b = rows[3 + k] * s[k];
    o.sxx += a * a, o.sxy += a * b, o.syy += b * b;
  }
}

// One view's Gaussians in depth order, and their bins.
struct Scene {
  int32_t visible = 0;
  Buffer<Splat> splats;
  Buffer<Rect> rects;
  Buffer<uint32_t> ids;     // rank -> index of the Gaussian
  Buffer<float> payload;
  int32_t edge = 0, columns = 0, rows = 0;
  Buffer<uint32_t> pairs;   // ranks, bin after bin
  Buffer<int64_t> starts;   // [bins + 1] into pairs
};

struct BinRange {
  uint16_t x0, y0, x1, y1;  // bins [x0, x1) x [y0, y1)
};

int32_t bin_edge(int64_t width, int64_t height) {
  // Depends on the image alone, so that sums are formed in the same order on every machine.
  return width * height >= 64 * 64 * 64 ? 64 : width * height >= 32 * 32 * 64 ? 32 : 16;
}

struct Inputs {  // of one view
  const float *means, *scales, *opacities, *payload;
  const float* quaternions;
  const uint8_t* visible;
};

Inputs inputs_of(const OccCall& call, int64_t b, int64_t v) {
  const int64_t n = call.count, slices = std::max<int64_t>(call.times, 1);
  const int64_t slice = call.times ? call.time_index[v] : 0;
  if (slice < 0 || slice >= slices) throw Changed();
  return {call.means + (b * slices + slice) * n * 3,
          call.scales + b * n * call.scale_columns,
          call.opacities + b * n,
          call.payload + b * n * call.features,
          call.quaternions ? call.quaternions + b * n * 4 : nullptr,
          call.visible ? call.visible + (b * call.views + v) * n : nullptr};
}

// Returns false if the Gaussian cannot touch the image.
inline bool project_splat(const OccCall& call, const Pose& pose, const Inputs& in, int64_t i, float z, Splat& splat, Rect& rect) {
  const Settings& set = call.settings;
  const float opacity = in.opacities[i];
  Projection<float> p;
  project_one(pose, in.means + 3 * i, in.scales + call.scale_columns * i, in.quaternions ? in.quaternions + 4 * i : nullptr,
              call.scale_columns == 1, p);
  const float sxx = p.sxx + set.low_pass, syy = p.syy + set.low_pass, sxy = p.sxy;
  const float det = sxx * syy - sxy * sxy;
  if (!(det > 0)) return false;
  const float u = pose.fx * p.x / p.z + pose.cx, v = pose.fy * p.y / p.z + pose.cy;
  const float reach = 2 * std::max(0.0f, std::log(opacity / set.alpha_min));
  // A pixel more on each side: rounding must not decide, alpha does.
  const float half_x = std::sqrt(reach * sxx) + 1, half_y = std::sqrt(reach * syy) + 1;
  float left = std::floor(u - half_x), right = std::ceil(u + half_x);
  float top = std::floor(v - half_y), bottom = std::ceil(v + half_y);
  const float width = static_cast<float>(call.width), height = static_cast<float>(call.height);
  if (set.tile3sigma) {
    const float middle = 0.5f * (sxx + syy);
    const float largest = middle + std::sqrt(std::max(0.1f, middle * middle - det));
    const float radius = std::ceil(3 * std::sqrt(largest)), tile = static_cast<float>(set.tile_size);
    const auto edge = [&](float at, float limit) {
      return std::min(std::min(std::max(std::trunc(at / tile), 0.0f), std::ceil(limit / tile)) * tile, limit);
    };
    rect.x0 = static_cast<int32_t>(edge(u - 0.5f - radius, width));
    rect.x1 = static_cast<int32_t>(edge(u - 0.5f + radius + tile - 1, width));
    rect.y0 = static_cast<int32_t>(edge(v - 0.5f - radius, height));
    rect.y1 = static_cast<int32_t>(edge(v - 0.5f + radius + tile - 1, height));
    left = std::max(left, static_cast<float>(rect.x0)), right = std::min(right, static_cast<float>(rect.x1));
    top = std::max(top, static_cast<float>(rect.y0)), bottom = std::min(bottom, static_cast<float>(rect.y1));
  }
  left = std::max(left, 0.0f), top = std::max(top, 0.0f), right = std::min(right, width), bottom = std::min(bottom, height);
  if (!(left < right) || !(top < bottom)) return false;
  splat = {u, v, syy / det, -sxy / det, sxx / det, std::log2(opacity), reach, z};
  if (!set.tile3sigma)
    rect = {static_cast<int32_t>(left), static_cast<int32_t>(top), static_cast<int32_t>(right), static_cast<int32_t>(bottom)};
  return true;
}

// Stable by key; `other` buffers hold the result if the return value is true.
bool radix_sort(uint32_t* keys, uint32_t* values, uint32_t* other_keys, uint32_t* other_values, int64_t n) {
  constexpr int kBits = 11, kPasses = 3;
  std::vector<uint32_t> counts(kPasses << kBits);
  for (int64_t i = 0; i < n; ++i)
    for (int pass = 0; pass < kPasses; ++pass) ++counts[(pass << kBits) + ((keys[i] >> (pass * kBits)) & ((1u << kBits) - 1))];
  bool swapped = false;
  for (int pass = 0; pass < kPasses; ++pass) {
    uint32_t* count = counts.data() + (pass << kBits);
    uint32_t total = 0;
    bool sorted = false;
    for (int d = 0; d < 1 << kBits; ++d) {
      sorted |= count[d] == n;
      const uint32_t c = count[d];
      count[d] = total, total += c;
    }
    if (sorted) continue;  // all keys share the digit
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t at = count[(keys[i] >> (pass * kBits)) & ((1u << kBits) - 1)]++;
      other_keys[at] = keys[i], other_values[at] = values[i];
    }
    std::swap(keys, other_keys), std::swap(values, other_values);
    swapped = !swapped;
  }
  return swapped;
}

constexpr int64_t kAhead = 16;  // splats between asking for one and reading it

void prepare(const OccCall& call, const Inputs& in, const Pose& pose, Scene& scene, Clock& clock) {
  const int64_t n = call.count;
  const int threads = call.threads;
  const Settings& set = call.settings;
  const int channels = static_cast<int>(call.features) + 1;
  scene.edge = bin_edge(call.width, call.height);
  scene.columns = (call.width + scene.edge - 1) / scene.edge, scene.rows = (call.height + scene.edge - 1) / scene.edge;
  const int64_t bins = int64_t{scene.columns} * scene.rows;

  // project: each thread fills its own stretch
  Buffer<Splat> splats(n);
  Buffer<Rect> rects(n);
  Buffer<uint32_t> ids(n);
  std::vector<int64_t> found(threads + 1, 0);
  std::vector<int64_t> begin(threads + 1);
  for (int t = 0; t <= threads; ++t) begin[t] = n * t / threads;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    int64_t at = begin[t];
    for (int64_t i = begin[t]; i < begin[t + 1]; ++i) {
      if (in.visible && !in.visible[i]) continue;
      const float* m = in.means + 3 * i;
      const float z = pose.r[6] * m[0] + pose.r[7] * m[1] + pose.r[8] * m[2] + pose.t[2];
      if (!(z > set.near) || z > set.far || in.opacities[i] < set.alpha_min) continue;
      if (project_splat(call, pose, in, i, z, splats[at], rects[at])) ids[at++] = static_cast<uint32_t>(i);
    }
    found[t + 1] = at - begin[t];
  }
  for (int t = 0; t < threads; ++t) found[t + 1] += found[t];
  const int64_t visible = found[threads];
  scene.visible = static_cast<int32_t>(visible);
  clock.lap(kProject);

  // sort by the bits of the depth, which is positive
  Buffer<uint32_t> keys(visible), order(visible), other_keys(visible), other_order(visible);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t)
    for (int64_t k = found[t]; k < found[t + 1]; ++k) {
      const int64_t at = begin[t] + (k - found[t]);
      std::memcpy(&keys[k], &splats[at].z, 4);
      order[k] = static_cast<uint32_t>(at);
    }
  const uint32_t* sorted =
      radix_sort(keys.data(), order.data(), other_keys.data(), other_order.data(), visible) ? other_order.data() : order.data();
  scene.splats.reserve(visible), scene.ids.reserve(visible), scene.payload.reserve(visible * channels);
  if (set.tile3sigma) scene.rects.reserve(visible);
  Buffer<BinRange> ranges(visible);
  const auto bin_of = [&](int32_t pixel, bool up) { return static_cast<uint16_t>((pixel + (up ? scene.edge - 1 : 0)) / scene.edge); };
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k < visible; ++k) {
    // Neighbours in depth lie anywhere in memory: ask for them ahead of time.
    if (k + 2 * kAhead < visible) {
      const uint32_t later = sorted[k + 2 * kAhead];
      __builtin_prefetch(&ids[later]), __builtin_prefetch(&splats[later]), __builtin_prefetch(&rects[later]);
      const char* row = reinterpret_cast<const char*>(in.payload + int64_t{ids[sorted[k + kAhead]]} * call.features);
      for (int64_t byte = 0; byte < 4 * call.features; byte += 64) __builtin_prefetch(row + byte);
    }
    const uint32_t at = sorted[k], id = ids[at];
    const Rect r = rects[at];
    scene.splats[k] = splats[at], scene.ids[k] = id;
    if (set.tile3sigma) scene.rects[k] = r;
    ranges[k] = {bin_of(r.x0, false), bin_of(r.y0, false), bin_of(r.x1, true), bin_of(r.y1, true)};
    float* row = scene.payload.data() + k * channels;
    std::memcpy(row, in.payload + int64_t{id} * call.features, 4 * call.features);
    row[channels - 1] = splats[at].z;
  }
  clock.lap(kSort);

  // counting sort into bins, stable in depth: each thread owns a stretch of ranks
  std::vector<int64_t> cursor(threads * bins, 0);
  const auto each_bin = [&](int64_t k, auto&& f) {
    const BinRange r = ranges[k];
    for (int64_t y = r.y0; y < r.y1; ++y)
      for (int64_t x = r.x0; x < r.x1; ++x) f(y * scene.columns + x);
  };
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    int64_t* count = cursor.data() + t * bins;
    for (int64_t k = visible * t / threads; k < visible * (t + 1) / threads; ++k) each_bin(k, [&](int64_t bin) { ++count[bin]; });
  }
  scene.starts.reserve(bins + 1);
  int64_t total = 0;
  for (int64_t bin = 0; bin < bins; ++bin) {
    scene.starts[bin] = total;
    for (int t = 0; t < threads; ++t) {
      const int64_t c = cursor[t * bins + bin];
      cursor[t * bins + bin] = total, total += c;
    }
  }
  scene.starts[bins] = total;
  scene.pairs.reserve(total);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    int64_t* at = cursor.data() + t * bins;
    for (int64_t k = visible * t / threads; k < visible * (t + 1) / threads; ++k)
      each_bin(k, [&](int64_t bin) { scene.pairs[at[bin]++] = static_cast<uint32_t>(k); });
  }
  clock.lap(kBin);
  clock.count(kSplats, static_cast<double>(visible));
  clock.count(kPairs, static_cast<double>(total));
}

View view_of(const OccCall& call, const Scene& scene) {
  View view{};
  view.width = call.width, view.height = call.height, view.channels = static_cast<int32_t>(call.features) + 1;
  view.settings = call.settings;
  view.splats = scene.splats.data(), view.rects = scene.rects.data(), view.payload = scene.payload.data();
  view.background = call.background;
  return view;
}

Bin bin_at(const OccCall& call, const Scene& scene, int64_t index) {
  const int32_t x = static_cast<int32_t>(index % scene.columns) * scene.edge, y = static_cast<int32_t>(index / scene.columns) * scene.edge;
  return {scene.pairs.data() + scene.starts[index], static_cast<int32_t>(scene.starts[index + 1] - scene.starts[index]), x, y,
          std::min(x + scene.edge, call.width), std::min(y + scene.edge, call.height)};
}

// Gradients of one Gaussian, from those of what `project_splat` made of it: moments of h about the centre (see
// kMoments) and the depth channel.
void project_backward(const OccCall& call, const Pose& pose, const Inputs& in, int64_t i, const Splat& splat, const double* moments,
                      double grad_depth, float* grad_mean, float* grad_scale, float* grad_quaternion) {
  const double a = splat.a, b = splat.b, c = splat.c;
  const double gu = a * moments[1] + b * moments[2], gv = b * moments[1] + c * moments[2];
  // conic -> covariance: dS = -C G C with G = [[ga, gb/2], [gb/2, gc]]
  const double ga = -0.5 * moments[3], gb = -0.5 * moments[4], gc = -0.5 * moments[5];  // gb: each off-diagonal entry
  const double p = ga * a + gb * b, q = ga * b + gb * c, r = gb * a + gc * b, s = gb * b + gc * c;
  const double sxx = -(a * p + b * r), sxy = -(a * q + b * s), syy = -(b * q + c * s);
  const bool isotropic = call.scale_columns == 1;
  Projection<double> o;
  const float* scale = in.scales + call.scale_columns * i;
  project_one(pose, in.means + 3 * i, scale, in.quaternions ? in.quaternions + 4 * i : nullptr, isotropic, o);
  double gm[6];
  if (isotropic) {
    double trace = 0;
    const double s2 = double(scale[0]) * scale[0];
    for (int k = 0; k < 3; ++k) {
      const double x = 2 * (sxx * o.m[k] + sxy * o.m[3 + k]), y = 2 * (sxy * o.m[k] + syy * o.m[3 + k]);
      trace += x * o.m[k] + y * o.m[3 + k];
      gm[k] = s2 * x, gm[3 + k] = s2 * y;
    }
    if (grad_scale) grad_scale[0] += static_cast<float>(scale[0] * trace);
  } else {
    double own[9] = {};  // gradient of the Gaussian's rotation matrix
    for (int k = 0; k < 6; ++k) gm[k] = 0;
    for (int k = 0; k < 3; ++k) {
      const double ax = o.axes[k], ay = o.axes[3 + k], s2 = double(scale[k]) * scale[k];
      const double x = 2 * (sxx * ax + sxy * ay), y = 2 * (sxy * ax + syy * ay);
      if (grad_scale) grad_scale[k] += static_cast<float>(scale[k] * (x * ax + y * ay));
      for (int j = 0; j < 3; ++j) {
        own[3 * j + k] = s2 * (o.m[j] * x + o.m[3 + j] * y);
        gm[j] += s2 * x * o.own[3 * j + k], gm[3 + j] += s2 * y * o.own[3 * j + k];
      }
    }
    if (grad_quaternion) {
      const double w = o.unit[0], x = o.unit[1], y = o.unit[2], z = o.unit[3];
      const double g[4] = {
          2 * (x * (own[7] - own[5]) + y * (own[2] - own[6]) + z * (own[3] - own[1])),
          2 * (y * (own[1] + own[3]) + z * (own[2] + own[6]) + w * (own[7] - own[5]) - 2 * x * (own[4] + own[8])),
          2 * (x * (own[1] + own[3]) + z * (own[5] + own[7]) + w * (own[2] - own[6]) - 2 * y * (own[0] + own[8])),
          2 * (x * (own[2] + own[6]) + y * (own[5] + own[7]) + w * (own[3] - own[1]) - 2 * z * (own[0] + own[4]))};
      const double radial = g[0] * w + g[1] * x + g[2] * y + g[3] * z;
      for (int k = 0; k < 4; ++k) grad_quaternion[k] += static_cast<float>((g[k] - radial * o.unit[k]) / o.norm);
    }
  }
  if (!grad_mean) return;
  const float* rot = pose.r;
  double jx = 0, jy = 0, jxz = 0, jyz = 0;  // gradients of the Jacobian's entries
  for (int k = 0; k < 3; ++k) {
    jx += gm[k] * rot[k], jxz += gm[k] * rot[6 + k];
    jy += gm[3 + k] * rot[3 + k], jyz += gm[3 + k] * rot[6 + k];
  }
  const double z = o.z, z2 = z * z, fx = pose.fx, fy = pose.fy, shape_fy = pose.shape_fy;
  double gx = gu * fx / z, gy = gv * fy / z;
  double gz = grad_depth - (gu * fx * o.x + gv * fy * o.y) / z2 - (jx * fx + jy * shape_fy) / z2;
  // J[0][2] = -fx tx / z^2. A limited tx is a constant under the symmetric rule (the original rasterizer) and
  // proportional to z under the other (gsplat).
  const auto lateral = [&](double g, double f, double t, bool clamped, double& out) {
    if (!clamped) out -= g * f / z2;
    gz += g * f * t / (z2 * z) * (clamped && call.settings.principal_clamp ? 1 : 2);
  };
  lateral(jxz, fx, o.tx, o.clamped_x, gx);
  lateral(jyz, shape_fy, o.ty, o.clamped_y, gy);
  for (int k = 0; k < 3; ++k) grad_mean[k] += static_cast<float>(rot[k] * gx + rot[3 + k] * gy + rot[6 + k] * gz);
}

template <typename F>
void for_each_bin(int threads, int64_t begin, int64_t end, F&& work) {
  std::atomic<int64_t> next{begin};
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch;
    for (int64_t bin; (bin = next.fetch_add(1)) < end;) work(bin, scratch);
  }
}

void forward_view(const OccCall& call, int64_t b, int64_t v) {
  const int64_t index = b * call.views + v, pixels = int64_t{call.width} * call.height;
  Clock clock(call.stages);
  Scene scene;
  prepare(call, inputs_of(call, b, v), pose_of(call, index), scene, clock);
  View view = view_of(call, scene);
  view.features = call.out_features + index * pixels * call.features;
  view.depth = call.out_depth + index * pixels, view.alpha = call.out_alpha + index * pixels;
  const int64_t bins = int64_t{scene.columns} * scene.rows;
  int32_t* needed = call.needed + index * bins;
  std::atomic<int64_t> weights{0};
  for_each_bin(call.threads, 0, bins, [&](int64_t bin, Scratch& scratch) {
    int64_t count = 0;
    needed[bin] = forward_bin(view, bin_at(call, scene, bin), scratch, &count);
    weights += count;
  });
  clock.lap(kBlend);
  clock.count(kWeights, static_cast<double>(weights));
}

void backward_view(const OccCall& call, int64_t b, int64_t v) {
  const int64_t index = b * call.views + v, pixels = int64_t{call.width} * call.height;
  const int threads = call.threads;
  Clock clock(call.stages);
  Scene scene;
  const Inputs in = inputs_of(call, b, v);
  const Pose pose = pose_of(call, index);
  prepare(call, in, pose, scene, clock);
  View view = view_of(call, scene);
  const bool geometry = call.grad_means || call.grad_scales || call.grad_quaternions;
  view.want_geometry = geometry, view.want_alpha = call.grad_opacities != nullptr;
  view.want_payload = call.grad_payload || call.grad_means;
  if (call.grad_features) view.grad_features = call.grad_features + index * pixels * call.features;
  if (call.grad_depth) view.grad_depth = call.grad_depth + index * pixels;
  if (call.grad_alpha) view.grad_alpha = call.grad_alpha + index * pixels;

  const int channels = view.channels, stride = slot_stride(channels), moments = padded(channels);
  const int64_t bins = int64_t{scene.columns} * scene.rows, visible = scene.visible, n = call.count, width = call.features;
  const int32_t* needed = call.needed + index * bins;
  for (int64_t bin = 0; bin < bins; ++bin)
    if (needed[bin] < 0 || needed[bin] > scene.starts[bin + 1] - scene.starts[bin]) throw Changed();
  const int64_t slices = std::max<int64_t>(call.times, 1), slice = call.times ? call.time_index[v] : 0;
  float* grad_payload = call.grad_payload ? call.grad_payload + b * n * width : nullptr;
  float* grad_opacities = call.grad_opacities ? call.grad_opacities + b * n : nullptr;
  float* grad_means = call.grad_means ? call.grad_means + (b * slices + slice) * n * 3 : nullptr;
  float* grad_scales = call.grad_scales ? call.grad_scales + b * n * call.scale_columns : nullptr;
  float* grad_quaternions = call.grad_quaternions ? call.grad_quaternions + b * n * 4 : nullptr;

  constexpr int kSums = 7;  // moments and the depth channel
  Buffer<double> sums(geometry ? visible * kSums : 0);
  if (geometry) std::fill_n(sums.data(), visible * kSums, 0.0);
  Buffer<float> slots;
  std::vector<int64_t> at(bins + 1);
  for (int64_t first = 0, end = 0; first < bins; first = end) {
    at[first] = 0;
    while (end < bins && (end == first || (at[end] + needed[end]) * stride * sizeof(float) <= kSlotBytes)) {
      at[end + 1] = at[end] + needed[end];
      ++end;
    }
    slots.reserve(at[end] * stride);
    big_pages(slots.data(), at[end] * stride * sizeof(float));
    for_each_bin(threads, first, end, [&](int64_t i, Scratch& scratch) {
      Bin bin = bin_at(call, scene, i);
      bin.length = needed[i];
      backward_bin(view, bin, scratch, slots.data() + at[i] * stride);
    });
    clock.lap(kBlend);
    // Each thread owns a stretch of ranks and adds the bins in order; a bin's list is sorted by rank.
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
      const uint32_t low = static_cast<uint32_t>(visible * t / threads), high = static_cast<uint32_t>(visible * (t + 1) / threads);
      for (int64_t i = first; i < end; ++i) {
        const uint32_t* list = scene.pairs.data() + scene.starts[i];
        const uint32_t* stop = std::lower_bound(list, list + needed[i], high);
        for (const uint32_t* rank = std::lower_bound(list, list + needed[i], low); rank < stop; ++rank) {
          const float* slot = slots.data() + (at[i] + (rank - list)) * stride;
          const int64_t id = scene.ids[*rank];
          if (grad_payload && stop - rank > kAhead) {
            const char* row = reinterpret_cast<const char*>(grad_payload + int64_t{scene.ids[rank[kAhead]]} * width);
            for (int64_t byte = 0; byte < 4 * width; byte += 64) __builtin_prefetch(row + byte, 1);
          }
          if (grad_payload)
            for (int64_t c = 0; c < width; ++c) grad_payload[id * width + c] += slot[c];
          if (grad_opacities) grad_opacities[id] += slot[moments] / in.opacities[id];
          if (geometry) {
            double* sum = sums.data() + *rank * kSums;
            for (int m = 0; m < 6; ++m) sum[m] += slot[moments + m];
            sum[6] += slot[channels - 1];
          }
        }
      }
    }
    clock.count(kNeeded, static_cast<double>(at[end]));
    clock.lap(kReduce);
  }
  if (geometry) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t k = 0; k < visible; ++k) {
      const int64_t id = scene.ids[k];
      const double* sum = sums.data() + k * kSums;
      project_backward(call, pose, in, id, scene.splats[k], sum, sum[6], grad_means ? grad_means + 3 * id : nullptr,
                       grad_scales ? grad_scales + call.scale_columns * id : nullptr,
                       grad_quaternions ? grad_quaternions + 4 * id : nullptr);
    }
    clock.lap(kReduce);
  }
}

template <typename F>
int32_t run(const OccCall& call, F&& view) {
  try {
    for (int64_t b = 0; b < call.batch; ++b)
      for (int64_t v = 0; v < call.views; ++v) view(call, b, v);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  } catch (const Changed&) {
    return 2;
  }
}

}  // namespace

extern "C" {

// Number of bins of an image.
__attribute__((visibility("default"))) int32_t occ_bins(int32_t width, int32_t height) {
  const int32_t edge = bin_edge(width, height);
  return ((width + edge - 1) / edge) * ((height + edge - 1) / edge);
}

// What this processor can run: 0 portable, 1 AVX2 + FMA (x86-64-v3), 2 AVX-512 (x86-64-v4).
__attribute__((visibility("default"))) int32_t occ_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return v4 ? 2 : v3 ? 1 : 0;
#else
  return 0;
#endif
}

// 0 on success, 1 if out of memory, 2 for a time index that does not exist.
__attribute__((visibility("default"))) int32_t occ_forward(const OccCall* call) {
  const size_t images = static_cast<size_t>(call->batch * call->views) * call->width * call->height * sizeof(float);
  big_pages(call->out_features, images * call->features);
  big_pages(call->out_depth, images);
  big_pages(call->out_alpha, images);
  return run(*call, forward_view);
}

// Adds to the grad_* arrays that are not null. 0 on success, 1 if out of memory, 2 if the inputs are not those of the forward
// pass that left `needed`.
__attribute__((visibility("default"))) int32_t occ_backward(const OccCall* call) { return run(*call, backward_view); }
}
