// Blending kernels, forward and backward.
//
// A block is kLanes x 8 pixels, a strip two of its rows (two vectors). A block walks the depth-ordered list of its bin,
// keeps the Gaussians whose alpha_min ellipse meets the block (`fill`), turns them into one weight a pixel strip by strip
// (`weigh`) and adds weights x payload as a small matrix product held in registers (`accumulate`). Weights are the same
// bits in both directions: the backward pass runs the same code and keeps what it needs.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "simd.h"
#include "splat.h"

namespace splat {

constexpr int kRows = 8;
constexpr int kWide = kLanes;
constexpr int kPixels = kWide * kRows;
constexpr int kStrip = 2 * kLanes;  // pixels of a strip
constexpr int kStrips = kRows / 2;
constexpr int kChunk = 64;                      // Gaussians a block takes at a time
constexpr int kBatch = 4;                       // Gaussians whose alphas are made at once
constexpr int kEntries = kChunk + kLanes + kBatch;  // a vector of tests may overshoot the chunk, and a batch what was found
constexpr int32_t kAhead = 16;                  // Gaussians between asking for one and reading it
constexpr int kGroup = kLanes == 16 ? 12 : 6;  // channels (or Gaussians) x 2 vectors of accumulators fit the registers

const vf kX = [] {  // column of a lane, from the block's centre
  vf x;
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(i) - 0.5f * (kWide - 1);
  return x;
}();

const v8 kY = {-3.5f, -2.5f, -1.5f, -0.5f, 0.5f, 1.5f, 2.5f, 3.5f};

struct Each {
  int32_t entry[kEntries];
};
const Each kEach = [] {  // all of a chunk
  Each each;
  for (int i = 0; i < kEntries; ++i) each.entry[i] = i;
  return each;
}();

// What the backward pass keeps of a strip: for each Gaussian that counts, its place in the bin's list, and per pixel alpha
// before the cut to alpha_max (0 where it does not count) and the transmittance in front of it.
struct Trace {
  int32_t count = 0;
  Buffer<int32_t> place;
  Buffer<float> raw, front;
};

struct Scratch {
  // the bin's list, structure of arrays, loaded as far as some block has asked for it
  int32_t loaded = 0;
  Buffer<float> u, v, a, b, c, b_over_a, b_over_c, log_opacity, reach, top, bottom;
  Buffer<float> z;
  Buffer<uint32_t> id;
  Buffer<uint8_t> touched;  // whether some strip has had to weigh it
  Buffer<float> payload;    // [loaded][channels] of those touched: features, then depth
  // the block's current chunk: log2 alpha of lane x in row r is base[r] + x * (slope[r] + x * bend)
  alignas(64) float base[kEntries * kRows], slope[kEntries * kRows], bend[kEntries];
  float left[kEntries], right[kEntries];  // "tile3sigma": columns it may touch, from the block's centre
  int32_t place[kEntries];
  const float* rows_of_chunk[kEntries];  // of payload
  int32_t strip[kStrips][kEntries], strip_filled[kStrips];
  const int32_t* of_strip[kStrips];  // which of the chunk each strip has to weigh: kEach or `strip`
  // the block
  alignas(64) float transmittance[kPixels];
  vm live[2 * kStrips];
  Buffer<float> sums;  // [channels][kPixels]
  // a strip's share of the chunk
  alignas(64) float weights[kEntries * kStrip];
  const float* rows[kEntries];
  // backward
  Trace traces[kStrips];
  Buffer<float> grad, grad_by_pixel;  // [padded][kPixels] and [kPixels][padded]
  alignas(64) float behind[kPixels];
  alignas(64) float shade[kEntries * kStrip];
  float* targets[kEntries];
};

void load_list(const View& view, const Bin& bin, Scratch& s, int32_t upto) {
  const int32_t end = (upto + kLanes - 1) / kLanes * kLanes;
  for (Buffer<float>* f : {&s.u, &s.v, &s.a, &s.b, &s.c, &s.b_over_a, &s.b_over_c, &s.log_opacity, &s.reach, &s.top, &s.bottom, &s.z})
    f->reserve(end);
  s.payload.reserve(static_cast<size_t>(end) * view.channels), s.id.reserve(end), s.touched.reserve(end);
  const int32_t listed = std::min(end, bin.length);
  for (int32_t i = s.loaded; i < listed; ++i) {
    // Neighbours in depth lie anywhere in memory: ask for them ahead of time.
    if (i + kAhead < listed) __builtin_prefetch(&view.splats[bin.list[i + kAhead]]), __builtin_prefetch(&view.ids[bin.list[i + kAhead]]);
    const Splat p = view.splats[bin.list[i]];
    s.u[i] = p.u, s.v[i] = p.v, s.a[i] = p.a, s.b[i] = p.b, s.c[i] = p.c;
    s.b_over_a[i] = p.b / p.a, s.b_over_c[i] = p.b / p.c;
    s.log_opacity[i] = p.log_opacity, s.z[i] = p.z;
    // The test below only has to keep everything that alpha >= alpha_min may keep; the slack absorbs its rounding.
    s.reach[i] = p.reach * 1.0001f + 1e-3f;
    // Rows beyond which alpha cannot but round to less than alpha_min. Of a thin, oblique ellipse terms of the exponent cancel: no
    // such rows.
    const float ac = p.a * p.c, solid = ac - p.b * p.b;
    const float half = solid > 0.01f * ac ? std::sqrt(s.reach[i] * p.a / solid) * 1.001f + 0.01f : HUGE_VALF;
    s.top[i] = p.v - half, s.bottom[i] = p.v + half;
    s.id[i] = view.ids[bin.list[i]], s.touched[i] = 0;
  }
  for (int32_t i = std::max(s.loaded, listed); i < end; ++i) {
    s.u[i] = s.v[i] = s.b[i] = s.b_over_a[i] = s.b_over_c[i] = s.log_opacity[i] = s.top[i] = s.bottom[i] = 0;
    s.a[i] = s.c[i] = 1;
    s.reach[i] = -1;
  }
  s.loaded = end;
}

// The payload of the n Gaussians of the chunk; of those that are new to it, it is copied beside the others.
void load_payload(const View& view, Scratch& s, int n, const int32_t* fresh, int count) {
  const int64_t channels = view.channels, features = channels - 1;
  for (int k = 0; k < count; ++k) {
    const float* from = view.payload + s.id[fresh[k]] * features;
    float* row = s.payload.data() + fresh[k] * channels;
    int64_t done = 0;
    for (; done + 8 <= features; done += 8) store(row + done, load<v8>(from + done));
    if (done < features && features >= 8) store(row + features - 8, load<v8>(from + features - 8));  // overlaps those before
    for (; features < 8 && done < features; ++done) row[done] = from[done];
    row[features] = s.z[fresh[k]];
  }
  for (int e = 0; e < n; ++e) s.rows_of_chunk[e] = s.payload.data() + s.place[e] * channels;
}

// Lanes whose ellipse meets the pixel centres of the block: the least Mahalanobis distance over a rectangle lies at the
// centre if it is inside, else on one of the two edges that face it.
inline uint32_t meets(const Scratch& s, int32_t at, float left, float right, float top, float bottom) {
  const vf u = load<vf>(&s.u[at]), v = load<vf>(&s.v[at]);
  const vf a = load<vf>(&s.a[at]), b = load<vf>(&s.b[at]), c = load<vf>(&s.c[at]);
  const vf x0 = left - u, x1 = right - u, y0 = top - v, y1 = bottom - v, zero = {};
  const vf dx = vmax(x0, vmin(x1, zero)), dy = vmax(y0, vmin(y1, zero));
  const vf along_y = vmax(y0, vmin(y1, zero - load<vf>(&s.b_over_c[at]) * dx));
  const vf along_x = vmax(x0, vmin(x1, zero - load<vf>(&s.b_over_a[at]) * dy));
  const vf first = fma(dx, fma(a, dx, 2.0f * b * along_y), c * along_y * along_y);
  const vf second = fma(along_x, fma(a, along_x, 2.0f * b * dy), c * dy * dy);
  return bits(at_least(load<vf>(&s.reach[at]), vmin(first, second)));
}

// Take the next Gaussians of the list that may touch the block, and note for each strip those that may touch it; returns
// the new position in the list.
template <bool Tile>
int32_t fill(const View& view, const Bin& bin, Scratch& s, int32_t at, int x, int y) {
  const float middle_x = x + 0.5f * kWide, middle_y = y + 0.5f * kRows;
  const float half_x = 0.5f * (kWide - 1), half_y = 0.5f * (kRows - 1);
  int n = 0, news = 0;
  int32_t counts[kStrips] = {}, fresh[kEntries];
  bool whole = true;  // so far each strip has to weigh all
  while (at < bin.length && n < kChunk) {
    if (at >= s.loaded) load_list(view, bin, s, std::min(bin.length, at + 4 * kChunk));
    const uint32_t met = meets(s, at, middle_x - half_x, middle_x + half_x, middle_y - half_y, middle_y + half_y);
    uint32_t of_strip[kStrips] = {}, hits = 0, common = met;
    if (met)
#pragma GCC unroll 4
      for (int strip = 0; strip < kStrips; ++strip) {
        const vf line = splat1<vf>(y + 2 * strip + 0.5f);
        of_strip[strip] = met & bits(both(at_least(load<vf>(&s.bottom[at]), line), at_least(line + 1.0f, load<vf>(&s.top[at]))));
        hits |= of_strip[strip], common &= of_strip[strip];
      }
    if (whole && common != met) {
      whole = false;
      for (int strip = 0; strip < kStrips; ++strip) std::copy_n(kEach.entry, counts[strip] = n, s.strip[strip]);
    }
    for (; hits; hits &= hits - 1) {
      const int32_t i = at + __builtin_ctz(hits);
      const float a = -0.5f * kLog2E * s.a[i], b = -kLog2E * s.b[i], c = -0.5f * kLog2E * s.c[i];
      const float dx = middle_x - s.u[i];
      const v8 dy = kY + (middle_y - s.v[i]);
      v8 base = fma(dy, fma(dy, splat1<v8>(c), splat1<v8>(b * dx)), splat1<v8>(s.log_opacity[i] + a * dx * dx));
      if constexpr (Tile) {
        const Rect r = view.rects[bin.list[i]];
        if (r.x0 >= x + kWide || r.x1 <= x || r.y0 >= y + kRows || r.y1 <= y) continue;
        for (int row = 0; row < kRows; ++row)
          if (y + row < r.y0 || y + row >= r.y1) base[row] = -1e30f;
        s.left[n] = r.x0 - middle_x, s.right[n] = r.x1 - middle_x;
      }
      store(&s.base[n * kRows], base);
      store(&s.slope[n * kRows], fma(dy, splat1<v8>(b), splat1<v8>(2.0f * a * dx)));
      s.bend[n] = a;
      s.place[n] = i;
      if (!s.touched[i]) {
        s.touched[i] = 1, fresh[news++] = i;
        const char* row = reinterpret_cast<const char*>(view.payload + s.id[i] * int64_t{view.channels - 1});
        for (int byte = 0; byte < 4 * view.channels; byte += 64) __builtin_prefetch(row + byte);
      }
      if (!whole)
#pragma GCC unroll 4
        for (int strip = 0; strip < kStrips; ++strip) {
          s.strip[strip][counts[strip]] = n;
          counts[strip] += of_strip[strip] >> (i - at) & 1;
        }
      ++n;
    }
    at += kLanes;
  }
  load_payload(view, s, n, fresh, news);
  for (int i = n; n > 0 && i < n + kBatch - 1; ++i) {  // the last batch of a strip is filled up with what is too faint to count
    std::fill_n(&s.base[i * kRows], kRows, -1e30f), std::fill_n(&s.slope[i * kRows], kRows, 0.0f);
    s.bend[i] = 0.0f, s.place[i] = s.place[0], s.rows_of_chunk[i] = nullptr, s.left[i] = s.right[i] = 0.0f;
  }
  for (int strip = 0; strip < kStrips; ++strip) {
    s.strip_filled[strip] = whole ? n : counts[strip];
    s.of_strip[strip] = whole ? kEach.entry : s.strip[strip];
    std::fill_n(&s.strip[strip][counts[strip]], kBatch - 1, n);
  }
  return std::min(at, bin.length);
}

// Blend the chunk into one strip. Forward (Trace* null at compile time): writes the weights and payload rows of the
// Gaussians that count and returns how many. Backward: appends to the trace.
template <bool Tile, bool Keep>
int weigh(const View& view, Scratch& s, int strip, Trace* trace) {
  const Settings& set = view.settings;
  // What `exp2_clamped` makes of the faintest, 2^-100, does not count.
  const vf alpha_min = splat1<vf>(std::max(set.alpha_min, 1e-30f)), alpha_max = splat1<vf>(set.alpha_max);
  const vf stop = splat1<vf>(set.transmittance_min);
  float* front = s.transmittance + strip * kStrip;
  vf t0 = load<vf>(front), t1 = load<vf>(front + kLanes);
  vm live0 = s.live[2 * strip], live1 = s.live[2 * strip + 1];
  const vf x = kX;
  const int filled = s.strip_filled[strip];
  const int32_t* entries = s.of_strip[strip];
  int n = Keep ? trace->count : 0;
  if constexpr (Keep) {
    trace->place.reserve(n + filled + kBatch);
    trace->raw.reserve(static_cast<size_t>(n + filled + kBatch) * kStrip);
    trace->front.reserve(static_cast<size_t>(n + filled + kBatch) * kStrip);
  }
  for (int first = 0; first < filled; first += kBatch) {
    // Alphas of a batch do not depend on one another, and there is nothing to guess: only the transmittances are a chain.
    vf raw0[kBatch], raw1[kBatch];  // 0 where it does not count
#pragma GCC unroll 8
    for (int i = 0; i < kBatch; ++i) {
      const int e = entries[first + i];
      const float* base = &s.base[e * kRows + 2 * strip];
      const float* slope = &s.slope[e * kRows + 2 * strip];
      const vf bend = splat1<vf>(s.bend[e]);
      raw0[i] = exp2_clamped(fma(x, fma(x, bend, splat1<vf>(slope[0])), splat1<vf>(base[0])));
      raw1[i] = exp2_clamped(fma(x, fma(x, bend, splat1<vf>(slope[1])), splat1<vf>(base[1])));
      raw0[i] = keep(at_least(raw0[i], alpha_min), raw0[i]), raw1[i] = keep(at_least(raw1[i], alpha_min), raw1[i]);
      if constexpr (Tile) {
        const vm inside = both(at_least(x, splat1<vf>(s.left[e])), at_least(splat1<vf>(s.right[e]), x));
        raw0[i] = keep(inside, raw0[i]), raw1[i] = keep(inside, raw1[i]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kBatch; ++i) {
      vf a0 = vmin(raw0[i], alpha_max), a1 = vmin(raw1[i], alpha_max);
      // A pixel that this Gaussian would push below the limit stops in front of it. Where alpha is 0, nothing changes.
      const vf next0 = fnma(a0, t0, t0), next1 = fnma(a1, t1, t1);
      live0 = both(live0, at_least(next0, stop)), live1 = both(live1, at_least(next1, stop));
      a0 = keep(live0, a0), a1 = keep(live1, a1);
      if constexpr (Keep) {
        float* raw = trace->raw.data() + static_cast<size_t>(n) * kStrip;
        float* ahead = trace->front.data() + static_cast<size_t>(n) * kStrip;
        store(raw, keep(live0, raw0[i])), store(raw + kLanes, keep(live1, raw1[i]));
        store(ahead, t0), store(ahead + kLanes, t1);
        trace->place[n] = s.place[entries[first + i]];
      } else {
        store(s.weights + n * kStrip, a0 * t0), store(s.weights + n * kStrip + kLanes, a1 * t1);
        s.rows[n] = s.rows_of_chunk[entries[first + i]];
      }
      n += any_set(a0, a1);  // else the next one takes its place
      t0 = choose(live0, next0, t0), t1 = choose(live1, next1, t1);
    }
    if (!any(either(live0, live1))) break;
  }
  store(front, t0), store(front + kLanes, t1);
  s.live[2 * strip] = live0, s.live[2 * strip + 1] = live1;
  if constexpr (Keep) trace->count = n;
  return n;
}

template <int N>
void accumulate_group(const float* weights, const float* const* rows, int count, int channel, float* sums) {
  vf s0[N], s1[N];
#pragma GCC unroll 16
  for (int c = 0; c < N; ++c) s0[c] = load<vf>(sums + c * kPixels), s1[c] = load<vf>(sums + c * kPixels + kLanes);
  for (int k = 0; k < count; ++k) {
    const vf w0 = load<vf>(weights + k * kStrip), w1 = load<vf>(weights + k * kStrip + kLanes);
    const float* row = rows[k] + channel;
#pragma GCC unroll 16
    for (int c = 0; c < N; ++c) {
      const vf f = splat1<vf>(row[c]);
      s0[c] = fma(w0, f, s0[c]), s1[c] = fma(w1, f, s1[c]);
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < N; ++c) store(sums + c * kPixels, s0[c]), store(sums + c * kPixels + kLanes, s1[c]);
}

// sums[channel][pixel of the strip] += weights^T x payload rows
void accumulate(const Scratch& s, int count, int channels, float* sums) {
  const int groups = (channels + kGroup - 1) / kGroup;
  for (int g = 0, done = 0; g < groups; ++g) {
    const int n = (channels - done) / (groups - g);  // even shares
    float* out = sums + static_cast<size_t>(done) * kPixels;
    switch (n) {
#define CASE(N) \
  case N: accumulate_group<N>(s.weights, s.rows, count, done, out); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if defined(__AVX512F__) || (defined(OCC_LANES) && OCC_LANES == 16)
      CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
    }
    done += n;
  }
}

template <int N>
void shade_group(const float* grad, const float* const* rows, int channels, float* shade) {
  vf s0[N] = {}, s1[N] = {};
  for (int c = 0; c < channels; ++c) {
    const vf g0 = load<vf>(grad + static_cast<size_t>(c) * kPixels), g1 = load<vf>(grad + static_cast<size_t>(c) * kPixels + kLanes);
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k) {
      const vf f = splat1<vf>(rows[k][c]);
      s0[k] = fma(g0, f, s0[k]), s1[k] = fma(g1, f, s1[k]);
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < N; ++k) store(shade + k * kStrip, s0[k]), store(shade + k * kStrip + kLanes, s1[k]);
}

// shade[k][pixel] = payload row k . image gradient at the pixel
void shade(Scratch& s, int count, int channels, const float* grad) {
  constexpr int kFew = 6;
  int k = 0;
  for (; k + kFew <= count; k += kFew) shade_group<kFew>(grad, s.rows + k, channels, s.shade + k * kStrip);
  switch (count - k) {
    case 1: shade_group<1>(grad, s.rows + k, channels, s.shade + k * kStrip); break;
    case 2: shade_group<2>(grad, s.rows + k, channels, s.shade + k * kStrip); break;
    case 3: shade_group<3>(grad, s.rows + k, channels, s.shade + k * kStrip); break;
    case 4: shade_group<4>(grad, s.rows + k, channels, s.shade + k * kStrip); break;
    case 5: shade_group<5>(grad, s.rows + k, channels, s.shade + k * kStrip); break;
  }
}

template <int Gaussians, int Columns>
void scatter_group(const float* weights, const float* grad, int stride, float* const* targets, int column) {
  v8 sums[Gaussians][Columns];
#pragma GCC unroll 4
  for (int k = 0; k < Gaussians; ++k)
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) sums[k][c] = load<v8>(targets[k] + column + 8 * c);
  for (int p = 0; p < kStrip; ++p) {
    v8 g[Columns];
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) g[c] = load<v8>(grad + p * stride + column + 8 * c);
#pragma GCC unroll 4
    for (int k = 0; k < Gaussians; ++k) {
      const v8 w = splat1<v8>(weights[k * kStrip + p]);
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) sums[k][c] = fma(w, g[c], sums[k][c]);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < Gaussians; ++k)
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) store(targets[k] + column + 8 * c, sums[k][c]);
}

// slots[k][channel] += sum over the strip's pixels of weight x image gradient
void scatter(const Scratch& s, int count, int stride, const float* grad) {
  int column = 0;
  auto columns = [&](auto width) {
    constexpr int kColumns = decltype(width)::value;
    int k = 0;
    for (; k + 4 <= count; k += 4) scatter_group<4, kColumns>(s.weights + k * kStrip, grad, stride, s.targets + k, column);
    for (; k < count; ++k) scatter_group<1, kColumns>(s.weights + k * kStrip, grad, stride, s.targets + k, column);
    column += 8 * kColumns;
  };
  while (stride - column >= 24) columns(std::integral_constant<int, 3>{});
  if (stride - column == 16) columns(std::integral_constant<int, 2>{});
  if (stride - column == 8) columns(std::integral_constant<int, 1>{});
}

void begin_block(const View& view, Scratch& s, int x, int y) {
  for (int i = 0; i < kPixels; ++i) s.transmittance[i] = 1.0f;
  const vm inside_x = at_least(splat1<vf>(view.width - x - 0.5f * kWide), kX);  // column centre inside the image
  for (int row = 0; row < kRows; ++row) s.live[row] = y + row < view.height ? inside_x : vm{};
}

inline bool live_strip(const Scratch& s, int strip) { return any(s.live[2 * strip]) || any(s.live[2 * strip + 1]); }

// Sums and what shines through from behind, into the channel-last images.
void write_block(const View& view, const Scratch& s, int x, int y) {
  const int features = view.channels - 1;
  const float* depth = s.sums.data() + static_cast<size_t>(features) * kPixels;
  const int columns = std::min(kWide, view.width - x);
  for (int row = 0; row < std::min(kRows, view.height - y); ++row) {
    const size_t pixel = static_cast<size_t>(y + row) * view.width + x;
    float* out = view.features + pixel * features;
    const float* rest = s.transmittance + row * kWide;
    int column = 0;
    for (; column + 8 <= columns; column += 8) {
      store(view.depth + pixel + column, load<v8>(depth + row * kWide + column));
      store(view.alpha + pixel + column, 1.0f - load<v8>(rest + column));
    }
    for (; column < columns; ++column) {
      view.depth[pixel + column] = depth[row * kWide + column];
      view.alpha[pixel + column] = 1.0f - rest[column];
    }
    column = 0;
    for (; features >= 8 && column + 8 <= columns; column += 8) {
      const v8 through = load<v8>(rest + column);
      for (int done = 0; done < features; done += 8) {
        const int channel = std::min(done, features - 8);  // the last eight overlap those before
        v8 r[8];
#pragma GCC unroll 8
        for (int c = 0; c < 8; ++c) {
          r[c] = load<v8>(s.sums.data() + static_cast<size_t>(channel + c) * kPixels + row * kWide + column);
          if (view.background) r[c] = fma(through, splat1<v8>(view.background[channel + c]), r[c]);
        }
        transpose(r);
#pragma GCC unroll 8
        for (int p = 0; p < 8; ++p) store(out + static_cast<size_t>(column + p) * features + channel, r[p]);
      }
    }
    for (; column < columns; ++column)
      for (int c = 0; c < features; ++c)
        out[static_cast<size_t>(column) * features + c] =
            s.sums[static_cast<size_t>(c) * kPixels + row * kWide + column] + (view.background ? rest[column] * view.background[c] : 0.0f);
  }
}

template <bool Tile>
void forward_block(const View& view, const Bin& bin, Scratch& s, int x, int y, int64_t* weights) {
  const int channels = view.channels;
  s.sums.reserve(static_cast<size_t>(channels) * kPixels);
  std::fill_n(s.sums.data(), static_cast<size_t>(channels) * kPixels, 0.0f);
  begin_block(view, s, x, y);
  int32_t at = 0;
  bool live = true;
  while (live && at < bin.length) {
    at = fill<Tile>(view, bin, s, at, x, y);
    live = false;
    for (int strip = 0; strip < kStrips; ++strip) {
      if (!live_strip(s, strip)) continue;
      if (const int count = weigh<Tile, false>(view, s, strip, nullptr)) {
        accumulate(s, count, channels, s.sums.data() + strip * kStrip);
        *weights += count * kStrip;
      }
      live |= live_strip(s, strip);
    }
  }
  write_block(view, s, x, y);
}

// Image gradients of the block, in both layouts, and what is behind everything; false if all are zero.
bool load_gradients(const View& view, Scratch& s, int x, int y) {
  const int features = view.channels - 1, stride = padded(view.channels), whole = stride - 8;  // the last eight hold the depth
  s.grad.reserve(static_cast<size_t>(stride) * kPixels);
  s.grad_by_pixel.reserve(static_cast<size_t>(stride) * kPixels);
  const v8 zero = {};
  const auto pixel_at = [&](int p) { return static_cast<size_t>(y + p / kWide) * view.width + x + p % kWide; };
  const auto inside = [&](int p) { return x + p % kWide < view.width && y + p / kWide < view.height; };
  for (int p = 0; p < kPixels; p += 8) {
    float* rows = s.grad_by_pixel.data() + static_cast<size_t>(p) * stride;
    if (kWide % 8 == 0 && inside(p + 7) && view.grad_features && view.grad_depth && features == whole) {  // nothing to ask
      const float *given = view.grad_features + pixel_at(p) * features, *depth = view.grad_depth + pixel_at(p);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        for (int c = 0; c < whole; c += 8) store(rows + i * stride + c, load<v8>(given + i * features + c));
        store(rows + i * stride + whole, v8{depth[i]});
      }
      store(s.behind + p, view.grad_alpha ? load<v8>(view.grad_alpha + pixel_at(p)) : zero);
      continue;
    }
    for (int i = 0; i < 8; ++i) {
      float* row = rows + i * stride;
      const bool seen = inside(p + i);
      const size_t pixel = seen ? pixel_at(p + i) : 0;
      const float* given = seen && view.grad_features ? view.grad_features + pixel * features : nullptr;
      for (int c = 0; c < whole; c += 8) store(row + c, given ? load<v8>(given + c) : zero);
      store(row + whole, zero);
      if (given)
        for (int c = whole; c < features; ++c) row[c] = given[c];
      if (seen && view.grad_depth) row[features] = view.grad_depth[pixel];
      s.behind[p + i] = seen && view.grad_alpha ? view.grad_alpha[pixel] : 0.0f;
    }
  }
  auto some = zero != zero;
  for (int p = 0; p < kPixels; p += 8) {
    some |= load<v8>(s.behind + p) != zero;
    for (int channel = 0; channel < stride; channel += 8) {
      v8 r[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        r[i] = load<v8>(s.grad_by_pixel.data() + static_cast<size_t>(p + i) * stride + channel);
        some |= r[i] != zero;
      }
      transpose(r);
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) store(s.grad.data() + static_cast<size_t>(channel + c) * kPixels + p, r[c]);
    }
  }
  if (!any8(some)) return false;
  for (int p = 0; p < kPixels; p += 8) {
    v8 behind = zero;
    if (view.background)
      for (int c = 0; c < features; ++c)
        behind += load<v8>(s.grad.data() + static_cast<size_t>(c) * kPixels + p) * splat1<v8>(view.background[c]);
    store(s.behind + p, behind - load<v8>(s.behind + p));
  }
  return true;
}

// One strip's trace, back to front: dL/dalpha_i = T_i (s_i - B), where B is what is composited behind i, and
// B <- B + alpha_i (s_i - B). dL/dpayload_i = sum of w_i g.
void backward_strip(const View& view, Scratch& s, int strip, int x, int y, float* slots) {
  const Trace& trace = s.traces[strip];
  const int channels = view.channels, stride = slot_stride(channels), moments = padded(channels);
  const vf alpha_max = splat1<vf>(view.settings.alpha_max);
  const bool pass_clamp = view.settings.clamp_gradient != 0;
  vf behind0 = load<vf>(s.behind + strip * kStrip), behind1 = load<vf>(s.behind + strip * kStrip + kLanes);
  const float column = x + 0.5f * kWide, line = y + 2 * strip + 0.5f;
  for (int32_t end = trace.count; end > 0; end -= std::min(end, kChunk)) {
    const int count = std::min(end, kChunk);
    const int32_t first = end - count;
    for (int k = 0; k < count; ++k) {
      const int32_t place = trace.place[first + k];
      s.rows[k] = s.payload.data() + static_cast<size_t>(place) * channels;
      s.targets[k] = slots + static_cast<size_t>(place) * stride;
    }
    const bool chain = view.want_alpha || view.want_geometry;
    if (chain) shade(s, count, channels, s.grad.data() + strip * kStrip);
    for (int k = count - 1; k >= 0; --k) {
      const float* raw = trace.raw.data() + static_cast<size_t>(first + k) * kStrip;
      const float* ahead = trace.front.data() + static_cast<size_t>(first + k) * kStrip;
      const vf raw0 = load<vf>(raw), raw1 = load<vf>(raw + kLanes), t0 = load<vf>(ahead), t1 = load<vf>(ahead + kLanes);
      const vf a0 = vmin(raw0, alpha_max), a1 = vmin(raw1, alpha_max);
      store(s.weights + k * kStrip, a0 * t0), store(s.weights + k * kStrip + kLanes, a1 * t1);
      if (!chain) continue;
      const vf gap0 = load<vf>(s.shade + k * kStrip) - behind0, gap1 = load<vf>(s.shade + k * kStrip + kLanes) - behind1;
      behind0 = fma(a0, gap0, behind0), behind1 = fma(a1, gap1, behind1);
      vf h0 = raw0 * t0 * gap0, h1 = raw1 * t1 * gap1;
      if (!pass_clamp) h0 = keep(at_least(alpha_max, raw0), h0), h1 = keep(at_least(alpha_max, raw1), h1);
      float* out = s.targets[k] + moments;
      const vf h = h0 + h1;
      if (!view.want_geometry) {
        out[0] += sum(h);
      } else {
        const int32_t place = trace.place[first + k];
        const vf dx = kX + (column - s.u[place]);
        const float dy0 = line - s.v[place], dy1 = dy0 + 1.0f;
        const vf hx = h * dx, hy = h0 * dy0 + h1 * dy1;
        const vf of[6] = {h, hx, hy, hx * dx, hy * dx, h0 * (dy0 * dy0) + h1 * (dy1 * dy1)};
        store(out, load<v8>(out) + sums(of));
      }
    }
    if (view.want_payload) scatter(s, count, moments, s.grad_by_pixel.data() + static_cast<size_t>(strip) * kStrip * moments);
  }
}

template <bool Tile>
void backward_block(const View& view, const Bin& bin, Scratch& s, int x, int y, float* slots) {
  if (!load_gradients(view, s, x, y)) return;
  begin_block(view, s, x, y);
  for (Trace& trace : s.traces) trace.count = 0;
  bool live = true;
  for (int32_t at = 0; live && at < bin.length;) {
    at = fill<Tile>(view, bin, s, at, x, y);
    live = false;
    for (int strip = 0; strip < kStrips; ++strip) {
      if (!live_strip(s, strip)) continue;
      weigh<Tile, true>(view, s, strip, &s.traces[strip]);
      live |= live_strip(s, strip);
    }
  }
  for (int strip = 0; strip < kStrips; ++strip) backward_strip(view, s, strip, x, y, slots);
}

// Blend a bin; leaves in scratch which of its list were touched, adds the number of (pixel, Gaussian) weights to *weights.
void forward_bin(const View& view, const Bin& bin, Scratch& s, int64_t* weights) {
  s.loaded = 0;
  for (int y = bin.y0; y < bin.y1; y += kRows)
    for (int x = bin.x0; x < bin.x1; x += kWide)
      view.settings.tile3sigma ? forward_block<true>(view, bin, s, x, y, weights)
                               : forward_block<false>(view, bin, s, x, y, weights);
}

// Fill slots [bin.length, slot_stride] with the gradients of the bin's pairs.
void backward_bin(const View& view, const Bin& bin, Scratch& s, float* slots) {
  s.loaded = 0;
  std::fill_n(slots, static_cast<size_t>(bin.length) * slot_stride(view.channels), 0.0f);
  for (int y = bin.y0; y < bin.y1; y += kRows)
    for (int x = bin.x0; x < bin.x1; x += kWide)
      view.settings.tile3sigma ? backward_block<true>(view, bin, s, x, y, slots)
                               : backward_block<false>(view, bin, s, x, y, slots);
}

}  // namespace splat
