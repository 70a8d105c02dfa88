// Compares the kernels of this very build with ggml's own quantisation and plain sums in double precision. Exported, so that a
// test, or anybody with a strange processor, can run it in the browser in question.
#include "attention.h"
#include "byte_dot.h"
#include "elementwise.h"
#include "formats.h"
#include "matmul.h"
#include "pack.h"

#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "llamafile/sgemm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// A small generator with the same numbers everywhere (Marsaglia's xorshift32).
struct random_numbers {
    uint32_t state;
    float next() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        return (float) (int32_t) state / 2147483648.0f;
    }
};

// The largest error of `out`, tokens times rows, relative to the norms of the row and the token (0.01 is one percent).
double largest_error(const float * weights, const float * inputs, size_t stride, const float * out, int rows, int columns, int tokens) {
    double worst = 0.0;
    for (int t = 0; t < tokens; t++) {
        for (int row = 0; row < rows; row++) {
            const float *w = weights + row * stride, *x = inputs + t * stride;
            double sum = 0.0, w_norm = 0.0, x_norm = 0.0;
            for (int k = 0; k < columns; k++) {
                sum += (double) w[k] * x[k];
                w_norm += (double) w[k] * w[k];
                x_norm += (double) x[k] * x[k];
            }
            const double norm = std::sqrt(w_norm * x_norm);
            const double error = std::fabs(out[(size_t) t * rows + row] - sum) / (norm > 0.0 ? norm : 1.0);
            if (!(error <= worst)) {  // also true for NaN
                worst = error;
            }
        }
    }
    return worst;
}

}  // namespace

extern "C" {

// The largest error of multiply() over all outputs; see largest_error(). `scale` multiplies the tokens: 0 tests zeros. Returns -1
// for a type that isn't packed.
__attribute__((export_name("sippet_self_test_multiply"))) double
sippet_self_test_multiply(int type_number, int rows, int columns, int tokens, uint32_t seed, float scale) {
    const ggml_type type = (ggml_type) type_number;
    if (!sippet::can_pack(type, columns) || rows % 4) {
        return -1.0;
    }
    random_numbers random{seed ? seed : 1};
    std::vector<float> weights((size_t) rows * columns), inputs((size_t) tokens * columns);
    for (auto & value : weights) {
        value = random.next();
    }
    for (auto & value : inputs) {
        value = random.next() * scale;
    }
    const size_t row_bytes = ggml_row_size(type, columns);
    std::vector<uint8_t> quantised((size_t) rows * row_bytes);
    ggml_quantize_chunk(type, weights.data(), quantised.data(), 0, rows, columns, nullptr);
    for (int row = 0; row < rows; row++) {  // from here on `weights` is what the quantised bytes mean to ggml
        ggml_get_type_traits(type)->to_float(quantised.data() + row * row_bytes, weights.data() + (size_t) row * columns, columns);
    }
    sippet::pack_rows(type, quantised.data(), quantised.data(), rows, columns);

    const size_t stride = sippet::layout_for(type, columns).stride;
    std::vector<uint8_t> memory(tokens * stride), scratch(sippet::scratch_bytes(type, columns));
    std::vector<float> out((size_t) tokens * rows, NAN);
    std::vector<const uint8_t *> token_pointers;
    std::vector<float *> out_pointers;
    for (int t = 0; t < tokens; t++) {
        sippet::quantize_token(type, inputs.data() + (size_t) t * columns, columns, memory.data() + t * stride);
        token_pointers.push_back(memory.data() + t * stride);
        out_pointers.push_back(out.data() + (size_t) t * rows);
    }
    sippet::multiply(type, quantised.data(), columns, 0, rows, token_pointers.data(), out_pointers.data(), tokens, scratch.data());

    return largest_error(weights.data(), inputs.data(), columns, out.data(), rows, columns, tokens);
}

// The largest error of a product with float weights, as above. The matrices have columns to spare, which it must not read. Returns -1
// for a type that isn't its own.
__attribute__((export_name("sippet_self_test_multiply_floats"))) double
sippet_self_test_multiply_floats(int type_number, int rows, int columns, int tokens, uint32_t seed) {
    const ggml_type type = (ggml_type) type_number;
    const size_t stride = columns + 8;
    random_numbers random{seed ? seed : 1};
    std::vector<float> weights(rows * stride, NAN), inputs(tokens * stride, NAN), out((size_t) tokens * rows, NAN);
    for (int row = 0; row < rows; row++) {
        std::generate_n(&weights[row * stride], columns, [&] { return random.next(); });
    }
    for (int t = 0; t < tokens; t++) {
        std::generate_n(&inputs[t * stride], columns, [&] { return random.next(); });
    }
    std::vector<float> stored(weights);
    if (type == GGML_TYPE_F16) {
        ggml_fp32_to_fp16_row(weights.data(), (ggml_fp16_t *) stored.data(), weights.size());
        ggml_fp16_to_fp32_row((ggml_fp16_t *) stored.data(), weights.data(), weights.size());
    } else if (type == GGML_TYPE_BF16) {
        ggml_fp32_to_bf16_row(weights.data(), (ggml_bf16_t *) stored.data(), weights.size());
        ggml_bf16_to_fp32_row((ggml_bf16_t *) stored.data(), weights.data(), weights.size());
    }
    for (int thread = 0; thread < 3; thread++) {
        ggml_compute_params params{};
        params.ith = thread;
        params.nth = 3;
        if (!llamafile_sgemm(&params, rows, tokens, columns, stored.data(), stride, inputs.data(), stride, out.data(), rows, type,
                             GGML_TYPE_F32, GGML_TYPE_F32)) {
            return -1.0;
        }
    }
    return largest_error(weights.data(), inputs.data(), stride, out.data(), rows, columns, tokens);
}

// The largest error of rows that ggml itself stores in a type of eight bits, such as a quantised KV cache, in units of their scales: a
// half where they are rounded.
__attribute__((export_name("sippet_self_test_stored_rows"))) double sippet_self_test_stored_rows(int type_number, uint32_t seed) {
    const ggml_type type = (ggml_type) type_number;
    random_numbers random{seed ? seed : 1};
    double worst = 0.0;
    for (int row = 0; row < 1000; row++) {
        float values[32], largest = 0.0f;
        for (auto & value : values) {
            value = random.next();
            largest = std::max(largest, std::fabs(value));
        }
        block_q8_1 stored;  // Q8_0's with a sum
        ggml_get_type_traits_cpu(type)->from_float(values, &stored, 32);
        const int8_t * q = type == GGML_TYPE_Q8_0 ? ((block_q8_0 *) &stored)->qs : stored.qs;
        for (int k = 0; k < 32; k++) {
            worst = std::max(worst, std::fabs(values[k] / (largest / 127.0) - q[k]));
        }
    }
    return worst;
}

// How many of the 65536 half floats don't survive the way to float and back, or differ from ggml's reading.
__attribute__((export_name("sippet_self_test_halves"))) int sippet_self_test_halves() {
    int wrong = 0;
    for (uint32_t base = 0; base < 65536; base += 4) {
        uint16_t in[4], out[4];
        float floats[4];
        for (uint32_t i = 0; i < 4; i++) {
            in[i] = (uint16_t) (base + i);
        }
        wasm_v128_store(floats, sippet_from_half4(in));
        sippet_to_half4(out, wasm_v128_load(floats));
        for (int i = 0; i < 4; i++) {
            const float expected = ggml_fp16_to_fp32(in[i]);
            const bool same = std::isnan(expected) ? std::isnan(floats[i]) && (out[i] & 0x7fff) > 0x7c00
                                                   : floats[i] == expected && out[i] == in[i];
            wrong += !same;
        }
    }
    return wrong;
}

// The half float that sippet_to_half4 makes of a float.
__attribute__((export_name("sippet_self_test_to_half"))) int sippet_self_test_to_half(float x) {
    uint16_t out[4];
    sippet_to_half4(out, wasm_f32x4_splat(x));
    return out[0];
}

__attribute__((export_name("sippet_self_test_exp"))) float sippet_self_test_exp(float x) {
    return wasm_f32x4_extract_lane(sippet_exp4(wasm_f32x4_splat(x)), 0);
}

// The largest difference between unpack_row() and ggml's own reading of the same bytes.
__attribute__((export_name("sippet_self_test_unpack"))) double sippet_self_test_unpack(int type_number, int rows, int columns, uint32_t seed) {
    const ggml_type type = (ggml_type) type_number;
    if (!sippet::can_pack(type, columns) || rows % 4) {
        return -1.0;
    }
    random_numbers random{seed ? seed : 1};
    std::vector<float> weights((size_t) rows * columns), row_values(columns);
    for (auto & value : weights) {
        value = random.next();
    }
    const size_t row_bytes = ggml_row_size(type, columns);
    std::vector<uint8_t> quantised((size_t) rows * row_bytes);
    ggml_quantize_chunk(type, weights.data(), quantised.data(), 0, rows, columns, nullptr);
    std::vector<uint8_t> packed(quantised.size());
    sippet::pack_rows(type, quantised.data(), packed.data(), rows, columns);
    double worst = 0.0;
    for (int row = 0; row < rows; row++) {
        ggml_get_type_traits(type)->to_float(quantised.data() + row * row_bytes, weights.data(), columns);
        sippet::unpack_row(type, packed.data(), row, columns, row_values.data());
        for (int k = 0; k < columns; k++) {
            const double error = std::fabs((double) weights[k] - row_values[k]);
            if (!(error <= worst)) {
                worst = error;
            }
        }
    }
    return worst;
}

// The largest error of attend() over all queries, relative to the largest value. The positions are attended in two shares, which are
// merged. The last `masked` positions are masked for queries 0, 2, 4 …; a `softcap` of 0 means none. Returns -1 for what attend()
// doesn't take.
__attribute__((export_name("sippet_self_test_attend"))) double
sippet_self_test_attend(int type_number, int key_size, int value_size, int positions, int queries, int masked, float softcap, uint32_t seed) {
    const ggml_type type = (ggml_type) type_number;
    if (!sippet::can_attend(type, key_size, value_size) || queries > sippet::MAX_QUERIES) {
        return -1.0;
    }
    random_numbers random{seed ? seed : 1};
    const auto stored = [&](int size, std::vector<float> & values) {  // `values` become what the stored rows mean to ggml
        std::vector<uint8_t> rows((size_t) positions * ggml_row_size(type, size));
        for (auto & value : values) {
            value = random.next();
        }
        if (type == GGML_TYPE_F32) {
            std::memcpy(rows.data(), values.data(), rows.size());
        } else {
            ggml_quantize_chunk(type, values.data(), rows.data(), 0, positions, size, nullptr);
            ggml_get_type_traits(type)->to_float(rows.data(), values.data(), values.size());
        }
        return rows;
    };
    std::vector<float> keys((size_t) positions * key_size), values((size_t) positions * value_size);
    std::vector<float> rows((size_t) queries * key_size), sums((size_t) queries * value_size);
    const std::vector<uint8_t> key_rows = stored(key_size, keys), value_rows = stored(value_size, values);
    for (auto & value : rows) {
        value = random.next() * 8.0f;
    }
    std::vector<uint16_t> mask(positions, 0);
    std::fill(mask.end() - masked, mask.end(), (uint16_t) 0xfc00);
    sippet::query query[sippet::MAX_QUERIES];
    sippet::attended result[sippet::MAX_QUERIES], other[sippet::MAX_QUERIES];
    std::vector<float> other_sums(sums.size());
    for (int r = 0; r < queries; r++) {
        query[r] = {&rows[(size_t) r * key_size], r % 2 == 0 ? mask.data() : nullptr, 1.0f};
        result[r].sums = &sums[(size_t) r * value_size];
        other[r].sums = &other_sums[(size_t) r * value_size];
    }
    const float scale = 1.0f / sqrtf((float) key_size);
    const auto attend_share = [&](int share, sippet::attended * to) {
        sippet::attend({type, key_size, value_size, (const char *) key_rows.data(), ggml_row_size(type, key_size),
                        (const char *) value_rows.data(), ggml_row_size(type, value_size), positions, share, 2},
                       query, queries, scale, softcap, to);
    };
    attend_share(0, result);
    attend_share(1, other);
    for (int r = 0; r < queries; r++) {
        const float largest = std::max(result[r].maximum, other[r].maximum);
        const auto factor = [=](const sippet::attended & share) { return share.weight == 0.0f ? 0.0f : expf(share.maximum - largest); };
        const float mine = factor(result[r]), its = factor(other[r]);
        result[r].weight = mine * result[r].weight + its * other[r].weight;
        for (int i = 0; i < value_size; i++) {
            result[r].sums[i] = mine * result[r].sums[i] + its * other[r].sums[i];
        }
    }

    double worst = 0.0;
    for (int r = 0; r < queries; r++) {
        std::vector<double> scores(positions), expected(value_size, 0.0);
        const int seen = r % 2 == 0 ? positions - masked : positions;
        double largest = -INFINITY, weight = 0.0;
        for (int t = 0; t < seen; t++) {
            for (int i = 0; i < key_size; i++) {
                scores[t] += (double) rows[(size_t) r * key_size + i] * keys[(size_t) t * key_size + i] * scale;
            }
            scores[t] = softcap != 0.0f ? softcap * std::tanh(scores[t] / softcap) : scores[t];
            largest = std::max(largest, scores[t]);
        }
        for (int t = 0; t < seen; t++) {
            const double p = std::exp(scores[t] - largest);
            weight += p;
            for (int i = 0; i < value_size; i++) {
                expected[i] += p * values[(size_t) t * value_size + i];
            }
        }
        for (int i = 0; i < value_size; i++) {
            const double error = std::fabs(result[r].sums[i] / result[r].weight - (seen ? expected[i] / weight : NAN));
            if (seen ? !(error <= worst) : result[r].weight != 0.0f) {
                worst = seen ? error : 1.0;
            }
        }
    }
    return worst;
}

// What the processor's byte dot product does: 0 takes seven bits, 1 unsigned bytes, 2 signed bytes.
__attribute__((export_name("sippet_self_test_byte_dot"))) int sippet_self_test_byte_dot() { return (int) sippet::byte_dot_reads(); }

}  // extern "C"
