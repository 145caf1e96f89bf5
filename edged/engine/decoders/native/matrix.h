// A quantised matrix times rows of activations.
//
// Weights (`packing.py` writes them): 32 output channels are a block, 32 inputs a group. In a group, four inputs of
// each channel stand side by side, which is what the dot-product instructions take (VNNI on x86, sdot on ARM). int4
// keeps two such quadruples in one byte (low nibble first).
// int8: a group ends with the channels' scales in bf16.
// int4: a group ends with the channels' scales in a byte each, then their minima likewise. A weight is
// base + factor * (scale * nibble - 6 * minimum); the channel's factor and base are the same in all groups, and so what the
// base adds to an output is the base times the sum of the row.
// Activations are rounded to int8, with one scale for each row and group.
//
// What an int4 group adds to a row, before base and factor and the row's scale, is a whole number below 2^24: it is the
// same whether it is computed in integers or in floats, and whether a product and a sum are rounded once or twice.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "buffer.h"
#include "dots.h"
#include "interface.h"
#include "threads.h"
#include "vectors.h"

namespace {

// Bytes of a group of a block: those of the integers, and all.
constexpr int value_bytes(int bits) { return kBlock * kGroup * bits / 8; }
constexpr int group_bytes(int bits) { return value_bytes(bits) + kBlock * 2; }
constexpr int kMinimumStep = 6;

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
  Buffer<float> offsets;   // the sum of the values, times -kMinimumStep
  Buffer<int32_t> whole_offsets;  // the same
  Buffer<int32_t> starts;  // what the dot products begin with
  Buffer<float> totals;    // one for each row: the sum of its values, times their scales

  [[nodiscard]] bool reserve(size_t count, size_t inputs) {
    const size_t groups = count * inputs / kGroup + kAhead;
    return values.reserve(groups * kGroup) && scales.reserve(groups) && offsets.reserve(groups) &&
           whole_offsets.reserve(groups) && starts.reserve(groups) && totals.reserve(count);
  }

  void set(const Passes& passes, int row, const float* x, int inputs) {
    int pass = row * passes.count / passes.rows;
    while (passes.first(pass + 1) <= row) ++pass;
    const int first = passes.first(pass), count = passes.first(pass + 1) - first;
    const int groups = inputs / kGroup;
    float all = 0;
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
      whole_offsets.get()[at] = -kMinimumStep * sum;
      offsets.get()[at] = static_cast<float>(-kMinimumStep * sum);
      all += scale * static_cast<float>(sum);
    }
    totals.get()[row] = all;
  }
};

// How the dot products of a group become what the group adds to a row, before the row's scale. Each of these classes
// has the scales (and minima) of PARTS vectors of channels of one group.

// int8: from behind the integers of the group.
template <int PARTS>
struct Scales8 {
  typedef Four Offsets;
  static const float* offsets(const Activations& x) { return x.offsets.get(); }

  void load(const uint8_t* ends, int within) { from_bf16(reinterpret_cast<const uint16_t*>(ends) + within, scale); }

  template <int K> F weighed(int c, I dots, const Offsets&) const { return __builtin_convertvector(dots, F) * scale[c]; }

  F scale[PARTS];
};

// int4, few rows: from behind the integers of the group. ARM computes in integers, which takes fewer instructions.
template <int PARTS>
struct Scales4 {
  void load(const uint8_t* ends, int within) {
    from_bytes(ends + within, scale);
    from_bytes(ends + kBlock + within, minimum);
  }

#if defined(__ARM_NEON)
  typedef FourWhole Offsets;
  static const int32_t* offsets(const Activations& x) { return x.whole_offsets.get(); }

  template <int K> F weighed(int c, I dots, const Offsets& four) const {
    return __builtin_convertvector(four.template times_plus<K>(minimum[c], dots * scale[c]), F);
  }
#else
  typedef Four Offsets;
  static const float* offsets(const Activations& x) { return x.offsets.get(); }

  template <int K> F weighed(int c, I dots, const Offsets& four) const {
    const F product = __builtin_convertvector(dots, F) * __builtin_convertvector(scale[c], F);
    return four.template times_plus<K>(__builtin_convertvector(minimum[c], F), product);
  }
#endif

  I scale[PARTS], minimum[PARTS];
};

// int4, several passes: the floats that `widen` made of a block once for all of them.
template <int PARTS>
struct Widened4 {
  typedef Four Offsets;
  static const float* offsets(const Activations& x) { return x.offsets.get(); }

  void load(const float* pairs, int within) {
    for (int c = 0; c < PARTS; ++c) {
      scale[c] = ::load<F>(pairs + 2 * (within + c * LANES));
      minimum[c] = ::load<F>(pairs + 2 * (within + c * LANES) + LANES);
    }
  }

  template <int K> F weighed(int c, I dots, const Offsets& four) const {
    return four.template times_plus<K>(minimum[c], __builtin_convertvector(dots, F) * scale[c]);
  }

  F scale[PARTS], minimum[PARTS];
};

constexpr int kWidened = 2 * kBlock;  // floats of a group: of each vector of channels the scales, then the minima

// Widens the scales and minima of a block of an int4 matrix.
inline void widen(const Matrix& m, int block, float* to) {
  const int groups = m.inputs / kGroup;
  const uint8_t* from = m.blocks + static_cast<size_t>(block) * groups * group_bytes(4) + value_bytes(4);
  for (int g = 0; g < groups; ++g, from += group_bytes(4), to += kWidened) {
    Scales4<kBlockParts> scales;
    scales.load(from, 0);
    for (int c = 0; c < kBlockParts; ++c) {
      store(to + 2 * c * LANES, __builtin_convertvector(scales.scale[c], F));
      store(to + (2 * c + 1) * LANES, __builtin_convertvector(scales.minimum[c], F));
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
template <int BITS, int ROWS, int PARTS, bool WIDENED>
TILE void multiply_tile(const Matrix& m, int block, int within, const Activations& x, int row, const float* widened,
                        float* out) {
  typedef std::conditional_t<BITS == 8, Scales8<PARTS>, std::conditional_t<WIDENED, Widened4<PARTS>, Scales4<PARTS>>>
      Ends;
  const int groups = m.inputs / kGroup;
  const uint8_t* from = m.blocks + static_cast<size_t>(block) * groups * group_bytes(BITS);
  const size_t at = static_cast<size_t>(row) * groups;
  const int8_t* values = x.values.get() + at * kGroup;
  const float* scales = x.scales.get() + at;
  const int32_t* starts = x.starts.get() + at;
  const auto* offsets = Ends::offsets(x) + at;
  const bool is_first_pass = row == 0 && within == 0;  // later ones find the block in the cache
  F sums[ROWS][PARTS] = {};

  for (int g = 0; g < groups; ++g) {
    if constexpr (kSumsInMemory) asm volatile("" : "+m"(sums));
    if (is_first_pass) ask_ahead(from, group_bytes(BITS));
    I dots[ROWS][PARTS];
    group_dots<BITS, ROWS, PARTS>(from + 4 * within, values, starts, dots);
    Ends ends;
    if constexpr (WIDENED)
      ends.load(widened + g * kWidened, within);
    else
      ends.load(from + value_bytes(BITS), within);
    unrolled<(ROWS + 3) / 4>([&](auto four) INLINE {
      const Four row_scales(scales + 4 * four);
      const typename Ends::Offsets row_offsets(offsets + 4 * four);
      constexpr int kLeft = ROWS - 4 * four;
      unrolled<(kLeft < 4 ? kLeft : 4)>([&](auto i) INLINE {
        constexpr int r = 4 * four + i;
        for (int c = 0; c < PARTS; ++c) {
          const F weighed = ends.template weighed<i>(c, dots[r][c], row_offsets);
          sums[r][c] = row_scales.template times_plus<i>(weighed, sums[r][c]);
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
    F factor{}, base{};
    if constexpr (BITS == 4) {
      factor = load<F>(m.factors + block * kBlock + channel);
      base = load<F>(m.factors + m.outputs + block * kBlock + channel);
    }
    for (int r = 0; r < ROWS; ++r) {
      if constexpr (BITS == 4) sums[r][c] = multiply_add(base * spread(x.totals.get()[row + r]), sums[r][c], factor);
      store(out + r * kBlock + channel, sums[r][c] + bias);
    }
  }
}

// Multiplies a block of the matrix by the rows of one pass. out: (rows, kBlock).
template <int BITS, bool WIDENED>
inline void multiply_pass(const Matrix& m, int block, const Activations& x, int row, int rows, const float* widened,
                          float* out) {
  unrolled<kRows>([&](auto less) INLINE {
    constexpr int kThese = less + 1, kParts = parts_for(BITS, kThese);
    if (rows != kThese) return;
    for (int within = 0; within < kBlock; within += kParts * LANES)
      multiply_tile<BITS, kThese, kParts, WIDENED>(m, block, within, x, row, widened, out);
  });
}

// Multiplies a block of the matrix by all rows and hands each row's 32 sums to `finish(row, channel, sums)`.
// scratch: the thread's own memory, kWidened floats for each group.
template <typename Finish>
void multiply_block(const Matrix& m, int block, const Activations& x, const Passes& passes, float* scratch,
                    Finish& finish) {
  const bool widened = m.bits == 4 && passes.count > 1;
  if (widened) widen(m, block, scratch);
  alignas(64) float sums[kRows * kBlock];
  for (int pass = 0; pass < passes.count; ++pass) {
    const int row = passes.first(pass), rows = passes.first(pass + 1) - row;
    if (m.bits == 8)
      multiply_pass<8, false>(m, block, x, row, rows, nullptr, sums);
    else if (widened)
      multiply_pass<4, true>(m, block, x, row, rows, scratch, sums);
    else
      multiply_pass<4, false>(m, block, x, row, rows, nullptr, sums);
    for (int r = 0; r < rows; ++r) finish(row + r, block * kBlock, sums + r * kBlock);
  }
}

// Multiplies the whole matrix by all rows; the threads take its blocks in turn. scratch: see `multiply_block`.
template <typename Finish>
void matmul(Team& team, const Matrix& m, const Activations& x, const Passes& passes, float* scratch, Finish finish) {
  const int blocks = m.outputs / kBlock;
  const int step = std::clamp(blocks / (4 * team.size()), 1, 8);
  for (int begin = team.take(step); begin < blocks; begin = team.take(step))
    for (int block = begin; block < std::min(begin + step, blocks); ++block)
      multiply_block(m, block, x, passes, scratch, finish);
}

}  // namespace
