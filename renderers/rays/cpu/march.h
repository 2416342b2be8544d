// One ray through one grid: its samples, the cells they lie in, alpha, transmittance and weights.
//
// Geometry and everything along the ray is in double precision (without fused multiply-adds, so the bits are the same for every
// instruction set); what is summed up over channels is float.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../../cpu/simd.h"

namespace rays {

enum Contraction { kNone, kSphere, kAxes };
enum Skip { kKeepAll, kAccumulated, kPerAxis };
enum Activation { kShiftedSoftplus, kExponential, kProbability };
enum Depth { kAlong, kContracted, kZ };

// Mirrored by renderers/rays/cpu/native.py, like RayCall in op.cpp; see renderers/rays/interface.py and samplers.py.
struct RaySettings {
  double centre[3], half[3], radius, shell, tau;  // of the contraction
  double factor[3], term[3];                      // contracted position -> voxel index
  double skip[3];                                 // distance, or one an axis
  double shift, interval, last, least_passed;
  double alpha_min, weight_min, transmittance_min;
  int32_t contraction, skip_rule, activation, closed, unit_directions, depth;
};

typedef double d4 __attribute__((vector_size(32)));
typedef int64_t i4 __attribute__((vector_size(32)));

inline d4 all(double x) { return x - d4{}; }
inline d4 select(i4 m, d4 a, d4 b) { return (d4)(((i4)a & m) | ((i4)b & ~m)); }
inline d4 at_most(d4 a, double b) { return select(a < all(b), a, all(b)); }

constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves a whole number in the low bits

// e^x for |x| <= 700 (larger ones as that), relative error below 1e-15: a Taylor series of degree 12 for |r| <= log(2) / 2.
inline d4 exp4(d4 x) {
  x = at_most(x, 700.0);
  x = select(x > all(-700.0), x, all(-700.0));
  const d4 shifted = x * 1.4426950408889634 + kMagic, n = shifted - kMagic;
  const d4 r = (x - n * 0.693145751953125) - n * 1.42860682030941723212e-6;
  d4 p = all(1.0 / 479001600);
  for (const double c : {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6,
                         0.5, 1.0, 1.0})
    p = p * r + c;
  return p * (d4)(((i4)shifted << 52) + (int64_t{1023} << 52));
}

// log(y) for 1 <= y < 2^1000, absolute error below 1e-15 times its size or so: atanh's series for the mantissa.
inline d4 log4(d4 y) {
  const i4 bits = (i4)y;
  d4 e = (d4)((i4)((uint64_t __attribute__((vector_size(32))))bits >> 52) + (int64_t)0x4330000000000000) - 4503599627370496.0 - 1023.0;
  d4 m = (d4)((bits & 0xfffffffffffff) | 0x3ff0000000000000);
  const i4 large = m > all(1.4142135623730951);
  m = select(large, m * 0.5, m), e = select(large, e + 1.0, e);
  const d4 f = (m - 1.0) / (m + 1.0), s = f * f;
  d4 p = all(1.0 / 19);
  for (const double c : {1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3, 1.0}) p = p * s + c;
  return e * 0.6931471805599453 + 2.0 * f * p;
}

// Both sides of one axis of a cell: the lower voxel's index, and the weights of it and of the next one. Voxels outside of the
// grid have the weight 0.
struct Side {
  int32_t at;
  double low, high;
};

inline Side side_of(double index, int64_t size) {
  const double floor = std::floor(index);
  const double part = index - floor;
  int64_t at = static_cast<int64_t>(floor);
  if (at < 0) return {0, part, 0.0};                                                 // only the voxel 0 is there, above
  if (at > size - 2) return size > 1 ? Side{static_cast<int32_t>(size - 2), 0.0, 1.0 - part} : Side{0, 1.0 - part, 0.0};
  return {static_cast<int32_t>(at), 1.0 - part, part};
}

// Eight voxels in a row of samples: x, y, z of the lowest, and the place of each of four (x, y) pairs' lower voxel.
struct Cell {
  int32_t x, y, z;
  int64_t row[4];
};

struct Grid {
  int64_t size[3], channels;
  const float *density, *features;  // of the scene
  int64_t step[3];                  // to the next voxel; 0 where there is none
};

constexpr int kBlock = 64;  // samples placed at once: a ray that stops leaves the rest alone

struct Ray {
  double origin[3], direction[3], offset, cosine, length;
};

// The samples of a ray that were kept, in order, up to the stop.
class March {
 public:
  March(const RaySettings& settings, const double* distances, int64_t samples, bool jitter)
      : set_(settings), distances_(distances, distances + samples), total_(samples), jitter_(jitter) {
    const int64_t room = (samples / kBlock + 1) * kBlock + 8;
    distances_.resize(room, distances[samples - 1]);  // blocks are placed whole
    for (auto* v : {&alpha, &passed, &slope, &before, &weight, &depth, &spacing, &value, &grad_alpha, &grad_weight}) v->resize(room);
    cell.resize(room), cells.reserve(room), coefficients.resize(8 * room);
    counted.resize(room), free.resize(room);
  }

  int64_t count = 0;                 // samples
  std::vector<Cell> cells;
  std::vector<int32_t> cell;         // [count] the cell of each sample, -1 outside of the grid
  std::vector<float> coefficients;   // [count, 8] weights of the cell's voxels: x slowest, z fastest
  std::vector<double> alpha, passed, slope;  // slope: d alpha / d density
  std::vector<double> before, weight;        // transmittance in front, weight (0 if not counted)
  std::vector<double> depth, spacing;
  std::vector<double> value, grad_alpha, grad_weight;  // value: density, then whatever the backward pass needs
  std::vector<uint8_t> counted;      // in the sums
  std::vector<uint8_t> free;         // its part that is let through follows alpha (not cut to least_passed, not beyond 1)
  double transmittance = 1;          // behind the last sample

  void run(const Ray& ray, const Grid& grid, bool want_slope) {
    count = 0, cells.clear(), transmittance = 1, reached_ = 0;
    way_ = 0, first_ = true;
    if (set_.skip_rule == kPerAxis) {
      double p[3] = {ray.origin[0], ray.origin[1], ray.origin[2]};
      bool inside;
      contract_one(p, inside);
      for (int k = 0; k < 3; ++k) previous_[k] = p[k];
    }
    for (int64_t s = 0; s < total_; s += kBlock) {
      const int n = static_cast<int>(std::min<int64_t>(kBlock, total_ - s));
      const int64_t begin = count;
      place(ray, s);
      skip(n);
      collect(ray, grid, s, n);
      activate(begin, want_slope);
      if (!scan(begin)) break;
    }
  }

 private:
  double at(const Ray& ray, int64_t s) const {
    const double t = distances_[s];
    return jitter_ ? std::max(t + ray.offset, 0.0) : t;
  }

  void contract_one(double p[3], bool& inside) const {
    inside = true;
    if (set_.contraction == kSphere) {
      const double x = p[0] - set_.centre[0], y = p[1] - set_.centre[1], z = p[2] - set_.centre[2];
      const double q = std::sqrt(x * x + y * y + z * z);
      if (q <= set_.radius) return;
      inside = false;
      const double scale = (set_.radius + set_.shell - set_.shell * set_.radius / q) / q;
      p[0] = set_.centre[0] + x * scale, p[1] = set_.centre[1] + y * scale, p[2] = set_.centre[2] + z * scale;
    } else if (set_.contraction == kAxes) {
      for (int k = 0; k < 3; ++k) {
        const double u = (p[k] - set_.centre[k]) / set_.half[k], a = std::fabs(u);
        if (a <= 1) continue;
        inside = false;
        const double shell = 1 + (1 - 1 / (set_.tau * (a - 1) + 1)) / set_.tau;
        p[k] = set_.centre[k] + set_.half[k] * std::copysign(shell, u);
      }
    }
  }

  // Contracted positions of the block of samples from s on, and which lie in the inner region.
  void place(const Ray& ray, int64_t s) {
    double* const t = t_;
    const double* distance = distances_.data() + s;
    for (int i = 0; i < kBlock; ++i) t[i] = distance[i];
    if (jitter_)
      for (int i = 0; i < kBlock; ++i) t[i] = std::max(t[i] + ray.offset, 0.0);
    const double ox = ray.origin[0], oy = ray.origin[1], oz = ray.origin[2];
    const double dx = ray.direction[0], dy = ray.direction[1], dz = ray.direction[2];
    for (int i = 0; i < kBlock; ++i) x_[i] = ox + t[i] * dx, y_[i] = oy + t[i] * dy, z_[i] = oz + t[i] * dz;
    all_inside_ = true;
    if (set_.contraction == kSphere) {
      double q[kBlock], most = 0;
      const double cx = set_.centre[0], cy = set_.centre[1], cz = set_.centre[2], r = set_.radius, wide = r + set_.shell,
                   bend = set_.shell * r;
      for (int i = 0; i < kBlock; ++i) {
        const double a = x_[i] - cx, b = y_[i] - cy, c = z_[i] - cz;
        q[i] = std::sqrt(a * a + b * b + c * c);
      }
      for (int i = 0; i < kBlock; ++i) most = q[i] > most ? q[i] : most;
      all_inside_ = most <= r;
      if (!all_inside_) {
        for (int i = 0; i < kBlock; ++i) {
          const double part = 1 / q[i], scale = (wide - bend * part) * part;
          const bool far = q[i] > r;
          x_[i] = far ? cx + (x_[i] - cx) * scale : x_[i];
          y_[i] = far ? cy + (y_[i] - cy) * scale : y_[i];
          z_[i] = far ? cz + (z_[i] - cz) * scale : z_[i];
        }
        for (int i = 0; i < kBlock; ++i) inside_[i] = q[i] <= r;
      }
    } else if (set_.contraction == kAxes) {
      all_inside_ = false;
      for (int i = 0; i < kBlock; ++i) {
        double p[3] = {x_[i], y_[i], z_[i]};
        bool inside;
        contract_one(p, inside);
        x_[i] = p[0], y_[i] = p[1], z_[i] = p[2], inside_[i] = inside;
      }
    }
    if (all_inside_)
      for (int i = 0; i < kBlock; ++i) inside_[i] = 1;
  }

  // Which of the first n samples of the block are kept.
  void skip(int n) {
    if (set_.skip_rule == kKeepAll) {
      for (int i = 0; i < kBlock; ++i) kept_[i] = 1;
      return;
    }
    double dx[kBlock], dy[kBlock], dz[kBlock], gap[kBlock];
    dx[0] = x_[0] - previous_[0], dy[0] = y_[0] - previous_[1], dz[0] = z_[0] - previous_[2];
    for (int i = 1; i < kBlock; ++i) dx[i] = x_[i] - x_[i - 1], dy[i] = y_[i] - y_[i - 1], dz[i] = z_[i] - z_[i - 1];
    previous_[0] = x_[n - 1], previous_[1] = y_[n - 1], previous_[2] = z_[n - 1];
    if (set_.skip_rule == kPerAxis) {
      for (int i = 0; i < kBlock; ++i)
        kept_[i] = (std::fabs(dx[i]) > set_.skip[0]) | (std::fabs(dy[i]) > set_.skip[1]) | (std::fabs(dz[i]) > set_.skip[2]);
      return;
    }
    for (int i = 0; i < kBlock; ++i) gap[i] = std::sqrt(dx[i] * dx[i] + dy[i] * dy[i] + dz[i] * dz[i]);
    const int begin = first_ ? 1 : 0;  // no gap leads to the first sample
    if (first_) kept_[0] = inside_[0];
    first_ = false;
    double least = HUGE_VAL, way = way_;
    for (int i = begin; i < n; ++i) least = gap[i] < least ? gap[i] : least;
    if (least > set_.skip[0]) {  // every one of them is far enough: as in the inner region of the published settings
      for (int i = begin; i < kBlock; ++i) kept_[i] = 1;
      way_ = n > begin ? 0.0 : way;
      return;
    }
    for (int i = begin; i < n; ++i) {
      way += gap[i];
      const bool over = way > set_.skip[0];
      kept_[i] = inside_[i] | over;
      way = over ? 0.0 : way;
    }
    way_ = way;
  }

  // Kept samples become entries: depth, spacing, cell, coefficients, density.
  void collect(const Ray& ray, const Grid& grid, int64_t s, int n) {
    const int64_t begin = count;
    const double fx = set_.factor[0], fy = set_.factor[1], fz = set_.factor[2], tx = set_.term[0], ty = set_.term[1],
                 tz = set_.term[2];
    for (int i = 0; i < kBlock; ++i) x_[i] = x_[i] * fx + tx, y_[i] = y_[i] * fy + ty, z_[i] = z_[i] * fz + tz;
    for (int i = 0; i < n; ++i) {
      const bool closes = set_.activation == kProbability && set_.closed && s + i == total_ - 1 && !kept_[i];
      if (!kept_[i] && !closes) continue;
      const double t = t_[i];
      const int64_t j = count++;
      depth[j] = set_.depth == kContracted ? set_.radius * t / (set_.radius + t) : set_.depth == kZ ? t * ray.cosine : t;
      if (s + i + 1 < total_)
        spacing[j] = (at(ray, s + i + 1) - t) * ray.length;
      else
        spacing[j] = set_.activation == kExponential ? set_.last : total_ > 1 ? (t - at(ray, s + i - 1)) * ray.length : 0.0;
      cell[j] = -1;
      value[j] = closes ? HUGE_VAL : 0.0;
      if (closes) continue;
      const double ix = x_[i], iy = y_[i], iz = z_[i];
      if (!(ix > -1 && iy > -1 && iz > -1 && ix < grid.size[0] && iy < grid.size[1] && iz < grid.size[2])) continue;
      const Side a = side_of(ix, grid.size[0]), b = side_of(iy, grid.size[1]), c = side_of(iz, grid.size[2]);
      if (cells.empty() || cells.back().x != a.at || cells.back().y != b.at || cells.back().z != c.at) {
        const int64_t row = a.at * grid.size[1] * grid.size[2] + b.at * grid.size[2] + c.at;
        const Cell fresh = {a.at, b.at, c.at, {row, row + grid.step[1], row + grid.step[0], row + grid.step[0] + grid.step[1]}};
        for (const int64_t r : fresh.row) {
          __builtin_prefetch(grid.density + r);
          const char* line = reinterpret_cast<const char*>(grid.features + r * grid.channels);
          for (int64_t byte = 0; byte < 8 * grid.channels; byte += 64) __builtin_prefetch(line + byte, 0, 2);
        }
        cells.push_back(fresh);
      }
      cell[j] = static_cast<int32_t>(cells.size()) - 1;
      const double xy[4] = {a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high};
      float* w = coefficients.data() + 8 * j;
      for (int r = 0; r < 4; ++r) w[2 * r] = static_cast<float>(xy[r] * c.low), w[2 * r + 1] = static_cast<float>(xy[r] * c.high);
      for (int r = 0; r < 4; ++r) exact_[4 * (j - begin) + r] = xy[r];
      up_[2 * (j - begin)] = c.low, up_[2 * (j - begin) + 1] = c.high;
    }
    // Density, once the lines that were asked for are on their way.
    int64_t loaded = -1;
    d4 low{}, high{};
    for (int64_t j = begin; j < count; ++j) {
      if (cell[j] < 0) continue;
      if (cell[j] != loaded) {
        loaded = cell[j];
        const Cell& at = cells[loaded];
        for (int r = 0; r < 4; ++r) low[r] = grid.density[at.row[r]], high[r] = grid.density[at.row[r] + grid.step[2]];
      }
      d4 weights;
      __builtin_memcpy(&weights, exact_ + 4 * (j - begin), sizeof weights);
      const d4 sum = weights * (low * up_[2 * (j - begin)] + high * up_[2 * (j - begin) + 1]);
      value[j] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
  }

  void activate(int64_t begin, bool want_slope) {
    for (int64_t j = begin; j < count; j += 4) {  // the arrays have room behind the last
      d4 v, a, f, g = d4{};
      __builtin_memcpy(&v, value.data() + j, sizeof v);
      if (set_.activation == kShiftedSoftplus) {
        const d4 e = exp4(v + set_.shift);
        f = exp4(-set_.interval * log4(1.0 + e)), a = 1.0 - f;
        if (want_slope) g = set_.interval * f * (e / (1.0 + e));
      } else if (set_.activation == kExponential) {
        d4 way;
        __builtin_memcpy(&way, spacing.data() + j, sizeof way);
        const d4 dense = select(v > d4{}, v, d4{});
        f = exp4(-dense * way), a = 1.0 - f;
        g = select(v > d4{}, way * f, d4{});
      } else {
        const d4 e = exp4(-v);
        a = 1.0 / (1.0 + e), f = 1.0 - a, g = a * (e / (1.0 + e));
      }
      __builtin_memcpy(alpha.data() + j, &a, sizeof a);
      __builtin_memcpy(passed.data() + j, &f, sizeof f);
      __builtin_memcpy(slope.data() + j, &g, sizeof g);
    }
  }

  // Weights; false once the stop is reached.
  bool scan(int64_t begin) {
    for (int64_t j = begin; j < count; ++j) {
      if (transmittance < set_.transmittance_min) {
        count = j;
        return false;
      }
      const bool closing = value[j] == HUGE_VAL;
      if (closing) alpha[j] = 1, passed[j] = 0, slope[j] = 0;
      const bool counts = closing || alpha[j] > set_.alpha_min;
      if (!counts) alpha[j] = 0, passed[j] = 1, slope[j] = 0;
      before[j] = transmittance;
      double w;
      if (set_.activation == kProbability) {
        const double from = std::min(reached_, 1.0);
        reached_ += alpha[j];
        free[j] = reached_ <= 1.0;
        const double to = std::min(reached_, 1.0);
        w = to - from, transmittance = 1.0 - to;
      } else {
        w = alpha[j] * transmittance;
        free[j] = !(set_.activation == kExponential && passed[j] < set_.least_passed);
        if (!free[j]) passed[j] = set_.least_passed;
        transmittance *= passed[j];
      }
      counted[j] = counts && w > set_.weight_min;
      weight[j] = counted[j] ? w : 0.0;
    }
    return !(transmittance < set_.transmittance_min);
  }

  const RaySettings& set_;
  std::vector<double> distances_;
  const int64_t total_;
  const bool jitter_;
  double t_[kBlock], x_[kBlock], y_[kBlock], z_[kBlock];  // of a block: distances, positions, then voxel indices
  bool all_inside_ = true;
  uint8_t inside_[kBlock], kept_[kBlock];
  double exact_[4 * kBlock], up_[2 * kBlock];
  double previous_[3] = {}, way_ = 0, reached_ = 0;
  bool first_ = true;
};

}  // namespace rays
