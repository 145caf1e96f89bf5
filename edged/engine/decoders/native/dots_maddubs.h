// AVX2 and SSSE3: `maddubs` multiplies unsigned bytes by signed ones and adds pairs of products in 16 bits.
//
// int4: the sum of all eight pairs of a group fits into 16 bits (8 * 2 * 15 * 127 < 2^15) and is widened once.
// int8: one pair fits (2 * 127 * 127 < 2^15), with the sign of the activation moved to the weight.

#pragma once

#include "vectors.h"

namespace {

#if LANES == 8
typedef __m256i Bytes;
constexpr const char* kInstructions = "avx2";
constexpr int kRows = 4;
constexpr int parts_for(int, int rows) { return rows == 1 ? 4 : 2; }
inline Bytes repeat(int32_t x) { return _mm256_set1_epi32(x); }
inline Bytes pairs(Bytes w, Bytes x) { return _mm256_maddubs_epi16(w, x); }
inline Bytes add(Bytes a, Bytes b) { return _mm256_add_epi16(a, b); }
inline I widen(Bytes sums) { return (I)_mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
inline Bytes size_of(Bytes x) { return _mm256_abs_epi8(x); }
inline Bytes with_sign(Bytes w, Bytes x) { return _mm256_sign_epi8(w, x); }
#else
typedef __m128i Bytes;
constexpr const char* kInstructions = "ssse3";
constexpr int kRows = 4;
constexpr int parts_for(int, int rows) { return rows == 1 ? 4 : 2; }
inline Bytes repeat(int32_t x) { return _mm_set1_epi32(x); }
inline Bytes pairs(Bytes w, Bytes x) { return _mm_maddubs_epi16(w, x); }
inline Bytes add(Bytes a, Bytes b) { return _mm_add_epi16(a, b); }
inline I widen(Bytes sums) { return (I)_mm_madd_epi16(sums, _mm_set1_epi16(1)); }
inline Bytes size_of(Bytes x) { return _mm_abs_epi8(x); }
inline Bytes with_sign(Bytes w, Bytes x) { return _mm_sign_epi8(w, x); }
#endif

constexpr bool kSumsInMemory = true;
constexpr int kTogether = kGroup;
constexpr int32_t start_of(int32_t) { return 0; }

template <int BITS, int ROWS, int PARTS>
inline INLINE void group_dots(const uint8_t* weights, const int8_t* x, const int32_t*, I (&dots)[ROWS][PARTS]) {
  if constexpr (BITS == 8) {
    for (int r = 0; r < ROWS; ++r)
      for (int c = 0; c < PARTS; ++c) dots[r][c] = I{};
    unrolled<8>([&](auto k) INLINE {
      Bytes w[PARTS];
      for (int c = 0; c < PARTS; ++c) w[c] = (Bytes)(load<B>(weights + k * 4 * kBlock + c * 4 * LANES) ^ 0x80);
      for (int r = 0; r < ROWS; ++r) {
        const Bytes four = repeat(load<int32_t>(x + r * kGroup + 4 * k)), size = size_of(four);
        for (int c = 0; c < PARTS; ++c) dots[r][c] = opaque(dots[r][c] + widen(pairs(size, with_sign(w[c], four))));
      }
    });
  } else {
    Bytes sums[ROWS][PARTS];
    unrolled<4>([&](auto k) INLINE {
      B loaded[PARTS];
      for (int c = 0; c < PARTS; ++c) loaded[c] = load<B>(weights + k * 4 * kBlock + c * 4 * LANES);
      unrolled<2>([&](auto half) INLINE {
        Bytes w[PARTS];
        for (int c = 0; c < PARTS; ++c) w[c] = (Bytes)((half == 0 ? loaded[c] : (B)((U)loaded[c] >> 4)) & 15);
        for (int r = 0; r < ROWS; ++r) {
          const Bytes four = repeat(load<int32_t>(x + r * kGroup + 8 * k + 4 * half));
          for (int c = 0; c < PARTS; ++c) {
            const Bytes both = pairs(w[c], four);
            sums[r][c] = opaque(k == 0 && half == 0 ? both : add(sums[r][c], both));
          }
        }
      });
    });
    for (int r = 0; r < ROWS; ++r)
      for (int c = 0; c < PARTS; ++c) dots[r][c] = widen(sums[r][c]);
  }
}

}  // namespace
