// Compares the kernels of this very build with ggml's own quantisation and plain sums in double precision. Exported, so that a
// test, or anybody with a strange processor, can run it in the browser in question.
#include "elementwise.h"
#include "matmul.h"
#include "pack.h"

#include "ggml.h"

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

}  // namespace

extern "C" {

// The largest error of multiply() over all outputs, relative to the norms of the row and the token (0.01 is one percent).
// `scale` multiplies the tokens: 0 tests zeros. Returns -1 for a type that isn't packed.
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

    double worst = 0.0;
    for (int t = 0; t < tokens; t++) {
        for (int row = 0; row < rows; row++) {
            const float *w = &weights[(size_t) row * columns], *x = &inputs[(size_t) t * columns];
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

}  // extern "C"
