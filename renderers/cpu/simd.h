// A vector of kLanes floats on GCC/Clang vector extensions, with intrinsics where the compiler needs a hint. The same
// source is compiled for AVX-512, AVX2+FMA and the baseline of the platform; OCC_LANES forces a width, for tests.
#pragma once
#include <cstdint>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(OCC_LANES)
constexpr int kLanes = OCC_LANES;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vf __attribute__((vector_size(4 * kLanes)));
typedef int32_t vi __attribute__((vector_size(4 * kLanes)));
typedef float v8 __attribute__((vector_size(32)));  // a column of the gradient matrix, or the eight rows of a block

template <typename V>
inline V load(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <typename V>
inline void store(float* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <typename V>
inline V splat1(float x) {
  return x - V{};  // folds into a broadcast, unlike x + 0, which is not x for x = -0
}

#if defined(__FMA__)
inline v8 fma(v8 a, v8 b, v8 c) { return (v8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline v8 fnma(v8 a, v8 b, v8 c) { return (v8)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
inline v8 fma(v8 a, v8 b, v8 c) { return a * b + c; }
inline v8 fnma(v8 a, v8 b, v8 c) { return c - a * b; }
#endif

#if defined(__AVX512F__)
inline vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline vf fnma(vf a, vf b, vf c) { return (vf)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c); }
typedef __mmask16 vm;
inline vm all_lanes() { return 0xffff; }
inline vm at_least(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ); }
inline vm both(vm a, vm b) { return a & b; }
inline vm either(vm a, vm b) { return a | b; }
inline vf keep(vm m, vf a) { return (vf)_mm512_maskz_mov_ps(m, (__m512)a); }
inline vf choose(vm m, vf a, vf b) { return (vf)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a); }
inline bool any(vm m) { return m != 0; }
inline bool any_set(vf a, vf b) { return _mm512_test_epi32_mask((__m512i)a | (__m512i)b, (__m512i)a | (__m512i)b) != 0; }
inline uint32_t bits(vm m) { return m; }
inline vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
inline vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
inline float sum(vf a) { return _mm512_reduce_add_ps((__m512)a); }
#else
typedef vi vm;
inline vm all_lanes() { return ~vi{}; }
inline vm at_least(vf a, vf b) { return a >= b; }
inline vm both(vm a, vm b) { return a & b; }
inline vm either(vm a, vm b) { return a | b; }
inline vf keep(vm m, vf a) { return (vf)((vi)a & m); }
inline vf choose(vm m, vf a, vf b) { return m ? a : b; }
#if defined(__AVX2__) && !defined(OCC_LANES)
inline bool any(vm m) { return !_mm256_testz_si256((__m256i)m, (__m256i)m); }
inline uint32_t bits(vm m) { return static_cast<uint32_t>(_mm256_movemask_ps((__m256)m)); }
inline vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
inline vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
inline float sum(vf a) {
  const __m256 x = (__m256)a;
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
#else
inline bool any(vm m) {
  int64_t words[kLanes / 2], seen = 0;
  __builtin_memcpy(words, &m, sizeof words);
  for (int64_t w : words) seen |= w;
  return seen != 0;
}
inline uint32_t bits(vm m) {
  uint32_t out = 0;
  for (int i = 0; i < kLanes; ++i) out |= static_cast<uint32_t>(m[i] & 1) << i;
  return out;
}
inline vf vmin(vf a, vf b) { return (vf)(((vi)a & (a < b)) | ((vi)b & ~(a < b))); }
inline vf vmax(vf a, vf b) { return (vf)(((vi)a & (a > b)) | ((vi)b & ~(a > b))); }
#if !defined(__AVX2__) || (defined(OCC_LANES) && OCC_LANES != 8)
inline vf fma(vf a, vf b, vf c) { return a * b + c; }
inline vf fnma(vf a, vf b, vf c) { return c - a * b; }
#endif
inline float sum(vf a) {  // pairwise, in a fixed order
  float lane[kLanes];
  store(lane, a);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}
#endif
#endif

inline vf root(vf a) {  // correctly rounded, as that of one number
#if defined(__AVX512F__)
  return (vf)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__) && !defined(OCC_LANES)
  return (vf)_mm256_sqrt_ps((__m256)a);
#else
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}

// Whether any of eight lanes of a comparison is set.
template <typename I>
inline bool any8(I m) {
#if defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#else
  int64_t words[4];
  __builtin_memcpy(words, &m, sizeof words);
  return (words[0] | words[1] | words[2] | words[3]) != 0;
#endif
}

// The sums of six vectors, then two zeros, each with the additions of `sum`.
inline v8 sums(const vf v[6]) {
#if defined(__AVX2__) && (defined(__AVX512F__) || !defined(OCC_LANES))
  __m256 half[6];
  for (int i = 0; i < 6; ++i) {
#if defined(__AVX512F__)
    half[i] = _mm256_add_ps(_mm512_castps512_ps256((__m512)v[i]), _mm512_extractf32x8_ps((__m512)v[i], 1));
#else
    half[i] = (__m256)v[i];
#endif
  }
  const auto fold = [](__m256 a, __m256 b) {  // a in the low half, b in the high one, four lanes each
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  };
  const auto pairs = [](__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  };
  const __m256 zero = _mm256_setzero_ps();
  const __m256 first = pairs(fold(half[0], half[4]), fold(half[1], half[5]));
  const __m256 second = pairs(fold(half[2], zero), fold(half[3], zero));
  return (v8)_mm256_add_ps(_mm256_shuffle_ps(first, second, 0x88), _mm256_shuffle_ps(first, second, 0xdd));
#else
  v8 out = {};
  for (int i = 0; i < 6; ++i) out[i] = sum(v[i]);
  return out;
#endif
}

#if !defined(__AVX512F__)
inline bool any_set(vf a, vf b) { return any((vi)a | (vi)b); }  // whether any bit of a number is
#endif

// Rows become columns.
inline void transpose(v8 r[8]) {
  typedef int32_t i8 __attribute__((vector_size(32)));
  const i8 low = {0, 8, 1, 9, 4, 12, 5, 13}, high = {2, 10, 3, 11, 6, 14, 7, 15};
  const i8 low2 = {0, 1, 8, 9, 4, 5, 12, 13}, high2 = {2, 3, 10, 11, 6, 7, 14, 15};
  const i8 first = {0, 1, 2, 3, 8, 9, 10, 11}, second = {4, 5, 6, 7, 12, 13, 14, 15};
  v8 a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = __builtin_shuffle(r[2 * i], r[2 * i + 1], low);
    a[2 * i + 1] = __builtin_shuffle(r[2 * i], r[2 * i + 1], high);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = __builtin_shuffle(a[4 * i], a[4 * i + 2], low2);
    b[4 * i + 1] = __builtin_shuffle(a[4 * i], a[4 * i + 2], high2);
    b[4 * i + 2] = __builtin_shuffle(a[4 * i + 1], a[4 * i + 3], low2);
    b[4 * i + 3] = __builtin_shuffle(a[4 * i + 1], a[4 * i + 3], high2);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = __builtin_shuffle(b[i], b[i + 4], first);
    r[i + 4] = __builtin_shuffle(b[i], b[i + 4], second);
  }
}

// 2^x, relative error below 2e-7 for x in [-126, 127] (minimax polynomial of degree 5 on [-0.5, 0.5]: 7.5e-8, plus rounding).
template <typename V>
inline V exp2_within(V x) {
  using I = decltype(x < x);
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves round(x) in the low bits of the mantissa
  const V shifted = x + magic;
  const V f = x - (shifted - magic);
  V p = splat1<V>(0.0013276471992851953f);
  p = fma(p, f, splat1<V>(0.009675541334449414f));
  p = fma(p, f, splat1<V>(0.05550713273496898f));
  p = fma(p, f, splat1<V>(0.24022119723840105f));
  p = fma(p, f, splat1<V>(0.6931469670647613f));
  p = fma(p, f, splat1<V>(1.0000000716546849f));
  return (V)((I)p + ((I)shifted << 23));
}

// Likewise; x below -100 give 2^-100.
inline vf exp2_clamped(vf x) { return exp2_within<vf>(vmax(x, splat1<vf>(-100.0f))); }

}  // namespace
