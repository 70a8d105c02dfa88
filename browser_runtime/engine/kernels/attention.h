#pragma once

#include "ggml.h"

#include <cstddef>
#include <cstdint>

namespace sippet {

// The keys and values of one head, rows of F32, F16 or Q8_0. Threads are dealt tiles of positions like cards, because the positions
// that a query sees may be anywhere.
struct keys_values {
    ggml_type    type;
    int64_t      key_size, value_size;  // numbers in a row: multiples of 4, of 32 for Q8_0, MAX_HEAD_SIZE at most
    const char * keys;
    size_t       key_stride;  // bytes from one position to the next
    const char * values;
    size_t       value_stride;
    int64_t      positions;
    int          share, shares;  // take every `shares`th tile, from that of number `share` on
};

// One query: a token in one of the heads that share these keys and values.
struct query {
    const float *    row;
    const uint16_t * mask;   // half floats, added to the scores, by position; may be null
    float            slope;  // multiplies the mask
};

// What attention over a share of the positions gives: divide `sums` by `weight` for the result, or merge shares by `maximum` first.
struct attended {
    float   maximum;
    float   weight;
    float * sums;  // value_size numbers
};

constexpr int64_t MAX_HEAD_SIZE = 512;
constexpr int     MAX_QUERIES   = 8;

// True when attend() takes rows of this type and these sizes.
bool can_attend(ggml_type type, int64_t key_size, int64_t value_size);

// Softmax attention of up to MAX_QUERIES queries, a tile of positions at a time, so that scores are never stored for all of them
// (Milakov & Gimelshein, arXiv 1805.02867). Keys and values become floats once for all queries. `softcap` 0 means none.
void attend(const keys_values & kv, const query * queries, int query_count, float scale, float softcap, attended * results);

}  // namespace sippet
