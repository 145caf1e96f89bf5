// Intel's VNNI, 512 or 256 bits: one instruction multiplies four unsigned bytes by four signed ones and adds all to a lane.
// int8 weights stay as they are stored, w + 128; the sums start at -128 times the sum of the activations.

#pragma once

#include "vectors.h"

namespace {

#if LANES == 16
constexpr const char* kInstructions = "avx512vnni";
constexpr int kRows = 6;  // 32 registers hold two vectors of six rows, in integers and in floats
constexpr int parts_for(int, int) { return 2; }
inline I dot(I sums, B w, int32_t x) { return (I)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, _mm512_set1_epi32(x)); }
#else
constexpr const char* kInstructions = "avxvnni";
constexpr int kRows = 4;
constexpr int parts_for(int, int rows) { return rows == 1 ? 4 : 2; }
inline I dot(I sums, B w, int32_t x) {
  return (I)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)w, _mm256_set1_epi32(x));
}
#endif

constexpr bool kSumsInMemory = LANES < 16;
constexpr int kTogether = kGroup;
constexpr int32_t start_of(int32_t sum) { return -128 * sum; }

template <int BITS, int ROWS, int PARTS>
inline INLINE void group_dots(const uint8_t* weights, const int8_t* x, const int32_t* starts, I (&dots)[ROWS][PARTS]) {
  constexpr int kPerLoad = BITS == 8 ? 1 : 2;  // quadruples in a byte
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < PARTS; ++c) dots[r][c] = BITS == 8 ? I{} + starts[r] : I{};
  unrolled<8 / kPerLoad>([&](auto k) INLINE {
    B loaded[PARTS];
    for (int c = 0; c < PARTS; ++c) loaded[c] = load<B>(weights + k * 4 * kBlock + c * 4 * LANES);
    unrolled<kPerLoad>([&](auto half) INLINE {
      for (int r = 0; r < ROWS; ++r) {
        const int32_t four = load<int32_t>(x + r * kGroup + 4 * (kPerLoad * k + half));
        for (int c = 0; c < PARTS; ++c) {
          const B w = BITS == 8 ? loaded[c] : half == 0 ? loaded[c] & 15 : (B)((U)loaded[c] >> 4) & 15;
          dots[r][c] = dot(dots[r][c], w, four);
        }
      }
    });
  });
}

}  // namespace
