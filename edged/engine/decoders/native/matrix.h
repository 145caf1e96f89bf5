// A quantised matrix times rows of activations.
//
// Weights (`packing.py` writes them): 32 output channels are a block, 32 inputs a group. In a group, four inputs of
// each channel stand side by side, which is what the dot-product instructions take (VNNI on x86, sdot on ARM). int4
// keeps two such quadruples in one byte (low nibble first). Each group ends with its scales, int4's with minima too.
// Activations are rounded to int8, with one scale for each row and group.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "buffer.h"
#include "dots.h"
#include "interface.h"
#include "threads.h"
#include "vectors.h"

namespace {

// Bytes of a group of a block.
constexpr int group_bytes(int bits) { return kBlock * (bits == 8 ? kGroup + 2 : kGroup / 2 + 4); }

// How rows are divided into passes of at most kRows, as evenly as can be.
struct Passes {
  explicit Passes(int rows) : rows(rows), count((rows + kRows - 1) / kRows) {}
  int first(int pass) const { return rows * pass / count; }

  const int rows;
  const int count;
};

constexpr int kAhead = 4;  // rows: a tile of three reads the scales of a fourth, which it does not use

// Rows of activations in int8, in passes of a few rows that are multiplied by a tile of the matrix together. In a
// pass all rows of a group stand side by side: row r of `count` is at (first * groups + group * count + r). Within a
// group the rows take turns, kTogether values each.
struct Activations {
  Buffer<int8_t> values;   // 32 for each row and group
  Buffer<float> scales;    // one for each row and group
  Buffer<float> offsets;   // the sum of the values, times their scale
  Buffer<int32_t> starts;  // what the dot products begin with

  [[nodiscard]] bool reserve(size_t count, size_t inputs) {
    const size_t groups = count * inputs / kGroup + kAhead;
    return values.reserve(groups * kGroup) && scales.reserve(groups) && offsets.reserve(groups) && starts.reserve(groups);
  }

  void set(const Passes& passes, int row, const float* x, int inputs) {
    int pass = row * passes.count / passes.rows;
    while (passes.first(pass + 1) <= row) ++pass;
    const int first = passes.first(pass), count = passes.first(pass + 1) - first;
    const int groups = inputs / kGroup;
    for (int g = 0; g < groups; ++g, x += kGroup) {
      F tops{};
      for (int i = 0; i < kGroup; i += LANES) {
        const F part = load<F>(x + i), size = part < 0.0f ? -part : part;
        tops = size > tops ? size : tops;
      }
      const float top = largest(tops), inverse = top > 0 ? 127.0f / top : 0.0f, scale = top / 127.0f;
      const size_t at = static_cast<size_t>(first) * groups + g * count + row - first;
      int32_t rounded[kGroup];
      I total{};
      for (int i = 0; i < kGroup; i += LANES) {
        const I q = (I)(load<F>(x + i) * inverse + 12582912.0f) - 0x4b400000;  // 1.5 * 2^23: rounds to an integer
        store(rounded + i, q);
        total += q;
      }
      int8_t* to = values.get() + (at - (row - first)) * kGroup + (row - first) * kTogether;
      for (int part = 0; part < kGroup; part += kTogether, to += count * kTogether)
        for (int i = 0; i < kTogether; ++i) to[i] = static_cast<int8_t>(rounded[part + i]);
      int32_t sum = 0;
      for (int i = 0; i < LANES; ++i) sum += total[i];
      scales.get()[at] = scale;
      starts.get()[at] = start_of(sum);
      offsets.get()[at] = scale * static_cast<float>(sum);
    }
  }
};

// The scales of PARTS vectors of channels (int4: and their minima), from behind the integers of a group.
template <int BITS, int PARTS>
inline void load_scales(const uint8_t* from, int within, F (&scale)[PARTS], F (&minimum)[PARTS]) {
  if constexpr (BITS == 8) {
    from_bf16(reinterpret_cast<const uint16_t*>(from) + within, scale);
  } else {
    for (int c = 0; c < PARTS; ++c) {
      const U pair = load<U>(from + 4 * (within + c * LANES));
      scale[c] = (F)(pair << 16);
      minimum[c] = (F)(pair & 0xffff0000u);
    }
  }
}

// Asks memory for a group of weights that is read some groups later: at few rows a step waits for memory more than it
// computes, and the hardware alone looks less far ahead. ARM has no such request, because no board could be measured.
inline void ask_ahead([[maybe_unused]] const uint8_t* group, [[maybe_unused]] int size) {
#if defined(__x86_64__)
  constexpr int kDistance = 2560, kCacheLine = 64;  // bytes
  for (int line = 0; line < size; line += kCacheLine) __builtin_prefetch(group + kDistance + line);
#endif
}

// A tile of a matrix, PARTS vectors of channels, times the ROWS rows of a pass. out: (ROWS, kBlock).
template <int BITS, int ROWS, int PARTS>
inline void multiply_tile(const Matrix& m, int block, int within, const Activations& x, int row, float* out) {
  constexpr int kValues = kBlock * kGroup * BITS / 8;  // bytes
  const int groups = m.inputs / kGroup;
  const uint8_t* from = m.blocks + static_cast<size_t>(block) * groups * group_bytes(BITS);
  const size_t at = static_cast<size_t>(row) * groups;
  const int8_t* values = x.values.get() + at * kGroup;
  const float* scales = x.scales.get() + at;
  const float* offsets = x.offsets.get() + at;
  const int32_t* starts = x.starts.get() + at;
  const bool is_first_pass = row == 0 && within == 0;  // later ones find the block in the cache
  F sums[ROWS][PARTS] = {};

  for (int g = 0; g < groups; ++g) {
    if constexpr (kSumsInMemory) asm volatile("" : "+m"(sums));
    if (is_first_pass) ask_ahead(from, group_bytes(BITS));
    I dots[ROWS][PARTS];
    group_dots<BITS, ROWS, PARTS>(from + 4 * within, values, starts, dots);
    F scale[PARTS], minimum[PARTS];
    load_scales<BITS, PARTS>(from + kValues, within, scale, minimum);
    unrolled<(ROWS + 3) / 4>([&](auto four) INLINE {
      const Four row_scales(scales + 4 * four), row_offsets(offsets + 4 * four);
      constexpr int kLeft = ROWS - 4 * four;
      unrolled<(kLeft < 4 ? kLeft : 4)>([&](auto i) INLINE {
        constexpr int r = 4 * four + i;
        for (int c = 0; c < PARTS; ++c) {
          const F weighed = __builtin_convertvector(dots[r][c], F) * scale[c];
          sums[r][c] = row_scales.template times_plus<i>(weighed, sums[r][c]);
          if constexpr (BITS == 4) sums[r][c] = row_offsets.template times_plus<i>(minimum[c], sums[r][c]);
        }
      });
    });
    from += group_bytes(BITS);
    values += ROWS * kGroup;
    scales += ROWS;
    offsets += ROWS;
    starts += ROWS;
  }
  for (int c = 0; c < PARTS; ++c) {
    const int channel = within + c * LANES;
    const F bias = m.bias != nullptr ? load<F>(m.bias + block * kBlock + channel) : F{};
    for (int r = 0; r < ROWS; ++r) store(out + r * kBlock + channel, sums[r][c] + bias);
  }
}

// Multiplies a block of the matrix by all rows and hands each row's 32 sums to `finish(row, channel, sums)`.
template <int BITS, typename Finish>
void multiply_block_of(const Matrix& m, int block, const Activations& x, const Passes& passes, Finish& finish) {
  alignas(64) float sums[kRows * kBlock];
  for (int pass = 0; pass < passes.count; ++pass) {
    const int row = passes.first(pass), rows = passes.first(pass + 1) - row;
    unrolled<kRows>([&](auto less) INLINE {
      constexpr int kThese = less + 1, kParts = parts_for(BITS, kThese);
      if (rows != kThese) return;
      for (int within = 0; within < kBlock; within += kParts * LANES)
        multiply_tile<BITS, kThese, kParts>(m, block, within, x, row, sums);
    });
    for (int r = 0; r < rows; ++r) finish(row + r, block * kBlock, sums + r * kBlock);
  }
}

template <typename Finish>
void multiply_block(const Matrix& m, int block, const Activations& x, const Passes& passes, Finish& finish) {
  m.bits == 8 ? multiply_block_of<8>(m, block, x, passes, finish) : multiply_block_of<4>(m, block, x, passes, finish);
}

// Multiplies the whole matrix by all rows; the threads take its blocks in turn.
template <typename Finish>
void matmul(Team& team, const Matrix& m, const Activations& x, const Passes& passes, Finish finish) {
  const int blocks = m.outputs / kBlock;
  const int step = std::clamp(blocks / (4 * team.size()), 1, 8);
  for (int begin = team.take(step); begin < blocks; begin = team.take(step))
    for (int block = begin; block < std::min(begin + step, blocks); ++block)
      multiply_block(m, block, x, passes, finish);
}

}  // namespace
