// How threads divide the rows of a matrix.
#pragma once

#include "ggml-cpu-impl.h"

#include <algorithm>

namespace sippet {

constexpr int ROW_STEP = 8;  // threads share rows in multiples of this

struct row_range {
    int64_t first, last;
};

// This thread's share of a matrix's rows, when all shares are equal; may be empty.
inline row_range share_of_rows(const ggml_compute_params * params, int64_t rows) {
    const int64_t steps = (rows + ROW_STEP - 1) / ROW_STEP;
    const auto start = [=](int64_t thread) { return std::min(thread * steps / params->nth * ROW_STEP, rows); };
    return {start(params->ith), start(params->ith + 1)};
}

}  // namespace sippet
