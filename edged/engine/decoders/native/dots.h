// The integer dot products of one group of inputs, by the instructions that this file is compiled for.
//
// Each instruction set has a file that gives the same seven things:
//   kInstructions          its name
//   kRows                  the most rows that are multiplied by a tile of the matrix together
//   parts_for(bits, rows)  how many vectors of output channels such a tile has: a power of two up to kBlockParts
//   kTogether              of a row's values in a group, how many stand side by side before the next row's follow
//   kSumsInMemory          whether a tile's float sums are kept in memory, because its dot products need all registers
//   start_of(sum)          what `Activations` keeps for `group_dots` of the sum of a row's values in a group
//   group_dots             dots[r][c], for each of ROWS rows and PARTS vectors: the sums over the group of weight times
//                          activation. int4 takes the nibbles as they are (0..15), int8 takes w - 128.
// It may define TILE as the attributes of a tile's function: where the tiles of all sizes are inlined into one function,
// a compiler may find too few registers for them.
// In a group four inputs of each channel stand side by side (a quadruple); 32 channels' quadruples are 128 bytes.

#pragma once

#include "vectors.h"

#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include "dots_vnni.h"
#elif defined(__AVX512BW__)
#include "dots_avx512.h"
#elif defined(__AVX2__) && defined(__AVXVNNI__)
#include "dots_vnni.h"
#elif defined(__AVX2__) || defined(__SSSE3__)
#include "dots_maddubs.h"
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#include "dots_i8mm.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "dots_dotprod.h"
#elif defined(__ARM_NEON)
#include "dots_neon.h"
#else
#include "dots_portable.h"
#endif

#ifndef TILE
#define TILE inline
#endif
