#pragma once

#include "ggml.h"

#include <cstddef>
#include <cstdint>

namespace sippet {

// True when rows of this type and length can be packed.
bool can_pack(ggml_type type, int64_t columns);

// Pack `rows` (a multiple of 4) ggml rows of `columns` values. `source` and `destination` may be the same memory.
void pack_rows(ggml_type type, const void * source, void * destination, int64_t rows, int64_t columns);

// Write row `row` of a packed matrix as floats.
void unpack_row(ggml_type type, const void * packed, int64_t row, int64_t columns, float * out);

}  // namespace sippet
