// Attention for few tokens at a time (decoding). ggml reads the keys and values again for each of the heads that share them, and
// adds up in half floats, which WebAssembly lacks; for many tokens its tiled attention is the faster one.
#include "attention.h"

#include "elementwise.h"
#include "simd.h"

#define GGML_COMMON_DECL_C
#include "ggml-common.h"
#include "ggml-impl.h"

#include <algorithm>
#include <cmath>

namespace sippet {

namespace {

constexpr int TILE = 16;  // positions at a time

using score_tile = float[MAX_QUERIES][TILE];

// ---- rows to floats --------------------------------------------------------------------------------------------------

void row_to_floats(ggml_type type, const char * in, int64_t count, float * out) {
    if (type == GGML_TYPE_F32) {
        std::memcpy(out, in, (size_t) count * sizeof(float));
    } else if (type == GGML_TYPE_F16) {
        // load_half4 reads infinities as large numbers; both mean that the model has overflowed
        for (int64_t i = 0; i < count; i += 4) {
            wasm_v128_store(out + i, load_half4(in + 2 * i));
        }
    } else {
        const block_q8_0 * block = (const block_q8_0 *) in;
        for (int64_t b = 0; b < count / QK8_0; b++) {
            const v128_t d = wasm_f32x4_splat(GGML_FP16_TO_FP32(block[b].d));
            for (int i = 0; i < QK8_0; i += 4) {
                wasm_v128_store(out + b * QK8_0 + i, wasm_f32x4_mul(d, load_signed_bytes4(block[b].qs + i)));
            }
        }
    }
}

void tile_to_floats(ggml_type type, const char * in, size_t stride, int64_t row_size, int count, float * out) {
    for (int t = 0; t < count; t++) {
        row_to_floats(type, in + t * stride, row_size, out + t * row_size);
    }
}

// ---- one tile --------------------------------------------------------------------------------------------------------

// The sums of four vectors' lanes, as one vector.
v128_t horizontal_sums(v128_t a, v128_t b, v128_t c, v128_t d) {
    const v128_t ab = wasm_f32x4_add(wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), wasm_i32x4_shuffle(a, b, 2, 6, 3, 7));
    const v128_t cd = wasm_f32x4_add(wasm_i32x4_shuffle(c, d, 0, 4, 1, 5), wasm_i32x4_shuffle(c, d, 2, 6, 3, 7));
    return wasm_f32x4_add(wasm_i64x2_shuffle(ab, cd, 0, 2), wasm_i64x2_shuffle(ab, cd, 1, 3));
}

// scores[t] = row . keys[t] for a whole tile; `keys` may hold anything beyond the positions that exist.
void multiply_keys(const float * row, const float * keys, int64_t key_size, float * scores) {
    for (int t = 0; t < TILE; t += 4) {
        v128_t sum[4] = {};
        const float * key = keys + t * key_size;
        for (int64_t i = 0; i < key_size; i += 4) {
            const v128_t q = wasm_v128_load(row + i);
            for (int j = 0; j < 4; j++) {
                sum[j] = multiply_add(q, wasm_v128_load(key + j * key_size + i), sum[j]);
            }
        }
        wasm_v128_store(scores + t, horizontal_sums(sum[0], sum[1], sum[2], sum[3]));
    }
}

// sums += weights . values
template <int VECTORS> void add_values(const float * weights, const float * values, int64_t value_size, int count, float * sums) {
    v128_t sum[VECTORS];
    for (int i = 0; i < VECTORS; i++) {
        sum[i] = wasm_v128_load(sums + 4 * i);
    }
    for (int t = 0; t < count; t++, values += value_size) {
        const v128_t weight = splat_from(weights + t);
        for (int i = 0; i < VECTORS; i++) {
            sum[i] = multiply_add(weight, wasm_v128_load(values + 4 * i), sum[i]);
        }
    }
    for (int i = 0; i < VECTORS; i++) {
        wasm_v128_store(sums + 4 * i, sum[i]);
    }
}

void scale_row(float * row, int64_t count, float factor) {
    for (int64_t i = 0; i < count; i += 4) {
        wasm_v128_store(row + i, wasm_f32x4_mul(wasm_v128_load(row + i), wasm_f32x4_splat(factor)));
    }
}

// Add the mask to a tile's scores; what lies beyond its positions is masked too.
void add_mask(const query & q, int64_t first, int count, float * scores) {
    if (q.mask && count == TILE) {
        const v128_t slope = wasm_f32x4_splat(q.slope);
        for (int t = 0; t < TILE; t += 4) {
            const v128_t bias = wasm_f32x4_mul(slope, sippet_from_half4(q.mask + first + t));
            wasm_v128_store(scores + t, wasm_f32x4_add(wasm_v128_load(scores + t), bias));
        }
    } else if (q.mask) {
        for (int t = 0; t < count; t++) {
            scores[t] += q.slope * GGML_FP16_TO_FP32(q.mask[first + t]);
        }
    }
    std::fill(scores + count, scores + TILE, -INFINITY);
}

// Scores to softmax weights relative to the largest score so far; returns false when all positions are masked.
bool weigh(const query & q, int64_t first, int count, float softcap, int64_t value_size, float * scores, attended & result) {
    if (softcap != 0.0f) {
        for (int t = 0; t < count; t++) {
            scores[t] = softcap * tanhf(scores[t]);
        }
    }
    add_mask(q, first, count, scores);
    v128_t lanes = wasm_v128_load(scores);
    for (int t = 4; t < TILE; t += 4) {
        lanes = wasm_f32x4_max(lanes, wasm_v128_load(scores + t));
    }
    const float largest = horizontal_max(lanes);
    if (largest == -INFINITY) {
        return false;
    }
    if (largest > result.maximum) {
        const float shrink = expf(result.maximum - largest);
        scale_row(result.sums, value_size, shrink);
        result.weight *= shrink;
        result.maximum = largest;
    }
    v128_t total = wasm_f32x4_splat(0.0f);
    for (int t = 0; t < TILE; t += 4) {
        const v128_t weight = sippet_exp4(wasm_f32x4_sub(wasm_v128_load(scores + t), wasm_f32x4_splat(result.maximum)));
        wasm_v128_store(scores + t, weight);
        total = wasm_f32x4_add(total, weight);
    }
    result.weight += wasm_f32x4_extract_lane(horizontal_sums(total, total, total, total), 0);
    return true;
}

bool all_masked(const query * queries, int query_count, int64_t first, int count) {
    constexpr uint16_t MINUS_INFINITY = 0xfc00;
    for (int r = 0; r < query_count; r++) {
        for (int t = 0; t < count; t++) {
            if (!queries[r].mask || queries[r].mask[first + t] != MINUS_INFINITY) {
                return false;
            }
        }
    }
    return true;
}

}  // namespace

bool can_attend(ggml_type type, int64_t key_size, int64_t value_size) {
    const bool is_known = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_Q8_0;
    const int64_t step = type == GGML_TYPE_Q8_0 ? QK8_0 : 4;
    return is_known && key_size % step == 0 && value_size % step == 0 && std::max(key_size, value_size) <= MAX_HEAD_SIZE;
}

void attend(const keys_values & kv, const query * queries, int query_count, float scale, float softcap, attended * results) {
    alignas(16) float rows[MAX_QUERIES * MAX_HEAD_SIZE], tile[TILE * MAX_HEAD_SIZE];
    alignas(16) score_tile scores;
    for (int r = 0; r < query_count; r++) {
        std::memcpy(rows + r * kv.key_size, queries[r].row, (size_t) kv.key_size * sizeof(float));
        scale_row(rows + r * kv.key_size, kv.key_size, softcap != 0.0f ? scale / softcap : scale);
        std::memset(results[r].sums, 0, (size_t) kv.value_size * sizeof(float));
        results[r].maximum = -INFINITY;
        results[r].weight = 0.0f;
    }
    for (int64_t first = kv.share * TILE; first < kv.positions; first += kv.shares * TILE) {
        const int count = (int) std::min<int64_t>(TILE, kv.positions - first);
        if (all_masked(queries, query_count, first, count)) {
            continue;
        }
        tile_to_floats(kv.type, kv.keys + first * kv.key_stride, kv.key_stride, kv.key_size, count, tile);
        bool counts[MAX_QUERIES];
        for (int r = 0; r < query_count; r++) {
            multiply_keys(rows + r * kv.key_size, tile, kv.key_size, scores[r]);
            counts[r] = weigh(queries[r], first, count, softcap, kv.value_size, scores[r], results[r]);
        }
        tile_to_floats(kv.type, kv.values + first * kv.value_stride, kv.value_stride, kv.value_size, count, tile);
        for (int r = 0; r < query_count; r++) {
            if (!counts[r]) {
                continue;
            }
            int64_t i = 0;
            for (; i + 32 <= kv.value_size; i += 32) {
                add_values<8>(scores[r], tile + i, kv.value_size, count, results[r].sums + i);
            }
            for (; i < kv.value_size; i += 4) {
                add_values<1>(scores[r], tile + i, kv.value_size, count, results[r].sums + i);
            }
        }
    }
}

}  // namespace sippet

// ---- ggml ------------------------------------------------------------------------------------------------------------

// The rows ir0 to ir1 - 1 of a GGML_OP_FLASH_ATTN_EXT (heads, then tokens), over one of `shares` of the positions; false leaves the
// work to ggml. With `partials` the results are merged later, by ggml.
bool sippet_attention(const ggml_tensor * dst, int ir0, int ir1, int share, int shares, float * partials, int64_t partial_stride) {
    using namespace sippet;
    const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2], *mask = dst->src[3], *sinks = dst->src[4];
    const int64_t key_size = k->ne[0], value_size = v->ne[0], tokens = q->ne[1], heads = q->ne[2];
    const int64_t sharing = heads / k->ne[2];  // heads that share keys and values
    if (k->type != v->type || q->type != GGML_TYPE_F32 || !can_attend(k->type, key_size, value_size) || k->ne[2] != v->ne[2] ||
        k->ne[3] != v->ne[3]) {
        return false;
    }
    float scale, max_bias, softcap;
    std::memcpy(&scale, (const float *) dst->op_params + 0, sizeof(float));
    std::memcpy(&max_bias, (const float *) dst->op_params + 1, sizeof(float));
    std::memcpy(&softcap, (const float *) dst->op_params + 2, sizeof(float));
    // slopes of attention with linear biases (Press et al., arXiv 2108.12409)
    const uint32_t power = 1u << (uint32_t) floor(log2((double) heads));
    const auto slope_of = [=](uint32_t head) {
        if (max_bias <= 0.0f) {
            return 1.0f;
        }
        return head < power ? powf(powf(2.0f, -max_bias / power), head + 1)
                            : powf(powf(2.0f, -max_bias / 2.0f / power), 2 * (head - power) + 1);
    };

    alignas(16) float sums[MAX_QUERIES * MAX_HEAD_SIZE];
    for (int ir = ir0; ir < ir1;) {
        const int64_t batch = ir / (heads * tokens), first_head = ir / tokens % heads, kv_head = first_head / sharing;
        const int group_end = (int) (batch * heads * tokens + (kv_head + 1) * sharing * tokens);
        const int count = std::min({MAX_QUERIES, ir1 - ir, group_end - ir});
        const int64_t kv_batch = batch / (q->ne[3] / k->ne[3]);
        const keys_values kv = {
            k->type, key_size, value_size,
            (const char *) k->data + kv_head * k->nb[2] + kv_batch * k->nb[3], k->nb[1],
            (const char *) v->data + kv_head * v->nb[2] + kv_batch * v->nb[3], v->nb[1],
            k->ne[1], share, shares,
        };
        query queries[MAX_QUERIES];
        attended results[MAX_QUERIES];
        for (int r = 0; r < count; r++) {
            const int64_t head = (ir + r) / tokens % heads, token = (ir + r) % tokens;
            queries[r].row = (const float *) ((const char *) q->data + token * q->nb[1] + head * q->nb[2] + batch * q->nb[3]);
            queries[r].mask = mask ? (const uint16_t *) ((const char *) mask->data + token * mask->nb[1] +
                                                         head % mask->ne[2] * mask->nb[2] + batch % mask->ne[3] * mask->nb[3])
                                   : nullptr;
            queries[r].slope = slope_of((uint32_t) head);
            results[r].sums = sums + r * value_size;
        }
        attend(kv, queries, count, scale, softcap, results);
        for (int r = 0; r < count; r++, ir++) {
            const int64_t head = ir / tokens % heads, token = ir % tokens;
            attended & result = results[r];
            if (sinks && share == 0) {  // a score with no value behind it
                const float sink = ((const float *) sinks->data)[head];
                const float largest = std::max(sink, result.maximum), shrink = expf(result.maximum - largest);
                scale_row(result.sums, value_size, shrink);
                result.weight = result.weight * shrink + expf(sink - largest);
                result.maximum = largest;
            }
            if (partials) {
                float * partial = partials + ir * partial_stride;
                partial[0] = result.maximum;
                partial[1] = result.weight;
                std::memcpy(partial + 2, result.sums, (size_t) value_size * sizeof(float));
            } else {
                scale_row(result.sums, value_size, result.weight == 0.0f ? 0.0f : 1.0f / result.weight);
                char * out = (char *) dst->data + (batch * dst->ne[2] * dst->ne[1] + head + token * dst->ne[1]) * dst->nb[1];
                std::memcpy(out, result.sums, (size_t) value_size * sizeof(float));
            }
        }
    }
    return true;
}
