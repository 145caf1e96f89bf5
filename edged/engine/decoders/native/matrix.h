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
#include "interface.h"
#include "threads.h"
#include "vectors.h"

namespace {

// Bytes of a group of a block.
constexpr int group_bytes(int bits) { return kBlock * (bits == 8 ? kGroup + 2 : kGroup / 2 + 4); }

// How rows are divided into passes of at most TILE_ROWS, as evenly as can be.
struct Passes {
  explicit Passes(int rows) : rows(rows), count((rows + TILE_ROWS - 1) / TILE_ROWS) {}
  int first(int pass) const { return rows * pass / count; }

  const int rows;
  const int count;
};

// Rows of activations in int8, in passes of a few rows that are multiplied by a tile of the matrix together. In a
// pass all rows of a group stand side by side: row r of `count` is at (first * groups + group * count + r).
struct Activations {
  Buffer<int8_t> values;   // 32 for each row and group
  Buffer<float> scales;    // one for each row and group
  Buffer<float> offsets;   // the sum of the values, times their scale
  Buffer<int32_t> sums;    // of the values

  void reserve(size_t count, size_t inputs) {
    values.reserve(count * inputs);
    scales.reserve(count * inputs / kGroup);
    offsets.reserve(count * inputs / kGroup);
    sums.reserve(count * inputs / kGroup);
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
      for (int i = 0; i < kGroup; ++i) values.get()[at * kGroup + i] = static_cast<int8_t>(rounded[i]);
      int32_t sum = 0;
      for (int i = 0; i < LANES; ++i) sum += total[i];
      scales.get()[at] = scale;
      sums.get()[at] = sum;
      offsets.get()[at] = scale * static_cast<float>(sum);
    }
  }
};

// A tile of a matrix times the ROWS rows of a pass.
template <int BITS, int ROWS>
inline void multiply(const Matrix& m, int channel, const Activations& x, int row, F (&out)[ROWS][TILE_PARTS]) {
  constexpr int kPerLoad = BITS == 8 ? 1 : 2;  // quadruples in a byte
  const int groups = m.inputs / kGroup, within = channel % kBlock;
  const uint8_t* from = m.blocks + static_cast<size_t>(channel / kBlock) * groups * group_bytes(BITS);
  const size_t at = static_cast<size_t>(row) * groups;
  const int8_t* values = x.values.get() + at * kGroup;
  const float* scales = x.scales.get() + at;
  const float* offsets = x.offsets.get() + at;
  const int32_t* totals = x.sums.get() + at;
  F sums[ROWS][TILE_PARTS];
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < TILE_PARTS; ++c) sums[r][c] = F{};

  for (int g = 0; g < groups; ++g) {
    I dots[ROWS][TILE_PARTS];
    for (int r = 0; r < ROWS; ++r)
      for (int c = 0; c < TILE_PARTS; ++c) dots[r][c] = start<BITS>(totals[r]);
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; k += 4 * kPerLoad) {
      B loaded[TILE_PARTS];
      for (int c = 0; c < TILE_PARTS; ++c)
        loaded[c] = load<B>(from + (k / kPerLoad) * kBlock + 4 * (within + c * LANES));
      for (int half = 0; half < kPerLoad; ++half) {
        B w[TILE_PARTS];
        for (int c = 0; c < TILE_PARTS; ++c)
          w[c] = BITS == 8 ? weights<8>(loaded[c]) : half == 0 ? loaded[c] & 15 : (B)((U)loaded[c] >> 4) & 15;
        for (int r = 0; r < ROWS; ++r) {
          int32_t four;
          std::memcpy(&four, values + r * kGroup + k + 4 * half, 4);
          for (int c = 0; c < TILE_PARTS; ++c) dots[r][c] = dot<BITS>(dots[r][c], w[c], four);
        }
      }
    }
    for (int c = 0; c < TILE_PARTS; ++c) {
      F scale, minimum{};
      if (BITS == 8) {
        scale = from_bf16(reinterpret_cast<const uint16_t*>(from + kBlock * kGroup) + within + c * LANES);
      } else {
        const U pair = load<U>(from + kBlock * kGroup / 2 + 4 * (within + c * LANES));
        scale = (F)(pair << 16);
        minimum = (F)(pair & 0xffff0000u);
      }
      for (int r = 0; r < ROWS; ++r) {
        const F scaled = __builtin_convertvector(dots[r][c], F) * scales[r];
        sums[r][c] += scaled * scale;
        if (BITS == 4) sums[r][c] += minimum * offsets[r];
      }
    }
    from += group_bytes(BITS);
    values += ROWS * kGroup;
    scales += ROWS;
    offsets += ROWS;
    totals += ROWS;
  }
  for (int c = 0; c < TILE_PARTS; ++c) {
    const int at = channel + c * LANES;
    const F bias = m.bias != nullptr ? load<F>(m.bias + at) : F{};
    for (int r = 0; r < ROWS; ++r) out[r][c] = sums[r][c] + bias;
  }
}

// Multiplies a block of the matrix by all rows and hands each tile's sums to `finish(row, channel, sums)`.
template <int BITS, typename Finish>
void multiply_block_of(const Matrix& m, int block, const Activations& x, const Passes& passes, Finish& finish) {
  for (int channel = block * kBlock; channel < (block + 1) * kBlock; channel += kTile)
    for (int pass = 0; pass < passes.count; ++pass) {
      const int row = passes.first(pass);
      auto run = [&]<int ROWS>() {
        F sums[ROWS][TILE_PARTS];
        multiply<BITS, ROWS>(m, channel, x, row, sums);
        for (int r = 0; r < ROWS; ++r) finish(row + r, channel, sums[r]);
      };
      switch (passes.first(pass + 1) - row) {
        case 1: run.template operator()<1>(); break;
        case 2: run.template operator()<2>(); break;
#if TILE_ROWS >= 3
        case 3: run.template operator()<3>(); break;
#endif
#if TILE_ROWS >= 6
        case 4: run.template operator()<4>(); break;
        case 5: run.template operator()<5>(); break;
        case 6: run.template operator()<6>(); break;
#endif
      }
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
