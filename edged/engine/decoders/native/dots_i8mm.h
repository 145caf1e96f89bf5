// ARM's matrix products of bytes (ARMv8.6, some 8.2: Cortex-A510, A710, Neoverse V1): two channels by eight inputs times
// two rows by eight inputs, unsigned weights and signed activations. int8 weights stay as they are stored, w + 128; the
// sums start at -128 times the sum of the activations. A row alone takes the dot product of mixed signs.

#pragma once

#include "vectors.h"

namespace {

constexpr const char* kInstructions = "i8mm";
constexpr int kRows = 8;
constexpr int parts_for(int, int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : rows <= 4 ? 2 : 1; }
constexpr bool kSumsInMemory = false;
constexpr int kTogether = 8;  // so that 16 bytes hold two rows
constexpr int32_t start_of(int32_t sum) { return -128 * sum; }

inline uint8x16_t low_nibbles(uint8x16_t w) { return vandq_u8(w, vdupq_n_u8(15)); }
inline uint8x16_t high_nibbles(uint8x16_t w) { return vshrq_n_u8(w, 4); }

template <int BITS, int PARTS>
inline INLINE void one_row(const uint8_t* weights, const int8_t* x, const int32_t* starts, I (&dots)[1][PARTS]) {
  int32x4_t sums[PARTS];
  for (int c = 0; c < PARTS; ++c) sums[c] = vdupq_n_s32(BITS == 8 ? *starts : 0);
  unrolled<2>([&](auto half) INLINE {  // of the group: four quadruples
    const int8x16_t four = vld1q_s8(x + 16 * half);
    unrolled<BITS / 2>([&](auto k) INLINE {
      for (int c = 0; c < PARTS; ++c) {
        const uint8x16_t loaded = vld1q_u8(weights + (BITS / 2 * half + k) * 4 * kBlock + c * 4 * LANES);
        if constexpr (BITS == 8) {
          sums[c] = vusdotq_laneq_s32(sums[c], loaded, four, k);
        } else {
          sums[c] = vusdotq_laneq_s32(sums[c], low_nibbles(loaded), four, 2 * k);
          sums[c] = vusdotq_laneq_s32(sums[c], high_nibbles(loaded), four, 2 * k + 1);
        }
      }
    });
  });
  for (int c = 0; c < PARTS; ++c) dots[0][c] = (I)sums[c];
}

template <int BITS, int ROWS, int PARTS>
inline INLINE void row_pairs(const uint8_t* weights, const int8_t* x, const int32_t* starts, I (&dots)[ROWS][PARTS]) {
  constexpr int kPairs = (ROWS + 1) / 2;  // the last one's second row is none, if their number is odd
  int32x4_t low[kPairs][PARTS], high[kPairs][PARTS];  // of the first and the last two channels: two rows of each
  for (int p = 0; p < kPairs; ++p) {
    const int32x2_t start = BITS == 8 ? vld1_s32(starts + 2 * p) : vdup_n_s32(0);
    for (int c = 0; c < PARTS; ++c) low[p][c] = high[p][c] = vcombine_s32(start, start);
  }
  unrolled<4>([&](auto k) INLINE {  // eight inputs
    int8x16_t rows[kPairs];
    for (int p = 0; p < kPairs; ++p) rows[p] = vld1q_s8(x + (k * ROWS + 2 * p) * kTogether);
    for (int c = 0; c < PARTS; ++c) {
      uint32x4_t first, second;  // quadruples
      if constexpr (BITS == 8) {
        first = vreinterpretq_u32_u8(vld1q_u8(weights + 2 * k * 4 * kBlock + c * 4 * LANES));
        second = vreinterpretq_u32_u8(vld1q_u8(weights + (2 * k + 1) * 4 * kBlock + c * 4 * LANES));
      } else {
        const uint8x16_t loaded = vld1q_u8(weights + k * 4 * kBlock + c * 4 * LANES);
        first = vreinterpretq_u32_u8(low_nibbles(loaded));
        second = vreinterpretq_u32_u8(high_nibbles(loaded));
      }
      const uint8x16_t lower = vreinterpretq_u8_u32(vzip1q_u32(first, second));
      const uint8x16_t upper = vreinterpretq_u8_u32(vzip2q_u32(first, second));
      for (int p = 0; p < kPairs; ++p) {
        low[p][c] = vusmmlaq_s32(low[p][c], lower, rows[p]);
        high[p][c] = vusmmlaq_s32(high[p][c], upper, rows[p]);
      }
    }
  });
  unrolled<ROWS>([&](auto r) INLINE {
    for (int c = 0; c < PARTS; ++c) {
      const int32x4_t lower = low[r / 2][c], upper = high[r / 2][c];
      dots[r][c] = (I)(r % 2 == 0 ? vuzp1q_s32(lower, upper) : vuzp2q_s32(lower, upper));
    }
  });
}

template <int BITS, int ROWS, int PARTS>
inline INLINE void group_dots(const uint8_t* weights, const int8_t* x, const int32_t* starts, I (&dots)[ROWS][PARTS]) {
  if constexpr (ROWS == 1)
    one_row<BITS, PARTS>(weights, x, starts, dots);
  else
    row_pairs<BITS, ROWS, PARTS>(weights, x, starts, dots);
}

}  // namespace
