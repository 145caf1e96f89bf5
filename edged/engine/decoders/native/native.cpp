// One step of a decoder-only transformer on a CPU: int8 or int4 weights, int8 activations, bf16 keys and values.
//
// All that a token costs is computed in here, so that between two reads of the weights there is no Python, no
// allocation and no thread that has to be woken. `native_structures.py` says what each argument means.
//
// What it promises: a row's result does not depend on the rows beside it, on how a prompt is cut into chunks or on
// the number of threads. Each output is computed by one thread, in one order of operations.
//
// It takes the C++ library's headers and none of its compiled code (no exceptions, `new`, threads or containers), so a
// compiled file runs on any box with a C library that is new enough.

#include <cstdint>
#include <cstdlib>
#include <new>

#include "interface.h"
#include "step.h"
#include "vectors.h"

#pragma GCC visibility push(default)

extern "C" {

// Names the instruction set that the library was compiled for.
const char* edged_instructions() { return kInstructions; }

void edged_close(void* handle) {
  Model* model = static_cast<Model*>(handle);
  model->~Model();
  std::free(model);
}

// Makes a model of sizes and pointers; what these point to must outlive it. Gives null when there is no memory.
void* edged_open(const Shape* shape) {
  void* room = std::aligned_alloc(alignof(Model), sizeof(Model));
  if (room == nullptr) return nullptr;
  Model* model = new (room) Model;
  if (model->open(*shape)) return model;
  edged_close(model);
  return nullptr;
}

// Runs one step; gives 0, or 1 when there is no memory for it.
int edged_step(void* handle, int rows, const int32_t* tokens, const int32_t* positions, const int32_t* parents,
               int spans, const Span* span, int wanted, const int32_t* wanted_rows, int head_blocks,
               const int32_t* head_block, float* logits) {
  Model& model = *static_cast<Model*>(handle);
  if (!model.reserve(rows, spans, span, wanted)) return 1;
  int32_t* span_of = model.span_of.get();
  for (int i = 0; i < spans; ++i)
    for (int row = 0; row < span[i].rows; ++row) span_of[span[i].first + row] = i;
  Step step{model,  Rows{rows, tokens, positions, parents, spans, span, span_of},
            wanted, wanted_rows, head_blocks, head_block, logits};
  model.team.run(step);
  return 0;
}
}

#pragma GCC visibility pop
