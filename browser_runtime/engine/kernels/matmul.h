#pragma once

#include "ggml.h"

#include <cstddef>
#include <cstdint>

namespace sippet {

// Tokens (columns of the right-hand matrix) quantised for one kind of weight: all of them start at multiples of `stride` bytes.
struct activation_layout {
    size_t stride;        // bytes of one token
    size_t scale_offset;  // where its scales start: one float for each unit, then HALVES sums for each: a float, scale times sum
                          // of the integers, for weights with a minimum; else an int32, minus the weights' offset times the sum
};

activation_layout layout_for(ggml_type type, int64_t columns);

// Quantise one token of `columns` floats into `out`, as weights of `type` want it.
void quantize_token(ggml_type type, const float * in, int64_t columns, uint8_t * out);

// Bytes of scratch memory that multiply() needs for each thread.
size_t scratch_bytes(ggml_type type, int64_t columns);

// out[token][row - first_row] = sum over columns of weight[row][column] * token[column], for rows first_row .. last_row - 1 of a
// packed matrix (both multiples of 4). `tokens` and `outs` are arrays of `token_count` pointers; every token was quantised by
// quantize_token and its output starts at the matrix's row 0.
void multiply(ggml_type type, const void * packed, int64_t columns, int64_t first_row, int64_t last_row,
              const uint8_t * const * tokens, float * const * outs, int64_t token_count, uint8_t * scratch);

}  // namespace sippet
