// The "cpu" renderer: a plain C interface over projection, depth sort, binning, blending and their gradients.
//
// Per view, forward: cull and project Gaussians -> radix sort by depth, stable -> counting sort into bins of pixels,
// in depth order -> blend bins, one thread a bin -> keep what some pixel depends on. Backward blends that again, storing each
// (bin, Gaussian) pair's gradients in a slot of its own; the slots are then added bin by bin. Nothing depends on the
// number of threads.
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include <omp.h>

#include "blend.h"
#include "scene.h"
#include "sort.h"

using namespace splat;

extern "C" {

// What a forward pass leaves of a view for the backward pass (see Kept).
struct OccState {
  void* block;  // freed by occ_free
  int64_t bytes;
};

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
  OccState* states;  // [batch, views]: written by the forward pass unless null, read by the backward pass
  const float *grad_features, *grad_depth, *grad_alpha;
  float *grad_means, *grad_scales, *grad_quaternions, *grad_opacities, *grad_payload;
  double* stages;  // null, or [9] in the order of Stage: seconds, then counts
};

void occ_free(void* block);
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

// The inputs are not those of the forward pass: a mean's depth or a time index is another.
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

inline float depth_of(const Pose& p, const float* mean) {
  return p.r[6] * mean[0] + p.r[7] * mean[1] + p.r[8] * mean[2] + p.t[2];
}

inline double root(double x) { return std::sqrt(x); }
inline double limited(double x, float low, float high) { return std::min<double>(std::max<double>(x, low), high); }
inline vf limited(vf x, float low, float high) { return vmin(vmax(x, splat1<vf>(low)), splat1<vf>(high)); }

// Rotation matrix of a quaternion (w, x, y, z) of any length; `norm` is that length.
template <typename Real>
void rotation(const Real* q, Real* m, Real unit[4], Real& norm) {
  norm = root(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  for (int i = 0; i < 4; ++i) unit[i] = q[i] / norm;
  const Real w = unit[0], x = unit[1], y = unit[2], z = unit[3];
  m[0] = 1.0f - 2.0f * (y * y + z * z), m[1] = 2.0f * (x * y - w * z), m[2] = 2.0f * (x * z + w * y);
  m[3] = 2.0f * (x * y + w * z), m[4] = 1.0f - 2.0f * (x * x + z * z), m[5] = 2.0f * (y * z - w * x);
  m[6] = 2.0f * (x * z - w * y), m[7] = 2.0f * (y * z + w * x), m[8] = 1.0f - 2.0f * (x * x + y * y);
}

// A Gaussian on its way to the screen. m = Jacobian x rotation to the camera [2, 3]; axes = m x own rotation [2, 3]
// (anisotropic only); covariance without the low-pass.
template <typename Real>
struct Projection {
  Real x, y, z, tx, ty;
  Real m[6], own[9], unit[4], norm, axes[6];
  Real sxx, sxy, syy;
};

// Real: a vector of Gaussians in single precision, or one in double.
template <typename Real>
inline void project_one(const Pose& p, const Real mean[3], const Real scale[3], const Real quaternion[4], bool isotropic,
                        Projection<Real>& o) {
  const float* r = p.r;
  o.x = r[0] * mean[0] + r[1] * mean[1] + r[2] * mean[2] + p.t[0];
  o.y = r[3] * mean[0] + r[4] * mean[1] + r[5] * mean[2] + p.t[1];
  o.z = r[6] * mean[0] + r[7] * mean[1] + r[8] * mean[2] + p.t[2];
  o.tx = o.z * limited(o.x / o.z, p.low_x, p.high_x);
  o.ty = o.z * limited(o.y / o.z, p.low_y, p.high_y);
  const Real jx = p.fx / o.z, jy = p.shape_fy / o.z, jxz = -jx * o.tx / o.z, jyz = -jy * o.ty / o.z;
  for (int k = 0; k < 3; ++k) o.m[k] = jx * r[k] + jxz * r[6 + k], o.m[3 + k] = jy * r[3 + k] + jyz * r[6 + k];
  const Real* rows = o.m;
  if (!isotropic) {
    rotation(quaternion, o.own, o.unit, o.norm);
    for (int i = 0; i < 2; ++i)
      for (int k = 0; k < 3; ++k)
        o.axes[3 * i + k] = o.m[3 * i] * o.own[k] + o.m[3 * i + 1] * o.own[3 + k] + o.m[3 * i + 2] * o.own[6 + k];
    rows = o.axes;
  }
  o.sxx = o.sxy = o.syy = Real{};
  for (int k = 0; k < 3; ++k) {
    const Real a = rows[k] * scale[isotropic ? 0 : k], b = rows[3 + k] * scale[isotropic ? 0 : k];
    o.sxx += a * a, o.sxy += a * b, o.syy += b * b;
  }
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

constexpr int kBlock = 256;  // Gaussians that are looked at together

// Who cannot touch the image whatever its shape, by its centre (x, y, z) before the camera and its largest standard deviation s:
// those with |distance beyond a border| > near_x s + far_x z, in pixels times z. A Gaussian reaches R sqrt(sxx) + 1 pixels from its
// centre, where sxx <= (fx s / z)^2 (1 + limit^2) + low_pass and R is that of an opaque one; a percent and two pixels more keep
// rounding, poses that are rigid to a thousandth included, out of it.
struct Border {
  float near_x, near_y, far;
};

Border border_of(const OccCall& call, const Pose& p) {
  const Settings& set = call.settings;
  const float reach = 1.01f * std::sqrt(2 * std::log(1.00001f / set.alpha_min));
  const auto spread = [](float low, float high) { return std::sqrt(1 + std::max(low * low, high * high)); };
  return {reach * p.fx * spread(p.low_x, p.high_x), reach * p.shape_fy * spread(p.low_y, p.high_y), reach * std::sqrt(set.low_pass) + 3};
}

// Appends to `chosen` those of the Gaussians [first, first + count) that may touch the image; returns how many it holds then.
int choose(const OccCall& call, const Pose& p, const Border& border, const Inputs& in, int64_t first, int count, uint32_t* chosen,
           int n) {
  const Settings& set = call.settings;
  const uint8_t* visible = in.visible ? in.visible + first : nullptr;
  if (visible) {
    int some = 0;
    for (int i = 0; i < count; ++i) some |= visible[i];
    if (!some) return n;
  }
  const float* mean = in.means + 3 * first;
  const float* opacity = in.opacities + first;
  const float* scale = in.scales + call.scale_columns * first;
  float size[kBlock];
  if (call.scale_columns == 1)
    std::copy_n(scale, count, size);
  else
    for (int i = 0; i < count; ++i) size[i] = std::max(std::max(scale[3 * i], scale[3 * i + 1]), scale[3 * i + 2]);
  const float right = p.cx - call.width, below = p.cy - call.height;
  int32_t seen[kBlock];
  for (int i = 0; i < count; ++i) {
    const float* m = mean + 3 * i;
    const float x = p.fx * (p.r[0] * m[0] + p.r[1] * m[1] + p.r[2] * m[2] + p.t[0]);
    const float y = p.fy * (p.r[3] * m[0] + p.r[4] * m[1] + p.r[5] * m[2] + p.t[1]);
    const float z = p.r[6] * m[0] + p.r[7] * m[1] + p.r[8] * m[2] + p.t[2];  // as `depth_of`
    const float reach_x = border.near_x * size[i] + border.far * z, reach_y = border.near_y * size[i] + border.far * z;
    const bool beyond = (x + right * z > reach_x) | (-(x + p.cx * z) > reach_x) | (y + below * z > reach_y) | (-(y + p.cy * z) > reach_y);
    seen[i] = (z > set.near) & !(z > set.far) & !(opacity[i] < set.alpha_min) & !beyond;
  }
  for (int i = 0; i < count; ++i) {
    chosen[n] = static_cast<uint32_t>(first + i);
    n += seen[i] & (visible ? visible[i] != 0 : 1);
  }
  return n;
}

// Projects the Gaussians chosen[0, count), a vector at most, and writes those that can touch the image to `scene` from `at` on;
// returns where it stopped.
int64_t project_lanes(const OccCall& call, const Pose& pose, const Inputs& in, const uint32_t* chosen, int count, Scene& scene, int64_t at) {
  const Settings& set = call.settings;
  const bool isotropic = call.scale_columns == 1;
  vf mean[3], scale[3], quaternion[4];
  float opacity[kLanes], reach[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t i = chosen[std::min(lane, count - 1)];
    for (int k = 0; k < 3; ++k) mean[k][lane] = in.means[3 * i + k];
    for (int k = 0; k < call.scale_columns; ++k) scale[k][lane] = in.scales[call.scale_columns * i + k];
    for (int k = 0; k < 4 && !isotropic; ++k) quaternion[k][lane] = in.quaternions[4 * i + k];
    opacity[lane] = in.opacities[i];
    reach[lane] = 2 * std::max(0.0f, std::log(opacity[lane] / set.alpha_min));
  }
  Projection<vf> p;
  project_one(pose, mean, scale, quaternion, isotropic, p);
  const vf sxx = p.sxx + set.low_pass, syy = p.syy + set.low_pass, sxy = p.sxy;
  const vf det = sxx * syy - sxy * sxy;
  const vf u = pose.fx * p.x / p.z + pose.cx, v = pose.fy * p.y / p.z + pose.cy;
  // A pixel more on each side: rounding must not decide, alpha does.
  const vf half_x = root(load<vf>(reach) * sxx) + 1.0f, half_y = root(load<vf>(reach) * syy) + 1.0f;
  const vf left_of = u - half_x, right_of = u + half_x, top_of = v - half_y, bottom_of = v + half_y;
  const vf a = syy / det, b = -sxy / det, c = sxx / det;
  const float width = static_cast<float>(call.width), height = static_cast<float>(call.height);
  for (int lane = 0; lane < count; ++lane) {
    if (!(det[lane] > 0)) continue;
    float left = std::floor(left_of[lane]), right = std::ceil(right_of[lane]);
    float top = std::floor(top_of[lane]), bottom = std::ceil(bottom_of[lane]);
    Rect rect;
    if (set.tile3sigma) {
      const float middle = 0.5f * (sxx[lane] + syy[lane]);
      const float largest = middle + std::sqrt(std::max(0.1f, middle * middle - det[lane]));
      const float radius = std::ceil(3 * std::sqrt(largest)), tile = static_cast<float>(set.tile_size);
      const auto edge = [&](float at, float limit) {
        return std::min(std::min(std::max(std::trunc(at / tile), 0.0f), std::ceil(limit / tile)) * tile, limit);
      };
      rect.x0 = static_cast<int32_t>(edge(u[lane] - 0.5f - radius, width));
      rect.x1 = static_cast<int32_t>(edge(u[lane] - 0.5f + radius + tile - 1, width));
      rect.y0 = static_cast<int32_t>(edge(v[lane] - 0.5f - radius, height));
      rect.y1 = static_cast<int32_t>(edge(v[lane] - 0.5f + radius + tile - 1, height));
      left = std::max(left, static_cast<float>(rect.x0)), right = std::min(right, static_cast<float>(rect.x1));
      top = std::max(top, static_cast<float>(rect.y0)), bottom = std::min(bottom, static_cast<float>(rect.y1));
    }
    left = std::max(left, 0.0f), top = std::max(top, 0.0f), right = std::min(right, width), bottom = std::min(bottom, height);
    if (!(left < right) || !(top < bottom)) continue;
    if (set.tile3sigma)
      scene.rects[at] = rect;
    else
      rect = {static_cast<int32_t>(left), static_cast<int32_t>(top), static_cast<int32_t>(right), static_cast<int32_t>(bottom)};
    scene.splats[at] = {u[lane], v[lane], a[lane], b[lane], c[lane], std::log2(opacity[lane]), reach[lane], p.z[lane]};
    const Grid grid(call.width, call.height);
    const auto bin_of = [&](int32_t pixel, bool up) { return static_cast<uint16_t>((pixel + (up ? grid.edge - 1 : 0)) / grid.edge); };
    scene.ranges[at] = {bin_of(rect.x0, false), bin_of(rect.y0, false), bin_of(rect.x1, true), bin_of(rect.y1, true)};
    scene.ids[at++] = chosen[lane];
  }
  return at;
}

void prepare(const OccCall& call, const Inputs& in, const Pose& pose, Scene& scene, Clock& clock) {
  const int64_t n = call.count;
  const int threads = call.threads;
  const Grid grid(call.width, call.height);
  const int64_t bins = grid.bins();

  // project: each thread fills its own stretch
  scene.splats.renew(n), scene.ids.renew(n), scene.ranges.renew(n), scene.touched.renew(n), scene.compact.renew(n);
  if (call.settings.tile3sigma) scene.rects.renew(n);
  std::vector<int64_t> found(threads + 1, 0);
  std::vector<int64_t> begin(threads + 1);
  for (int t = 0; t <= threads; ++t) begin[t] = n * t / threads;
  const Border border = border_of(call, pose);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    int64_t at = begin[t];
    uint32_t chosen[kBlock + kLanes];
    int count = 0;
    for (int64_t i = begin[t]; i < begin[t + 1]; i += kBlock) {
      count = choose(call, pose, border, in, i, static_cast<int>(std::min<int64_t>(kBlock, begin[t + 1] - i)), chosen, count);
      int done = 0;
      for (; count - done >= kLanes; done += kLanes) at = project_lanes(call, pose, in, chosen + done, kLanes, scene, at);
      count -= done;
      std::copy_n(chosen + done, count, chosen);
    }
    if (count) at = project_lanes(call, pose, in, chosen, count, scene, at);
    found[t + 1] = at - begin[t];
  }
  for (int t = 0; t < threads; ++t) found[t + 1] += found[t];
  const int64_t visible = scene.visible = found[threads];
  clock.lap(kProject);

  // sort by the bits of the depth, which is positive
  for (Buffer<uint32_t>* buffer : {&scene.keys, &scene.places, &scene.other_keys, &scene.other_places}) buffer->renew(visible);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t)
    for (int64_t k = found[t]; k < found[t + 1]; ++k) {
      const int64_t at = begin[t] + (k - found[t]);
      std::memcpy(&scene.keys[k], &scene.splats[at].z, 4);
      scene.places[k] = static_cast<uint32_t>(at), scene.touched[at] = 0;
    }
  scene.order = radix_sort(scene.keys.data(), scene.places.data(), scene.other_keys.data(), scene.other_places.data(), visible, threads);
  clock.lap(kSort);

  // counting sort into bins, stable in depth: each thread owns a stretch of ranks
  std::vector<int64_t> cursor(threads * bins, 0);
  scene.sorted_ranges.renew(visible);
  const auto each_bin = [&](const BinRange& r, auto&& f) {
    for (int64_t y = r.y0; y < r.y1; ++y)
      for (int64_t x = r.x0; x < r.x1; ++x) f(y * grid.columns + x);
  };
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    int64_t* count = cursor.data() + t * bins;
    const int64_t end = visible * (t + 1) / threads;
    for (int64_t k = visible * t / threads; k < end; ++k) {
      if (k + kAhead < end) __builtin_prefetch(&scene.ranges[scene.order[k + kAhead]]);
      each_bin(scene.sorted_ranges[k] = scene.ranges[scene.order[k]], [&](int64_t bin) { ++count[bin]; });
    }
  }
  scene.starts.renew(bins + 1);
  int64_t total = 0;
  for (int64_t bin = 0; bin < bins; ++bin) {
    scene.starts[bin] = total;
    for (int t = 0; t < threads; ++t) {
      const int64_t c = cursor[t * bins + bin];
      cursor[t * bins + bin] = total, total += c;
    }
  }
  scene.starts[bins] = total;
  scene.pairs.renew(total);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    int64_t* at = cursor.data() + t * bins;
    for (int64_t k = visible * t / threads; k < visible * (t + 1) / threads; ++k)
      each_bin(scene.sorted_ranges[k], [&](int64_t bin) { scene.pairs[at[bin]++] = scene.order[k]; });
  }
  clock.lap(kBin);
  clock.count(kSplats, static_cast<double>(visible));
  clock.count(kPairs, static_cast<double>(total));
}

View view_of(const OccCall& call, const Inputs& in) {
  View view{};
  view.width = call.width, view.height = call.height, view.channels = static_cast<int32_t>(call.features) + 1;
  view.settings = call.settings;
  view.payload = in.payload, view.background = call.background;
  return view;
}

Bin bin_at(const View& view, const Grid& grid, const uint32_t* pairs, const int64_t* starts, int64_t index) {
  const int32_t x = static_cast<int32_t>(index % grid.columns) * grid.edge, y = static_cast<int32_t>(index / grid.columns) * grid.edge;
  return {pairs + starts[index], static_cast<int32_t>(starts[index + 1] - starts[index]), x, y, std::min(x + grid.edge, view.width),
          std::min(y + grid.edge, view.height)};
}

// Gradients of one Gaussian, from those of what `project_lanes` made of it: moments of h about the centre (see
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
  const double mean[3] = {in.means[3 * i], in.means[3 * i + 1], in.means[3 * i + 2]};
  double scale[3] = {}, quaternion[4] = {};
  std::copy_n(in.scales + call.scale_columns * i, call.scale_columns, scale);
  if (!isotropic) std::copy_n(in.quaternions + 4 * i, 4, quaternion);
  project_one(pose, mean, scale, quaternion, isotropic, o);
  const double across = o.x / o.z, down = o.y / o.z;
  double gm[6];
  if (isotropic) {
    double trace = 0;
    const double s2 = scale[0] * scale[0];
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
      const double ax = o.axes[k], ay = o.axes[3 + k], s2 = scale[k] * scale[k];
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
  lateral(jxz, fx, o.tx, across < pose.low_x || across > pose.high_x, gx);
  lateral(jyz, shape_fy, o.ty, down < pose.low_y || down > pose.high_y, gy);
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

void forward_view(const OccCall& call, int64_t b, int64_t v, Scene& scene) {
  const int64_t index = b * call.views + v, pixels = int64_t{call.width} * call.height;
  const Grid grid(call.width, call.height);
  Clock clock(call.stages);
  const Inputs in = inputs_of(call, b, v);
  prepare(call, in, pose_of(call, index), scene, clock);
  View view = view_of(call, in);
  view.splats = scene.splats.data(), view.rects = scene.rects.data(), view.ids = scene.ids.data();
  view.features = call.out_features + index * pixels * call.features;
  view.depth = call.out_depth + index * pixels, view.alpha = call.out_alpha + index * pixels;
  scene.needed.assign(grid.bins(), 0);
  std::atomic<int64_t> weights{0};
  for_each_bin(call.threads, 0, grid.bins(), [&](int64_t i, Scratch& scratch) {
    const Bin bin = bin_at(view, grid, scene.pairs.data(), scene.starts.data(), i);
    int64_t count = 0;
    forward_bin(view, bin, scratch, &count);
    weights += count;
    if (!call.states) return;
    uint32_t* list = scene.pairs.data() + scene.starts[i];
    int32_t needed = 0;
    for (int32_t at = 0; at < std::min(scratch.loaded, bin.length); ++at) {
      if (!scratch.touched[at]) continue;
      __atomic_store_n(&scene.touched[list[at]], 1, __ATOMIC_RELAXED);
      list[needed++] = list[at];
    }
    scene.needed[i] = needed;
  });
  if (call.states) {
    const auto [block, bytes] = keep(scene, grid.bins(), call.settings.tile3sigma, call.threads);
    call.states[index] = {block, bytes};
  }
  clock.lap(kBlend);
  clock.count(kWeights, static_cast<double>(weights));
}

void backward_view(const OccCall& call, int64_t b, int64_t v, Buffer<float>& slots) {
  const int64_t index = b * call.views + v, pixels = int64_t{call.width} * call.height;
  const int threads = call.threads;
  const Grid grid(call.width, call.height);
  Clock clock(call.stages);
  const Inputs in = inputs_of(call, b, v);
  const Pose pose = pose_of(call, index);
  const Kept kept(call.states[index].block, grid.bins(), call.settings.tile3sigma);
  View view = view_of(call, in);
  view.splats = kept.splats, view.rects = kept.rects, view.ids = kept.ids;
  const bool geometry = call.grad_means || call.grad_scales || call.grad_quaternions;
  view.want_geometry = geometry, view.want_alpha = call.grad_opacities != nullptr;
  view.want_payload = call.grad_payload || call.grad_means;
  if (call.grad_features) view.grad_features = call.grad_features + index * pixels * call.features;
  if (call.grad_depth) view.grad_depth = call.grad_depth + index * pixels;
  if (call.grad_alpha) view.grad_alpha = call.grad_alpha + index * pixels;

  const int channels = view.channels, stride = slot_stride(channels), moments = padded(channels);
  const int64_t bins = grid.bins(), count = kept.count, n = call.count, width = call.features;
  const int64_t slices = std::max<int64_t>(call.times, 1), slice = call.times ? call.time_index[v] : 0;
  float* grad_payload = call.grad_payload ? call.grad_payload + b * n * width : nullptr;
  float* grad_opacities = call.grad_opacities ? call.grad_opacities + b * n : nullptr;
  float* grad_means = call.grad_means ? call.grad_means + (b * slices + slice) * n * 3 : nullptr;
  float* grad_scales = call.grad_scales ? call.grad_scales + b * n * call.scale_columns : nullptr;
  float* grad_quaternions = call.grad_quaternions ? call.grad_quaternions + b * n * 4 : nullptr;

  constexpr int kSums = 7;  // moments and the depth channel
  Buffer<double> sums(geometry ? count * kSums : 0);
  if (geometry) std::fill_n(sums.data(), count * kSums, 0.0);
  for (int64_t first = 0, end = 0; first < bins; first = end) {
    const int64_t base = kept.starts[first];
    while (end < bins && (end == first || (kept.starts[end + 1] - base) * stride * sizeof(float) <= kSlotBytes)) ++end;
    const int64_t number = kept.starts[end] - base;
    slots.renew(number * stride);
    for_each_bin(threads, first, end, [&](int64_t i, Scratch& scratch) {
      backward_bin(view, bin_at(view, grid, kept.pairs, kept.starts, i), scratch, slots.data() + (kept.starts[i] - base) * stride);
    });
    clock.lap(kBlend);
    // Each thread owns a stretch of ranks and adds the bins in order; a bin's list is sorted by rank.
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
      const uint32_t low = static_cast<uint32_t>(count * t / threads), high = static_cast<uint32_t>(count * (t + 1) / threads);
      for (int64_t i = first; i < end; ++i) {
        const uint32_t *list = kept.pairs + kept.starts[i], *last = kept.pairs + kept.starts[i + 1];
        const uint32_t* stop = std::lower_bound(list, last, high);
        for (const uint32_t* rank = std::lower_bound(list, last, low); rank < stop; ++rank) {
          const float* slot = slots.data() + (rank - kept.pairs - base) * stride;
          const int64_t id = kept.ids[*rank];
          if (grad_payload && stop - rank > kAhead) {
            const char* row = reinterpret_cast<const char*>(grad_payload + int64_t{kept.ids[rank[kAhead]]} * width);
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
    clock.count(kNeeded, static_cast<double>(number));
    clock.lap(kReduce);
  }
  if (geometry) {
    std::atomic<bool> changed{false};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t k = 0; k < count; ++k) {
      const int64_t id = kept.ids[k];
      const double* sum = sums.data() + k * kSums;
      if (depth_of(pose, in.means + 3 * id) != kept.splats[k].z) changed = true;
      project_backward(call, pose, in, id, kept.splats[k], sum, sum[6], grad_means ? grad_means + 3 * id : nullptr,
                       grad_scales ? grad_scales + call.scale_columns * id : nullptr,
                       grad_quaternions ? grad_quaternions + 4 * id : nullptr);
    }
    if (changed) throw Changed();
    clock.lap(kReduce);
  }
}

// Calls `view` for each view, with buffers that they use one after the other.
template <typename Buffers, typename F>
int32_t run(const OccCall& call, F&& view) {
  try {
    Buffers buffers;
    for (int64_t b = 0; b < call.batch; ++b)
      for (int64_t v = 0; v < call.views; ++v) view(call, b, v, buffers);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  } catch (const Changed&) {
    return 2;
  }
}

}  // namespace

extern "C" {

// Frees what a forward pass left.
__attribute__((visibility("default"))) void occ_free(void* block) { std::free(block); }

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

// 0 on success, 1 if out of memory, 2 for a time index that does not exist; then no states are left.
__attribute__((visibility("default"))) int32_t occ_forward(const OccCall* call) {
  const int64_t images = call->batch * call->views;
  const size_t bytes = static_cast<size_t>(images) * call->width * call->height * sizeof(float);
  big_pages(call->out_features, bytes * call->features);
  big_pages(call->out_depth, bytes);
  big_pages(call->out_alpha, bytes);
  if (call->states) std::fill_n(call->states, images, OccState{nullptr, 0});
  const int32_t status = run<Scene>(*call, forward_view);
  for (int64_t i = 0; status && call->states && i < images; ++i) std::free(call->states[i].block);
  return status;
}

// Adds to the grad_* arrays that are not null. 0 on success, 1 if out of memory, 2 if the inputs are not those of the forward
// pass that left `states`.
__attribute__((visibility("default"))) int32_t occ_backward(const OccCall* call) { return run<Buffer<float>>(*call, backward_view); }
}
