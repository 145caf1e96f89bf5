// The products of attention: queries times keys, and weights times values, in bf16 or widened to floats.

#pragma once

#include <algorithm>
#include <cstdint>

#include "vectors.h"

namespace {

constexpr int kQueries = LANES == 16 ? 8 : 4;  // that are multiplied by keys and values together
constexpr int kSixteen = 16;                   // positions whose keys stand together in memory
constexpr int kWide = LANES == 16 ? 2 : 1;     // sixteens that are summed together

// Queries that are multiplied by keys and values together, and what they give.
struct Few {
  int count;
  int first;                     // the first position that any query of the piece sees, rounded down to whole sixteens
  int seen;                      // positions that any of them sees
  int row[kQueries];             // of each, within its span
  const float* query[kQueries];  // (head_dim,)
  float* scores[kQueries];       // (positions,)
  float inverse[kQueries];       // 1 / the sum of the weights that `softmax` made of the scores
  float* out[kQueries];          // (head_dim,)
};

// Sixteen numbers, floats or in bf16.
inline INLINE void load_sixteen(const float* from, F (&to)[kHalfParts]) {
  for (int c = 0; c < kHalfParts; ++c) to[c] = load<F>(from + c * LANES);
}
inline INLINE void load_sixteen(const uint16_t* from, F (&to)[kHalfParts]) { from_bf16(from, to); }

inline void widen(const uint16_t* from, int count, float* to) {
  for (int i = 0; i < count; i += kSixteen) {
    F value[kHalfParts];
    load_sixteen(from + i, value);
    for (int c = 0; c < kHalfParts; ++c) store(to + i + c * LANES, value[c]);
  }
}

// Adds four times so many sixteens of values, `stride` and `apart` from each other, each weighed by one of the four
// that `weights(j)` gives.
template <int COUNT, int SIXTEENS, typename T, typename Weights>
inline INLINE void add_products(const T* values, int stride, int apart, Weights weights,
                                F (&sums)[COUNT][SIXTEENS][kHalfParts]) {
  F value[4][SIXTEENS][kHalfParts];
  unrolled<4>([&](auto i) INLINE {
    for (int s = 0; s < SIXTEENS; ++s) load_sixteen(values + i * stride + s * apart, value[i][s]);
  });
  for (int j = 0; j < COUNT; ++j) {
    const Four four = weights(j);
    unrolled<4>([&](auto i) INLINE {
      for (int s = 0; s < SIXTEENS; ++s)
        for (int c = 0; c < kHalfParts; ++c)
          sums[j][s][c] = four.template times_plus<i>(value[i][s][c], sums[j][s][c]);
    });
  }
}

// Calls body.operator()<COUNT>() for a count of 1 .. kQueries.
template <typename Body>
inline INLINE void counted(int count, Body body) {
  unrolled<kQueries>([&](auto less) INLINE {
    if (count == less + 1) body.template operator()<less + 1>();
  });
}

// Calls body.operator()<SIXTEENS>(at) for all numbers from `begin` to `end`, kWide sixteens at a time or one.
template <typename Body>
inline INLINE void by_sixteens(int begin, int end, Body body) {
  int at = begin;
  if constexpr (kWide > 1)
    for (; at + kWide * kSixteen <= end; at += kWide * kSixteen) body.template operator()<kWide>(at);
  for (; at < end; at += kSixteen) body.template operator()<1>(at);
}

// Scores of positions begin .. end-1, whole sixteens; `keys` are those from `begin` on.
template <typename T>
void score(const Few& few, const T* keys, int begin, int end, int dim, float scale) {
  counted(few.count, [&]<int COUNT>() INLINE {
    const float* query[COUNT];  // in registers
    std::copy_n(few.query, COUNT, query);
    by_sixteens(begin, end, [&]<int SIXTEENS>(int p) INLINE {
      const T* at = keys + (p - begin) * dim;
      F sums[COUNT][SIXTEENS][kHalfParts] = {};
      for (int i = 0; i < dim; i += 4, at += 4 * kSixteen)
        add_products(at, kSixteen, kSixteen * dim, [&](int j) INLINE { return Four(query[j] + i); }, sums);
      for (int j = 0; j < COUNT; ++j)
        for (int s = 0; s < SIXTEENS; ++s)
          for (int c = 0; c < kHalfParts; ++c)
            store(few.scores[j] + p + s * kSixteen + c * LANES, sums[j][s][c] * scale);
    });
  });
}

// Adds the values of positions begin .. end-1, weighed by what `softmax` made of the scores, to the sums in `few.out`,
// which begin with few.first and are complete at few.seen; `values` are those from `begin` on. Each sum is added up in
// the order of positions, however they are divided into calls.
template <typename T>
void mix(const Few& few, const T* values, int begin, int end, int dim) {
  const bool begins = begin == few.first, ends = end == few.seen;
  counted(few.count, [&]<int COUNT>() INLINE {
    const float* weights[COUNT];  // in registers
    std::copy_n(few.scores, COUNT, weights);
    by_sixteens(0, dim, [&]<int SIXTEENS>(int d) INLINE {
      F sums[COUNT][SIXTEENS][kHalfParts] = {};
      if (!begins)
        for (int j = 0; j < COUNT; ++j)
          for (int s = 0; s < SIXTEENS; ++s) load_sixteen(few.out[j] + d + s * kSixteen, sums[j][s]);
      const T* at = values + d;
      int p = begin;
      for (; p + 4 <= end; p += 4, at += 4 * dim)
        add_products(at, dim, kSixteen, [&](int j) INLINE { return Four(weights[j] + p); }, sums);
      for (; p < end; ++p, at += dim)
        for (int s = 0; s < SIXTEENS; ++s) {
          F value[kHalfParts];
          load_sixteen(at + s * kSixteen, value);
          for (int j = 0; j < COUNT; ++j)
            for (int c = 0; c < kHalfParts; ++c)
              sums[j][s][c] = multiply_add(sums[j][s][c], value[c], spread(weights[j][p]));
        }
      for (int j = 0; j < COUNT; ++j)
        for (int s = 0; s < SIXTEENS; ++s)
          for (int c = 0; c < kHalfParts; ++c)
            store(few.out[j] + d + s * kSixteen + c * LANES, ends ? sums[j][s][c] * few.inverse[j] : sums[j][s][c]);
    });
  });
}

}  // namespace
