// The "cpu" renderer of rays: a plain C interface over marching, and the gradients.
//
// Forward: rays in the order of their direction, so that neighbours read the same voxels; a thread takes a block of them. What
// the samples of a ray in one cell weigh is added up first: eight voxels are read once a cell, not once a sample.
// Backward: chunks of rays. Each ray is marched again (the same code, the same bits) and leaves two records a cell, one for each
// plane x of the grid that the cell's voxels lie in; records are sorted by plane, and a thread takes a plane and adds them in the
// order of the rays. So nothing depends on the number of threads, and a plane's gradient stays in a core's cache.
#include <atomic>
#include <chrono>
#include <new>

#include <omp.h>

#include "march.h"

using namespace rays;

extern "C" {

// Mirrored by renderers/rays/cpu/native.py. Tensors are contiguous float32; absent ones are null.
struct RayCall {
  int64_t rays, batch, size[3], channels, samples;
  int32_t threads, unused;
  RaySettings settings;
  const double* distances;
  const float *origins, *directions, *offsets, *cosines;
  const int64_t* scene;
  const float *density, *features;
  float *out_features, *out_depth, *out_alpha, *out_transmittance, *out_squares, *out_spaced_squares, *out_spread;
  int64_t* out_samples;
  const float *grad_out_features, *grad_out_depth, *grad_out_alpha, *grad_out_transmittance, *grad_out_squares,
      *grad_out_spaced_squares, *grad_out_spread;
  float *grad_density, *grad_features;
  double* stages;  // null, or [5]: seconds of marching and of scattering, then samples, cells, records
};

int32_t occ_rays_forward(const RayCall* call);
int32_t occ_rays_backward(const RayCall* call);
}

namespace {

enum Stage { kMarch, kScatter, kSamples, kCells, kRecords };
constexpr int64_t kBins = 2048;                       // directions around, to order rays by
constexpr int64_t kBlockRays = 64;                    // rays that a thread takes at once
#ifndef OCC_CHUNK_BYTES
#define OCC_CHUNK_BYTES (int64_t{96} << 20)
#endif
constexpr int64_t kChunkBytes = OCC_CHUNK_BYTES;      // of records held at once, at most

struct OutOfMemory {};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// ---- vectors of channels, eight at a time

inline v8 load_part(const float* p, int count) {
#if defined(__AVX2__)
  static const int32_t mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return (v8)_mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask + 8 - count)));
#else
  float lanes[8] = {};
  for (int i = 0; i < count; ++i) lanes[i] = p[i];
  return load<v8>(lanes);
#endif
}

// Calls f.template operator()<NV>(first channel, channels of the last vector) for up to four vectors at a time.
template <typename F>
void over_channels(int64_t channels, F&& f) {
  for (int64_t c = 0; c < channels; c += 32) {
    const int64_t left = std::min<int64_t>(channels - c, 32);
    const int tail = static_cast<int>((left - 1) % 8 + 1);
    switch ((left + 7) / 8) {
      case 1: f(std::integral_constant<int, 1>(), c, tail); break;
      case 2: f(std::integral_constant<int, 2>(), c, tail); break;
      case 3: f(std::integral_constant<int, 3>(), c, tail); break;
      default: f(std::integral_constant<int, 4>(), c, tail);
    }
  }
}

template <int NV>
inline void load_row(const float* row, int tail, v8 (&out)[NV]) {
  for (int v = 0; v < NV - 1; ++v) out[v] = load<v8>(row + 8 * v);
  out[NV - 1] = tail == 8 ? load<v8>(row + 8 * (NV - 1)) : load_part(row + 8 * (NV - 1), tail);
}

inline const float* voxel(const Grid& grid, const Cell& cell, int corner) {
  return grid.features + (cell.row[corner / 2] + (corner & 1) * grid.step[2]) * grid.channels;
}

inline v8 coefficients_of(const March& march, int64_t j) { return load<v8>(march.coefficients.data() + 8 * j); }

// Calls f(cell, begin, end) for each stretch of samples in one cell.
template <typename F>
void over_cells(const March& march, F&& f) {
  for (int64_t j = 0; j < march.count;) {
    const int32_t at = march.cell[j];
    int64_t end = j + 1;
    while (end < march.count && march.cell[end] == at) ++end;
    if (at >= 0) f(march.cells[at], j, end);
    j = end;
  }
}

// ---- rays

std::vector<int64_t> order_of(const RayCall& call) {
  std::vector<int64_t> start(call.batch * kBins + 1, 0), order(call.rays);
  std::vector<int32_t> key(call.rays);
  for (int64_t i = 0; i < call.rays; ++i) {
    const float x = call.directions[3 * i], y = call.directions[3 * i + 1], sum = std::fabs(x) + std::fabs(y);
    const float part = sum > 0 ? x / sum : 1.0f, turn = y < 0 ? 3 + part : 1 - part;  // 0..4 around
    const int64_t bin = std::min<int64_t>(static_cast<int64_t>(turn * (kBins / 4)), kBins - 1);
    key[i] = static_cast<int32_t>(call.scene[i] * kBins + bin);
    ++start[key[i] + 1];
  }
  for (size_t k = 1; k < start.size(); ++k) start[k] += start[k - 1];
  for (int64_t i = 0; i < call.rays; ++i) order[start[key[i]]++] = i;
  return order;
}

Ray ray_of(const RayCall& call, int64_t i) {
  Ray ray;
  double length = 0;
  for (int k = 0; k < 3; ++k) {
    ray.origin[k] = call.origins[3 * i + k], ray.direction[k] = call.directions[3 * i + k];
    length += ray.direction[k] * ray.direction[k];
  }
  length = std::sqrt(length);
  ray.length = call.settings.unit_directions ? 1.0 : length;
  if (call.settings.unit_directions)
    for (double& d : ray.direction) d /= length;
  ray.offset = call.offsets ? call.offsets[i] : 0.0;
  ray.cosine = call.cosines ? call.cosines[i] : 1.0;
  return ray;
}

Grid grid_of(const RayCall& call, int64_t scene) {
  const int64_t *n = call.size, voxels = n[0] * n[1] * n[2];
  Grid grid{{n[0], n[1], n[2]}, call.channels, call.density + scene * voxels, call.features + scene * voxels * call.channels, {}};
  grid.step[0] = n[0] > 1 ? n[1] * n[2] : 0, grid.step[1] = n[1] > 1 ? n[2] : 0, grid.step[2] = n[2] > 1 ? 1 : 0;
  return grid;
}

std::vector<March> marches(const RayCall& call) {
  std::vector<March> found;
  for (int t = 0; t < call.threads; ++t) found.emplace_back(call.settings, call.distances, call.samples, call.offsets != nullptr);
  return found;
}

void show(const RayCall& call, const March& march, const Grid& grid, int64_t i, int64_t& cells) {
  over_channels(call.channels, [&](auto vectors, int64_t c, int tail) {
    constexpr int NV = decltype(vectors)::value;
    v8 sums[NV] = {};
    over_cells(march, [&](const Cell& cell, int64_t begin, int64_t end) {
      v8 total = {};
      for (int64_t j = begin; j < end; ++j)
        total = fma(splat1<v8>(static_cast<float>(march.weight[j])), coefficients_of(march, j), total);
      float weights[8];
      store(weights, total);
      cells += c == 0;
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        v8 row[NV];
        load_row<NV>(voxel(grid, cell, k) + c, tail, row);
        const v8 w = splat1<v8>(weights[k]);
        for (int v = 0; v < NV; ++v) sums[v] = fma(w, row[v], sums[v]);
      }
    });
    float* out = call.out_features + i * call.channels + c;
    for (int v = 0; v < NV - 1; ++v) store(out + 8 * v, sums[v]);
    float last[8];
    store(last, sums[NV - 1]);
    for (int k = 0; k < tail; ++k) out[8 * (NV - 1) + k] = last[k];
  });
  double depth = 0, alpha = 0, squares = 0, spaced = 0, spread = 0;
  int64_t samples = 0;
  for (int64_t j = 0; j < march.count; ++j) {
    const double w = march.weight[j], m = march.depth[j];
    spread += w * (m * alpha - depth);
    depth += w * m, alpha += w, squares += w * w, spaced += w * w * march.spacing[j];
    samples += march.counted[j];
  }
  call.out_depth[i] = static_cast<float>(depth), call.out_alpha[i] = static_cast<float>(alpha);
  call.out_transmittance[i] = static_cast<float>(march.transmittance);
  call.out_squares[i] = static_cast<float>(squares), call.out_spaced_squares[i] = static_cast<float>(spaced);
  call.out_spread[i] = static_cast<float>(2 * spread), call.out_samples[i] = samples;
}

void forward(const RayCall& call) {
  const std::vector<int64_t> order = order_of(call);
  std::vector<March> all = marches(call);
  const double start = now();
  std::atomic<int64_t> next{0};
  int64_t samples = 0, cells = 0;
#pragma omp parallel num_threads(call.threads) reduction(+ : samples, cells)
  {
    March& march = all[omp_get_thread_num()];
    for (int64_t begin; (begin = next.fetch_add(kBlockRays)) < call.rays;)
      for (int64_t k = begin; k < std::min(begin + kBlockRays, call.rays); ++k) {
        const int64_t i = order[k];
        const Grid grid = grid_of(call, call.scene[i]);
        march.run(ray_of(call, i), grid, false);
        show(call, march, grid, i, cells);
        samples += march.count;
      }
  }
  if (!call.stages) return;
  call.stages[kMarch] += now() - start;
  call.stages[kSamples] += static_cast<double>(samples);
  call.stages[kCells] += static_cast<double>(cells);
}

// ---- gradients

// What the samples of one ray in one cell leave to the four voxels (y, z) of a plane x: in the order of Cell::row, z fastest.
struct Record {
  int32_t ray, at;
  float features[4], density[4];
};

// Records of a block of rays, by plane: those of plane p are records[starts[p]] .. records[starts[p + 1]], in the order of rays.
struct Block {
  std::vector<Record> records;
  std::vector<int32_t> starts;
};

// Products of the eight voxels of a cell with a ray's gradient, over all channels.
v8 products(const Grid& grid, const Cell& cell, const float* gradient) {
  v8 total = {};
  over_channels(grid.channels, [&](auto vectors, int64_t c, int tail) {
    constexpr int NV = decltype(vectors)::value;
    v8 g[NV], sums[8];
    load_row<NV>(gradient + c, tail, g);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      v8 row[NV];
      load_row<NV>(voxel(grid, cell, k) + c, tail, row);
      sums[k] = row[0] * g[0];
      for (int v = 1; v < NV; ++v) sums[k] = fma(row[v], g[v], sums[k]);
    }
    transpose(sums);
    total += ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  });
  return total;
}

// grad_alpha becomes the gradient of each sample's density.
void differentiate(const RayCall& call, March& march, const Grid& grid, int64_t i) {
  const auto given = [&](const float* gradient) { return gradient ? static_cast<double>(gradient[i]) : 0.0; };
  const double depth = given(call.grad_out_depth), alpha = given(call.grad_out_alpha), last = given(call.grad_out_transmittance),
               squares = given(call.grad_out_squares), spaced = given(call.grad_out_spaced_squares),
               spread = given(call.grad_out_spread);
  const int64_t n = march.count;
  std::fill_n(march.value.begin(), n, 0.0);
  if (call.grad_out_features) {
    const float* gradient = call.grad_out_features + i * call.channels;
    over_cells(march, [&](const Cell& cell, int64_t begin, int64_t end) {
      const v8 along = products(grid, cell, gradient);
      for (int64_t j = begin; j < end; ++j) {
        const v8 p = along * coefficients_of(march, j);
        march.value[j] = ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]));
      }
    });
  }
  double all = 0, all_moments = 0, seen = 0, moments = 0;
  for (int64_t j = 0; j < n; ++j) all += march.weight[j], all_moments += march.weight[j] * march.depth[j];
  for (int64_t j = 0; j < n; ++j) {
    const double w = march.weight[j], m = march.depth[j], moment = w * m;
    const double pairs = (m * seen - moments) + ((all_moments - moments - moment) - m * (all - seen - w));
    seen += w, moments += moment;
    const double g = march.value[j] + depth * m + alpha + 2 * w * (squares + spaced * march.spacing[j]) + 2 * spread * pairs;
    march.grad_weight[j] = march.counted[j] ? g : 0.0;
  }
  if (call.settings.activation == kProbability) {
    double behind = 0;
    for (int64_t j = n - 1; j >= 0; --j) {
      const double next = j + 1 < n ? march.grad_weight[j + 1] : last;
      if (march.free[j]) behind += march.grad_weight[j] - next;
      march.grad_alpha[j] = behind * march.slope[j];
    }
    return;
  }
  double passed = last;  // gradient of the transmittance behind sample j
  for (int64_t j = n - 1; j >= 0; --j) {
    const double own = march.grad_weight[j] - (march.free[j] ? passed : 0.0);
    march.grad_alpha[j] = own * march.before[j] * march.slope[j];
    passed = march.grad_weight[j] * march.alpha[j] + passed * march.passed[j];
  }
}

// The rays order[begin] .. order[end] as records by plane.
void collect(const RayCall& call, March& march, const std::vector<int64_t>& order, int64_t begin, int64_t end,
             std::vector<Record>& raw, std::vector<int32_t>& planes, Block& block, int64_t& samples, int64_t& cells) {
  raw.clear(), planes.clear();
  for (int64_t k = begin; k < end; ++k) {
    const int64_t i = order[k], scene = call.scene[i];
    const Grid grid = grid_of(call, scene);
    march.run(ray_of(call, i), grid, call.grad_density != nullptr);
    samples += march.count;
    if (call.grad_density) differentiate(call, march, grid, i);
    over_cells(march, [&](const Cell& cell, int64_t first, int64_t stop) {
      v8 features = {}, density = {};
      for (int64_t j = first; j < stop; ++j) {
        const v8 w = coefficients_of(march, j);
        if (call.grad_features) features = fma(splat1<v8>(static_cast<float>(march.weight[j])), w, features);
        if (call.grad_density) density = fma(splat1<v8>(static_cast<float>(march.grad_alpha[j])), w, density);
      }
      ++cells;
      float a[8], d[8];
      store(a, features), store(d, density);
      const int32_t at = static_cast<int32_t>(cell.y * call.size[2] + cell.z);
      for (int side = 0; side < (grid.step[0] ? 2 : 1); ++side) {
        Record record{static_cast<int32_t>(i), at, {}, {}};
        __builtin_memcpy(record.features, a + 4 * side, sizeof record.features);
        __builtin_memcpy(record.density, d + 4 * side, sizeof record.density);
        raw.push_back(record), planes.push_back(static_cast<int32_t>(scene * call.size[0] + cell.x + side));
      }
    });
  }
  block.starts.assign(call.batch * call.size[0] + 2, 0);
  block.records.resize(raw.size());
  for (const int32_t plane : planes) ++block.starts[plane + 2];
  for (size_t p = 2; p < block.starts.size(); ++p) block.starts[p] += block.starts[p - 1];
  for (size_t r = 0; r < raw.size(); ++r) block.records[block.starts[planes[r] + 1]++] = raw[r];  // starts[p + 1] ends as p's end
}

// Adds the records of one plane to its gradients.
void scatter(const RayCall& call, const std::vector<Block>& blocks, int64_t used, int64_t plane) {
  const int64_t channels = call.channels, voxels = call.size[1] * call.size[2];
  const int64_t dz = call.size[2] > 1 ? 1 : 0, dy = call.size[1] > 1 ? call.size[2] : 0;
  const int64_t steps[4] = {0, dz, dy, dy + dz};
  float* density = call.grad_density ? call.grad_density + plane * voxels : nullptr;
  float* features = call.grad_features ? call.grad_features + plane * voxels * channels : nullptr;
  for (int64_t b = 0; b < used; ++b) {
    const Record* begin = blocks[b].records.data() + blocks[b].starts[plane];
    const Record* end = blocks[b].records.data() + blocks[b].starts[plane + 1];
    if (density)
      for (const Record* r = begin; r < end; ++r)
        for (int q = 0; q < 4; ++q) density[r->at + steps[q]] += r->density[q];
    if (!features) continue;
    for (const Record* r = begin; r < end; ++r) {
      if (r + 4 < end)
        for (int q = 0; q < 4; q += 2) {
          const char* row = reinterpret_cast<const char*>(features + (r[4].at + steps[q]) * channels);
          for (int64_t byte = 0; byte < 8 * channels; byte += 64) __builtin_prefetch(row + byte, 1);
        }
      const float* gradient = call.grad_out_features + r->ray * channels;
      int64_t c = 0;
      for (; c + 16 <= channels; c += 16) {
        const v8 g0 = load<v8>(gradient + c), g1 = load<v8>(gradient + c + 8);
        for (int q = 0; q < 4; ++q) {
          float* row = features + (r->at + steps[q]) * channels + c;
          const v8 w = splat1<v8>(r->features[q]);
          store(row, fma(w, g0, load<v8>(row))), store(row + 8, fma(w, g1, load<v8>(row + 8)));
        }
      }
      if (c + 8 <= channels) {
        const v8 g0 = load<v8>(gradient + c);
        for (int q = 0; q < 4; ++q) {
          float* row = features + (r->at + steps[q]) * channels + c;
          store(row, fma(splat1<v8>(r->features[q]), g0, load<v8>(row)));
        }
        c += 8;
      }
      for (; c < channels; ++c)
        for (int q = 0; q < 4; ++q) features[(r->at + steps[q]) * channels + c] += r->features[q] * gradient[c];
    }
  }
}

void backward(const RayCall& call) {
  const std::vector<int64_t> order = order_of(call);
  std::vector<March> all = marches(call);
  const int64_t most = 2 * call.samples * static_cast<int64_t>(sizeof(Record));  // bytes of a ray's records
  const int64_t rays = std::max<int64_t>(1, std::min(kBlockRays, (kChunkBytes / 8) / most));
  const int64_t held = std::max<int64_t>(1, kChunkBytes / (most * rays)), planes = call.batch * call.size[0];
  std::vector<Block> blocks(std::min(held, (call.rays + rays - 1) / rays));
  std::atomic<bool> failed{false};
  for (int64_t first = 0; first < call.rays; first += held * rays) {
    const int64_t used = std::min(held, (call.rays - first + rays - 1) / rays);
    const double start = now();
    std::atomic<int64_t> next{0}, next_plane{0};
    int64_t samples = 0, cells = 0, records = 0;
#pragma omp parallel num_threads(call.threads) reduction(+ : samples, cells, records)
    {
      try {
        std::vector<Record> raw;
        std::vector<int32_t> which;
        for (int64_t b; !failed && (b = next.fetch_add(1)) < used;) {
          const int64_t begin = first + b * rays;
          collect(call, all[omp_get_thread_num()], order, begin, std::min(begin + rays, call.rays), raw, which, blocks[b], samples, cells);
          records += static_cast<int64_t>(raw.size());
        }
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
    if (failed) throw OutOfMemory();
    const double middle = now();
#pragma omp parallel num_threads(call.threads)
    for (int64_t p; (p = next_plane.fetch_add(1)) < planes;) scatter(call, blocks, used, p);
    if (!call.stages) continue;
    call.stages[kMarch] += middle - start, call.stages[kScatter] += now() - middle;
    call.stages[kSamples] += static_cast<double>(samples), call.stages[kCells] += static_cast<double>(cells);
    call.stages[kRecords] += static_cast<double>(records);
  }
}

template <typename F>
int32_t run(F&& work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  } catch (const OutOfMemory&) {
    return 1;
  }
}

}  // namespace

extern "C" {

// 0 on success, 1 if out of memory.
__attribute__((visibility("default"))) int32_t occ_rays_forward(const RayCall* call) {
  return run([&] { forward(*call); });
}

// Adds to grad_density and grad_features where they are not null. 0 on success, 1 if out of memory.
__attribute__((visibility("default"))) int32_t occ_rays_backward(const RayCall* call) {
  return run([&] { backward(*call); });
}
}
