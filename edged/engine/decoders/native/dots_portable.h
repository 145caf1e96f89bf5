// Plain C++, for every CPU: a reference for the others, slower than torch's kernels.

#pragma once

#include "vectors.h"

namespace {

constexpr const char* kInstructions = "portable";
constexpr int kRows = 2;
constexpr int parts_for(int, int) { return 4; }
constexpr bool kSumsInMemory = false;
constexpr int kTogether = kGroup;
constexpr int32_t start_of(int32_t) { return 0; }

template <int BITS, int ROWS, int PARTS>
inline void group_dots(const uint8_t* weights, const int8_t* x, const int32_t*, I (&dots)[ROWS][PARTS]) {
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < PARTS; ++c) {
      int32_t sums[LANES] = {};
      for (int k = 0; k < kGroup; ++k)
        for (int lane = 0; lane < LANES; ++lane) {
          const int at = 4 * (c * LANES + lane) + k % 4;
          const int w = BITS == 8 ? weights[k / 4 * 4 * kBlock + at] - 128
                                  : weights[k / 8 * 4 * kBlock + at] >> (k / 4 % 2 * 4) & 15;
          sums[lane] += w * x[r * kGroup + k];
        }
      dots[r][c] = load<I>(sums);
    }
}

}  // namespace
