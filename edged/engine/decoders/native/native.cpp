// One step of a decoder-only transformer on a CPU: int8 or int4 weights, int8 activations, bf16 keys and values.
//
// All that a token costs is computed in here, so that between two reads of the weights there is no Python, no
// allocation and no thread that has to be woken. `native_structures.py` says what each argument means.
//
// What it promises: a row's result does not depend on the rows beside it, on how a prompt is cut into chunks or on
// the number of threads. Each output is computed by one thread, in one order of operations.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "interface.h"
#include "step.h"
#include "vectors.h"

#pragma GCC visibility push(default)

extern "C" {

// Names the instruction set that the library was compiled for.
const char* edged_instructions() { return kInstructions; }

// Makes a model of sizes and pointers; what these point to must outlive it. Gives null when there is no memory.
void* edged_open(const Shape* shape) try { return new Model(*shape); } catch (...) { return nullptr; }

void edged_close(void* model) { delete static_cast<Model*>(model); }

// Runs one step; gives 0, or 1 when there is no memory for it.
int edged_step(void* handle, int rows, const int32_t* tokens, const int32_t* positions, const int32_t* parents,
               int spans, const Span* span, int wanted, const int32_t* wanted_rows, int head_blocks,
               const int32_t* head_block, float* logits) try {
  Model& model = *static_cast<Model*>(handle);
  const Shape& s = model.shape;
  const size_t widest = std::max({s.hidden, s.heads * s.head_dim, s.mlp});
  size_t seen = 0;
  for (int i = 0; i < spans; ++i) seen = std::max(seen, static_cast<size_t>(span[i].past + span[i].rows));
  model.x.reserve(static_cast<size_t>(rows) * s.hidden);
  model.qkv.reserve(static_cast<size_t>(rows) * model.layers[0].qkv.outputs);
  model.mixed.reserve(static_cast<size_t>(rows) * s.heads * s.head_dim);
  model.inner.reserve(static_cast<size_t>(rows) * s.mlp);
  model.activations.reserve(std::max(rows, wanted), widest);
  for (auto& scratch : model.scores) scratch.reserve(std::max(widest, kQueries * ((seen + 15) / 16 * 16)));

  std::vector<int> span_of(rows);
  for (int i = 0; i < spans; ++i)
    for (int row = 0; row < span[i].rows; ++row) span_of[span[i].first + row] = i;
  Step step{model,  Rows{rows, tokens, positions, parents, spans, span, std::move(span_of)},
            wanted, wanted_rows, head_blocks, head_block, logits};
  model.team.run(step);
  return 0;
} catch (...) { return 1; }
}

#pragma GCC visibility pop
