// Vectors of the instruction set that this file is compiled for: their types, and what is done with them.
//
// The compiler's own macros choose the code. The library is compiled once for each instruction set. No compiler may
// join a product and a sum on its own (-ffp-contract=off): `multiply_add` says where that is wanted, so that a result
// does not depend on how a loop was unrolled.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#elif defined(__SSSE3__)
#include <tmmintrin.h>
#define LANES 4
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define LANES 4
#else
#define LANES 4
#endif

#define INLINE __attribute__((always_inline))

namespace {

constexpr int kBlock = 32;  // output channels
constexpr int kGroup = 32;  // inputs
constexpr int kHalf = kBlock / 2;  // of a block: gate and up stand in halves, keys in sixteens
constexpr int kHalfParts = kHalf / LANES;
constexpr int kBlockParts = kBlock / LANES;

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint8_t B __attribute__((vector_size(4 * LANES)));

// Calls body(0), ..., body(N - 1); each number is a constant to the compiler.
template <int N, typename Body>
inline INLINE void unrolled(Body body) {
  [&]<int... I>(std::integer_sequence<int, I...>) INLINE {
    (body(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

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

// A vector about which the compiler knows nothing: sums stay in the order that they are written in. Compilers like to add
// all products of a group in a tree, for which there are too few registers.
template <typename V>
inline V opaque(V x) {
#if defined(__x86_64__)
  asm("" : "+v"(x));
#elif defined(__ARM_NEON)
  asm("" : "+w"(x));
#endif
  return x;
}

inline F spread(float x) { return x - F{}; }  // which compilers know to be x, unlike x + 0

// sum + x * y. Rounded once where the CPU has an instruction for it, else twice.
inline F multiply_add(F sum, F x, F y) {
#if LANES == 16
  return (F)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)sum);
#elif LANES == 8
  return (F)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)sum);
#elif defined(__ARM_NEON)
  return (F)vfmaq_f32((float32x4_t)sum, (float32x4_t)x, (float32x4_t)y);
#else
  return sum + x * y;
#endif
}

// Four floats that stand in a row in memory, each of which is multiplied by whole vectors.
class Four {
 public:
#if defined(__ARM_NEON)
  explicit Four(const float* from) : values_(vld1q_f32(from)) {}

  template <int I> F times(F x) const { return (F)vmulq_laneq_f32((float32x4_t)x, values_, I); }
  template <int I> F times_plus(F x, F sum) const {
    return (F)vfmaq_laneq_f32((float32x4_t)sum, (float32x4_t)x, values_, I);
  }

 private:
  float32x4_t values_;
#else
  explicit Four(const float* from) : values_(from) {}

  template <int I> F times(F x) const { return x * spread(values_[I]); }
  template <int I> F times_plus(F x, F sum) const { return multiply_add(sum, x, spread(values_[I])); }

 private:
  const float* values_;
#endif
};

#if defined(__ARM_NEON)
// Four integers that stand in a row in memory, each of which is multiplied by whole vectors.
class FourWhole {
 public:
  explicit FourWhole(const int32_t* from) : values_(vld1q_s32(from)) {}

  template <int K> I times_plus(I x, I sum) const { return (I)vmlaq_laneq_s32((int32x4_t)sum, (int32x4_t)x, values_, K); }

 private:
  int32x4_t values_;
};
#endif

// PARTS vectors of bf16.
template <int PARTS>
inline void from_bf16(const uint16_t* x, F (&to)[PARTS]) {
#if LANES == 16
  for (int c = 0; c < PARTS; ++c)
    to[c] = (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(x + c * LANES)), 16);
#elif LANES == 8
  for (int c = 0; c < PARTS; ++c)
    to[c] = (F)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(x + c * LANES)), 16);
#else
  static_assert(PARTS == 1 || PARTS % 2 == 0);
  typedef uint16_t H __attribute__((vector_size(4 * LANES)));
  typedef uint16_t Low __attribute__((vector_size(2 * LANES)));
  if constexpr (PARTS == 1) {
    const Low low = load<Low>(x);
#if defined(__ARM_NEON)
    to[0] = (F)vshll_n_u16((uint16x4_t)low, 16);
#else
    to[0] = (F)(H){0, low[0], 0, low[1], 0, low[2], 0, low[3]};
#endif
  } else {
    for (int c = 0; c < PARTS; c += 2) {
      const H both = load<H>(x + c * LANES);
#if defined(__ARM_NEON)
      to[c] = (F)vshll_n_u16(vget_low_u16((uint16x8_t)both), 16);
      to[c + 1] = (F)vshll_high_n_u16((uint16x8_t)both, 16);
#elif defined(__SSSE3__)
      to[c] = (F)_mm_unpacklo_epi16(_mm_setzero_si128(), (__m128i)both);
      to[c + 1] = (F)_mm_unpackhi_epi16(_mm_setzero_si128(), (__m128i)both);
#else
      to[c] = (F)(H){0, both[0], 0, both[1], 0, both[2], 0, both[3]};
      to[c + 1] = (F)(H){0, both[4], 0, both[5], 0, both[6], 0, both[7]};
#endif
    }
  }
#endif
}

// PARTS vectors of bytes without sign, as integers.
template <int PARTS>
inline INLINE void from_bytes(const uint8_t* x, I (&to)[PARTS]) {
#if LANES == 16
  for (int c = 0; c < PARTS; ++c) to[c] = (I)_mm512_cvtepu8_epi32(load<__m128i>(x + c * LANES));
#elif LANES == 8
  for (int c = 0; c < PARTS; ++c) to[c] = (I)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(x + c * LANES)));
#elif defined(__SSSE3__) || defined(__ARM_NEON)
  unrolled<PARTS>([&](auto c) INLINE {
    B four{};  // vectors, or fewer
    std::memcpy(&four, x + c / 4 * 16, PARTS < 4 ? PARTS * LANES : 16);
    constexpr uint8_t k = c % 4 * 4;
    const B places = {k, 255, 255, 255, k + 1, 255, 255, 255, k + 2, 255, 255, 255, k + 3, 255, 255, 255};  // 255: zero
#if defined(__ARM_NEON)
    to[c] = (I)vqtbl1q_u8((uint8x16_t)four, (uint8x16_t)places);
#else
    to[c] = (I)_mm_shuffle_epi8((__m128i)four, (__m128i)places);
#endif
  });
#else
  for (int c = 0; c < PARTS; ++c)
    for (int i = 0; i < LANES; ++i) to[c][i] = x[c * LANES + i];
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

// The sum of sixteen numbers. Long sums are kept in sixteen parts, however many lanes a vector has, so that every CPU that
// rounds once in `multiply_add` gives the same bits.
inline float sum(const F (&x)[kHalfParts]) {
  float total = 0;
  for (int c = 0; c < kHalfParts; ++c)
    for (int i = 0; i < LANES; ++i) total += x[c][i];
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
  const F shifted = multiply_add(spread(12582912.0f), x, spread(1.44269504f));  // 1.5 * 2^23: rounds to an integer
  const F n = shifted - 12582912.0f;
  const F r = multiply_add(multiply_add(x, n, spread(-0.693359375f)), n, spread(2.12194440e-4f));
  F p = spread(1.9875691500e-4f);
  for (const float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = multiply_add(spread(term), p, r);
  p = multiply_add(r, p, r * r) + 1.0f;
  return p * (F)((__builtin_convertvector(n, I) + 127) << 23);
}

}  // namespace
