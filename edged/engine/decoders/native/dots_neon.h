// ARMv8.0 (Cortex-A53, A72): signed bytes are multiplied into 16 bits, eight at a time; no dot product.
//
// int4: the sum of a group's eight products, and of two such sums, fits into 16 bits (2 * 8 * 15 * 127 < 2^15).
// int8: the sum of two products fits (2 * 127 * 127 < 2^15); it is added in pairs to sums of 32 bits.

#pragma once

#include "vectors.h"

#define TILE __attribute__((noinline))

namespace {

constexpr const char* kInstructions = "neon";
constexpr int kRows = 4;
constexpr bool kSumsInMemory = false;
constexpr int kTogether = kGroup;
constexpr int parts_for(int, int rows) { return rows <= 2 ? 4 : 2; }
constexpr int32_t start_of(int32_t) { return 0; }

// clang would, where both halves of a multiplier are alike, move the weights' upper half down by an instruction of its
// own to multiply by the lower half: hence `opaque`.

// One of the four quadruples of `x` in all lanes.
template <int QUADRUPLE>
inline int8x16_t repeat(int8x16_t x) {
  return opaque(vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), QUADRUPLE)));
}

inline int16x8_t low_products(int8x16_t w, int8x16_t x) { return vmull_s8(vget_low_s8(w), vget_low_s8(x)); }
inline int16x8_t add_low(int16x8_t sums, int8x16_t w, int8x16_t x) {
  return vmlal_s8(sums, vget_low_s8(w), vget_low_s8(x));
}

template <int ROWS, int PARTS>
inline INLINE void group_dots8(const uint8_t* weights, const int8_t* x, I (&dots)[ROWS][PARTS]) {
  int32x4_t low[ROWS][PARTS], high[ROWS][PARTS];  // the first and the last two channels, in two sums each
  int8x16_t four[ROWS];
  unrolled<4>([&](auto k) INLINE {
    int8x16_t first[ROWS], second[ROWS];
    for (int r = 0; r < ROWS; ++r) {
      if (k % 2 == 0) four[r] = vld1q_s8(x + r * kGroup + 8 * k);
      first[r] = repeat<k % 2 * 2>(four[r]);
      second[r] = repeat<k % 2 * 2 + 1>(four[r]);
    }
    for (int c = 0; c < PARTS; ++c) {
      const uint8_t* at = weights + 2 * k * 4 * kBlock + c * 4 * LANES;
      const int8x16_t w = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at), vdupq_n_u8(0x80)));
      const int8x16_t next = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at + 4 * kBlock), vdupq_n_u8(0x80)));
      for (int r = 0; r < ROWS; ++r) {
        const int16x8_t lower = add_low(low_products(w, first[r]), next, second[r]);
        const int16x8_t upper = vmlal_high_s8(vmull_high_s8(w, first[r]), next, second[r]);
        low[r][c] = k == 0 ? vpaddlq_s16(lower) : vpadalq_s16(low[r][c], lower);
        high[r][c] = k == 0 ? vpaddlq_s16(upper) : vpadalq_s16(high[r][c], upper);
      }
    }
  });
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < PARTS; ++c) dots[r][c] = (I)vpaddq_s32(low[r][c], high[r][c]);
}

// A sum that is added to next. With several rows there are too few registers for sums that must be kept as they are.
template <int ROWS>
inline int16x8_t chained(int16x8_t sums) { return ROWS == 1 ? opaque(sums) : sums; }

template <int ROWS, int PARTS>
inline INLINE void group_dots4(const uint8_t* weights, const int8_t* x, I (&dots)[ROWS][PARTS]) {
  int16x8_t low[ROWS][PARTS], high[ROWS][PARTS];  // the first and the last two channels, in four sums each
  int8x16_t four[ROWS];
  unrolled<4>([&](auto k) INLINE {
    int8x16_t first[ROWS], second[ROWS];
    for (int r = 0; r < ROWS; ++r) {
      if (k % 2 == 0) four[r] = vld1q_s8(x + r * kGroup + 8 * k);
      first[r] = repeat<k % 2 * 2>(four[r]);
      second[r] = repeat<k % 2 * 2 + 1>(four[r]);
    }
    for (int c = 0; c < PARTS; ++c) {
      const uint8x16_t loaded = vld1q_u8(weights + k * 4 * kBlock + c * 4 * LANES);
      const int8x16_t w = vreinterpretq_s8_u8(vandq_u8(loaded, vdupq_n_u8(15)));
      const int8x16_t next = vreinterpretq_s8_u8(vshrq_n_u8(loaded, 4));
      for (int r = 0; r < ROWS; ++r) {
        low[r][c] = chained<ROWS>(k == 0 ? low_products(w, first[r]) : add_low(low[r][c], w, first[r]));
        high[r][c] = chained<ROWS>(k == 0 ? vmull_high_s8(w, first[r]) : vmlal_high_s8(high[r][c], w, first[r]));
        low[r][c] = chained<ROWS>(add_low(low[r][c], next, second[r]));
        high[r][c] = chained<ROWS>(vmlal_high_s8(high[r][c], next, second[r]));
      }
    }
  });
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < PARTS; ++c) dots[r][c] = (I)vpaddlq_s16(vpaddq_s16(low[r][c], high[r][c]));
}

template <int BITS, int ROWS, int PARTS>
inline INLINE void group_dots(const uint8_t* weights, const int8_t* x, const int32_t*, I (&dots)[ROWS][PARTS]) {
  if constexpr (BITS == 8)
    group_dots8<ROWS, PARTS>(weights, x, dots);
  else
    group_dots4<ROWS, PARTS>(weights, x, dots);
}

}  // namespace
