// AVX-512 without VNNI: pairs of products are added in 16 bits. Weights are taken as nibbles (int8's w + 128 as two of
// them), because the sum of all eight pairs of a group then fits into 16 bits: 8 * 2 * 15 * 127 < 2^15.

#pragma once

#include "vectors.h"

namespace {

constexpr const char* kInstructions = "avx512";
constexpr int kRows = 6;
constexpr int parts_for(int bits, int rows) { return bits == 8 && rows > 4 ? 1 : 2; }
constexpr bool kSumsInMemory = false;
constexpr int kTogether = kGroup;
constexpr int32_t start_of(int32_t sum) { return -128 * sum; }

// The pairs of nibbles of all ROWS rows are added to their 16-bit sums.
inline __m512i add_pairs(__m512i sums, B nibbles, int32_t x) {
  return opaque(_mm512_add_epi16(sums, _mm512_maddubs_epi16((__m512i)nibbles, _mm512_set1_epi32(x))));
}

inline B low_nibbles(B w) { return w & 15; }
inline B high_nibbles(B w) { return (B)((U)w >> 4) & 15; }

template <int BITS, int ROWS, int PARTS>
inline INLINE void group_dots(const uint8_t* weights, const int8_t* x, const int32_t* starts, I (&dots)[ROWS][PARTS]) {
  __m512i low[ROWS][PARTS], high[ROWS][PARTS];  // int4 uses `low` alone
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < PARTS; ++c) low[r][c] = high[r][c] = _mm512_setzero_si512();
  unrolled<BITS == 8 ? 8 : 4>([&](auto k) INLINE {
    for (int c = 0; c < PARTS; ++c) {
      const B loaded = load<B>(weights + k * 4 * kBlock + c * 4 * LANES);
      const B lower = low_nibbles(loaded), upper = high_nibbles(loaded);
      for (int r = 0; r < ROWS; ++r) {
        if constexpr (BITS == 8) {
          const int32_t four = load<int32_t>(x + r * kGroup + 4 * k);
          low[r][c] = add_pairs(low[r][c], lower, four);
          high[r][c] = add_pairs(high[r][c], upper, four);
        } else {
          low[r][c] = add_pairs(low[r][c], lower, load<int32_t>(x + r * kGroup + 8 * k));
          low[r][c] = add_pairs(low[r][c], upper, load<int32_t>(x + r * kGroup + 8 * k + 4));
        }
      }
    }
  });
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < PARTS; ++c) {
      dots[r][c] = (I)_mm512_madd_epi16(low[r][c], _mm512_set1_epi16(1));
      if constexpr (BITS == 8) dots[r][c] += (I)_mm512_madd_epi16(high[r][c], _mm512_set1_epi16(16)) + starts[r];
    }
}

}  // namespace
