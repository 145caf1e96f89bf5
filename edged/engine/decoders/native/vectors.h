// Vectors of the instruction set that this file is compiled for: their types, and what is done with them.
//
// The compiler's own macros choose the code. The library is compiled once for each instruction set.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include <immintrin.h>
#define LANES 16
#define TILE_PARTS 2  // 32 registers hold two vectors of six rows, in integers and in floats
#define TILE_ROWS 6
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#define TILE_PARTS 2  // 16 registers hold two vectors of three rows, nearly
#define TILE_ROWS 3
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#define LANES 4
#define TILE_PARTS 4
#define TILE_ROWS 3
#else
#define LANES 4
#define TILE_PARTS 4
#define TILE_ROWS 2
#endif

namespace {

constexpr int kBlock = 32;  // output channels
constexpr int kGroup = 32;  // inputs
constexpr int kTile = TILE_PARTS * LANES;  // output channels that are computed together
constexpr int kHalf = kBlock / 2;          // of a block: gate and up stand in halves, keys in sixteens
constexpr int kHalfParts = kHalf / LANES;

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint8_t B __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));

template <typename V, typename T>
inline V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V, typename T>
inline void store(T* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

inline F spread(float x) { return F{} + x; }

inline F from_bf16(const uint16_t* x) {
#if LANES == 16
  return (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(x)), 16);
#elif LANES == 8
  return (F)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(x)), 16);
#else
  return (F)(__builtin_convertvector(load<H>(x), U) << 16);
#endif
}

inline float of_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t to_bf16(float x) {  // to nearest, ties to even; x is finite
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float sum(F x) {
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += x[i];
  return total;
}

inline float largest(F x) {
  float top = x[0];
  for (int i = 1; i < LANES; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// e^x, to about two units in the last place (Cody and Waite 1980: reduce by ln 2, then a polynomial).
inline F exponential(F x) {
  x = x < -87.0f ? spread(-87.0f) : x;
  x = x > 88.0f ? spread(88.0f) : x;
  const F shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the addition rounds to an integer
  const F n = shifted - 12582912.0f;
  const F r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  F p = spread(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * (F)((__builtin_convertvector(n, I) + 127) << 23);
}

// The dot product of four neighbouring bytes, in each lane: `dot<4>` multiplies nibbles (0..15) by int8, `dot<8>`
// weights stored as w + 128 by int8. Where the instruction wants unsigned weights they stay as they are stored, and
// `start` takes 128 times the sum of the activations off.

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
template <int BITS> inline B weights(B w) { return w; }
template <int BITS> inline I start(int32_t activations) { return I{} - (BITS == 8 ? 128 * activations : 0); }
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  return (I)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, _mm512_set1_epi32(x));
}
#elif defined(__AVX2__) && defined(__AVXVNNI__)
template <int BITS> inline B weights(B w) { return w; }
template <int BITS> inline I start(int32_t activations) { return I{} - (BITS == 8 ? 128 * activations : 0); }
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  return (I)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)w, _mm256_set1_epi32(x));
}
#else
template <int BITS> inline B weights(B w) { return BITS == 8 ? w ^ 0x80 : w; }
template <int BITS> inline I start(int32_t) { return I{}; }
#if defined(__AVX2__)
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  // Pairs of products are added in 16 bits. No pair overflows: 2 * 15 * 127, and 2 * 127 * 127 < 2^15.
  const __m256i xs = _mm256_set1_epi32(x);
  const __m256i pairs = BITS == 4 ? _mm256_maddubs_epi16((__m256i)w, xs)
                                  : _mm256_maddubs_epi16(_mm256_abs_epi8(xs), _mm256_sign_epi8((__m256i)w, xs));
  return sums + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#elif defined(__ARM_FEATURE_DOTPROD)
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  return (I)vdotq_s32((int32x4_t)sums, (int8x16_t)w, vreinterpretq_s8_s32(vdupq_n_s32(x)));
}
#else
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  int8_t xs[4];
  std::memcpy(xs, &x, 4);
  for (int lane = 0; lane < LANES; ++lane)
    for (int i = 0; i < 4; ++i) sums[lane] += static_cast<int8_t>(w[4 * lane + i]) * xs[i];
  return sums;
}
#endif
#endif

// Which code the compiler took.
constexpr const char* kInstructions =
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    "avx512vnni";
#elif defined(__AVX2__) && defined(__AVXVNNI__)
    "avxvnni";
#elif defined(__AVX2__)
    "avx2";
#elif defined(__ARM_FEATURE_DOTPROD)
    "dotprod";
#else
    "portable";
#endif

}  // namespace
