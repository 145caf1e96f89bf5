// ARM's dot product (ARMv8.2 and newer: Cortex-A76, Neoverse N1): four signed bytes times four, added to a lane. The
// activations' quadruple is one lane of a register, so that a load of 16 bytes serves four of them.

#pragma once

#include "vectors.h"

namespace {

constexpr const char* kInstructions = "dotprod";
constexpr int kRows = 8;
constexpr bool kSumsInMemory = false;
constexpr int kTogether = 16;
constexpr int parts_for(int, int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : rows <= 4 ? 2 : 1; }
constexpr int32_t start_of(int32_t) { return 0; }

template <int BITS, int ROWS, int PARTS>
inline INLINE void group_dots(const uint8_t* weights, const int8_t* x, const int32_t*, I (&dots)[ROWS][PARTS]) {
  constexpr int kPerLoad = BITS == 8 ? 1 : 2;  // quadruples in a byte
  int32x4_t sums[ROWS][PARTS];
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < PARTS; ++c) sums[r][c] = vdupq_n_s32(0);
  unrolled<2>([&](auto half) INLINE {  // of the group: four quadruples
    int8x16_t four[ROWS];
    for (int r = 0; r < ROWS; ++r) four[r] = vld1q_s8(x + (half * ROWS + r) * kTogether);
    unrolled<4 / kPerLoad>([&](auto k) INLINE {
      constexpr int at = (4 / kPerLoad) * half + k;
      for (int c = 0; c < PARTS; ++c) {
        const uint8x16_t loaded = vld1q_u8(weights + at * 4 * kBlock + c * 4 * LANES);
        unrolled<kPerLoad>([&](auto part) INLINE {
          const int8x16_t w = vreinterpretq_s8_u8(BITS == 8   ? veorq_u8(loaded, vdupq_n_u8(0x80))
                                                  : part == 0 ? vandq_u8(loaded, vdupq_n_u8(15))
                                                              : vshrq_n_u8(loaded, 4));
          constexpr int lane = kPerLoad * k + part;
          for (int r = 0; r < ROWS; ++r) sums[r][c] = vdotq_laneq_s32(sums[r][c], w, four[r], lane);
        });
      }
    });
    // The next half's loads stay behind these sums: before, there are no registers for them.
    if constexpr (ROWS > 4)
      for (int r = 0; r < ROWS; ++r) asm volatile("" : "+w"(sums[r][0])::"memory");
  });
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < PARTS; ++c) dots[r][c] = (I)sums[r][c];
}

}  // namespace
