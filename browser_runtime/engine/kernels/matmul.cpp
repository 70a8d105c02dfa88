// Matrix products with packed weights: see formats.h for what a group, a unit, a chunk and a pair are.
//
// Few tokens (decoding): weights are unpacked in registers and used at once for all tokens; nothing is written back.
// Many tokens (prefill): a panel of PANEL_GROUPS groups is unpacked once into scratch memory that stays in the first-level
// cache, and multiplied with four tokens at a time.
#include "matmul.h"

#include "formats.h"

#include <algorithm>

namespace sippet {

namespace {

constexpr int PANEL_GROUPS = 2;
constexpr int TILE_TOKENS = 4;
constexpr int FEW_TOKENS = 3;           // at most this many tokens go without a panel
constexpr int64_t PANEL_COLUMNS = 1024;  // a panel this long takes 16 KiB at most, next to its tokens in the first-level cache

template <bool Seven> struct dot;

// Four columns at once: signed 8-bit activations times unsigned weights below 128, which every processor's instruction for
// i32x4.relaxed_dot_i8x16_i7x16_add computes alike.
template <> struct dot<true> {
    static constexpr int STEPS = 8, STEP_BYTES = 4, VALUE_BYTES = 1;
#ifdef __wasm_relaxed_simd__
    SIPPET_INLINE v128_t add(v128_t sum, v128_t activation, v128_t weight) {
        return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(activation, weight, sum);
    }
#endif
    template <class F> SIPPET_INLINE v128_t weight(const F & b, int unit, int step) {
        return load_chunk<F::BITS>(b.q[unit], b.high(unit), step);
    }
};

// Two columns at once in 16 bits.
template <> struct dot<false> {
    static constexpr int STEPS = 16, STEP_BYTES = 4, VALUE_BYTES = 2;
    SIPPET_INLINE v128_t add(v128_t sum, v128_t activation, v128_t weight) {
        return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(activation, weight));
    }
    template <class F> SIPPET_INLINE v128_t weight(const F & b, int unit, int step) {
        return load_pair<F::BITS>(b.q[unit], b.high(unit), step);
    }
};

template <class F> constexpr activation_layout layout(int64_t columns) {
    const size_t values = (size_t) columns * dot<SEVEN_BIT<F>>::VALUE_BYTES;
    const size_t floats = (size_t) columns / UNIT * (1 + F::HALVES);
    return {(values + floats * sizeof(float) + 63) & ~(size_t) 63, values};
}

template <class F> void quantize(const float * in, int64_t columns, uint8_t * out) {
    constexpr bool SEVEN = SEVEN_BIT<F>;
    const int64_t units = columns / UNIT;
    float * scale = (float *) (out + layout<F>(columns).scale_offset);
    float * sums = scale + units;
    for (int64_t u = 0; u < units; u++, in += UNIT, out += UNIT * dot<SEVEN>::VALUE_BYTES) {
        v128_t v[8], largest = wasm_f32x4_splat(0.0f);
        for (int i = 0; i < 8; i++) {
            v[i] = wasm_v128_load(in + 4 * i);
            largest = wasm_f32x4_max(largest, wasm_f32x4_abs(v[i]));
        }
        const float d = horizontal_max(largest) / 127.0f;
        const v128_t inverse = wasm_f32x4_splat(d != 0.0f ? 1.0f / d : 0.0f);
        v128_t half[4];
        for (int i = 0; i < 4; i++) {
            const v128_t a = wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(v[2 * i], inverse)));
            const v128_t b = wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(v[2 * i + 1], inverse)));
            half[i] = wasm_i16x8_narrow_i32x4(a, b);
        }
        if constexpr (SEVEN) {
            wasm_v128_store(out, wasm_i8x16_narrow_i16x8(half[0], half[1]));
            wasm_v128_store(out + 16, wasm_i8x16_narrow_i16x8(half[2], half[3]));
        } else {
            for (int i = 0; i < 4; i++) {
                wasm_v128_store(out + 16 * i, half[i]);
            }
        }
        scale[u] = d;
        const float first = d * (float) horizontal_sum(wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_add(half[0], half[1])));
        const float second = d * (float) horizontal_sum(wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_add(half[2], half[3])));
        if constexpr (F::HALVES == 2) {
            sums[2 * u] = first;
            sums[2 * u + 1] = second;
        } else {
            sums[u] = first + second;
        }
    }
}

// ---- few tokens ------------------------------------------------------------------------------------------------------

template <class F, int GROUPS, int TOKENS>
SIPPET_INLINE void multiply_direct(const F * const * group, int64_t blocks, const activation_layout & at, const uint8_t * const * tokens,
                                   float * const * outs, int64_t row) {
    using D = dot<SEVEN_BIT<F>>;
    constexpr int HALVES = F::HALVES, SCALES = F::UNITS * HALVES, UNIT_BYTES = UNIT * D::VALUE_BYTES;
    v128_t total[GROUPS][TOKENS];
    for (int g = 0; g < GROUPS; g++) {
        for (int t = 0; t < TOKENS; t++) {
            total[g][t] = wasm_f32x4_splat(0.0f);
        }
    }
    const int64_t units = blocks * F::UNITS;
    for (int64_t b = 0; b < blocks; b++) {
        scales<SCALES> s[GROUPS];
        for (int g = 0; g < GROUPS; g++) {
            load_scales(group[g][b], s[g]);
        }
        for (int unit = 0; unit < F::UNITS; unit++) {
            const int64_t u = b * F::UNITS + unit;
            v128_t sum[GROUPS][TOKENS][HALVES];
            for (int g = 0; g < GROUPS; g++) {
                for (int t = 0; t < TOKENS; t++) {
                    for (int h = 0; h < HALVES; h++) {
                        sum[g][t][h] = wasm_i32x4_splat(0);
                    }
                }
            }
#pragma clang loop unroll(full)
            for (int step = 0; step < D::STEPS; step++) {
                const int h = HALVES == 2 ? step / (D::STEPS / 2) : 0;
                v128_t a[TOKENS];
                for (int t = 0; t < TOKENS; t++) {
                    a[t] = wasm_v128_load32_splat(tokens[t] + u * UNIT_BYTES + step * D::STEP_BYTES);
                }
#pragma clang loop unroll(full)
                for (int g = 0; g < GROUPS; g++) {
                    const v128_t w = D::template weight<F>(group[g][b], unit, step);
                    for (int t = 0; t < TOKENS; t++) {
                        sum[g][t][h] = D::add(sum[g][t][h], a[t], w);
                    }
                }
            }
            for (int t = 0; t < TOKENS; t++) {
                const float * scale = (const float *) (tokens[t] + at.scale_offset);
                const v128_t d = splat_from(scale + u);
                for (int h = 0; h < HALVES; h++) {
                    const v128_t weighted_sum = splat_from(scale + units + u * HALVES + h);
                    for (int g = 0; g < GROUPS; g++) {
                        const int i = unit * HALVES + h;
                        const v128_t product = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sum[g][t][h]), d);
                        total[g][t] = multiply_add(s[g].d[i], product, total[g][t]);
                        if constexpr (F::HAS_MINIMUM) {
                            total[g][t] = multiply_add(s[g].m[i], weighted_sum, total[g][t]);
                        }
                    }
                }
            }
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        for (int g = 0; g < GROUPS; g++) {
            wasm_v128_store(outs[t] + row + g * ROWS, total[g][t]);
        }
    }
}

template <class F, int TOKENS>
void multiply_few(const F * packed, int64_t columns, int64_t first_row, int64_t last_row, const uint8_t * const * tokens, float * const * outs) {
    const int64_t blocks = columns / (F::UNITS * UNIT);
    const activation_layout at = layout<F>(columns);
    int64_t row = first_row;
    for (; row + 2 * ROWS <= last_row; row += 2 * ROWS) {
        const F * groups[2] = {packed + row / ROWS * blocks, packed + (row / ROWS + 1) * blocks};
        multiply_direct<F, 2, TOKENS>(groups, blocks, at, tokens, outs, row);
    }
    if (row < last_row) {
        const F * groups[1] = {packed + row / ROWS * blocks};
        multiply_direct<F, 1, TOKENS>(groups, blocks, at, tokens, outs, row);
    }
}

// ---- many tokens -----------------------------------------------------------------------------------------------------

// Unpacked weights of GROUPS groups: for each unit all steps of all groups, then the scales in the same order.
template <class F, int GROUPS> struct panel {
    using D = dot<SEVEN_BIT<F>>;
    static constexpr int UNIT_VECTORS = D::STEPS * GROUPS;
    static constexpr int UNIT_SCALES = F::HALVES * GROUPS;

    v128_t * weights;
    v128_t * d;
    v128_t * m;

    explicit panel(uint8_t * memory) {
        const int64_t units = PANEL_COLUMNS / UNIT;
        weights = (v128_t *) memory;
        d = weights + units * UNIT_VECTORS;
        m = d + units * UNIT_SCALES;
    }

    static constexpr size_t bytes() { return PANEL_COLUMNS / UNIT * (UNIT_VECTORS + 2 * UNIT_SCALES) * sizeof(v128_t); }

    void fill(const F * const * group, int64_t first_block, int64_t block_count) {
        v128_t * w = weights;
        for (int64_t b = 0; b < block_count; b++) {
            scales<F::UNITS * F::HALVES> s[GROUPS];
            for (int g = 0; g < GROUPS; g++) {
                load_scales(group[g][first_block + b], s[g]);
            }
            for (int unit = 0; unit < F::UNITS; unit++) {
#pragma clang loop unroll(full)
                for (int step = 0; step < D::STEPS; step++) {
                    for (int g = 0; g < GROUPS; g++) {
                        *w++ = D::template weight<F>(group[g][first_block + b], unit, step);
                    }
                }
                const int64_t u = b * F::UNITS + unit;
                for (int h = 0; h < F::HALVES; h++) {
                    for (int g = 0; g < GROUPS; g++) {
                        d[(u * F::HALVES + h) * GROUPS + g] = s[g].d[unit * F::HALVES + h];
                        m[(u * F::HALVES + h) * GROUPS + g] = s[g].m[unit * F::HALVES + h];
                    }
                }
            }
        }
    }
};

// Multiply the panel with TOKENS tokens; adds to the output unless this is the first part of the columns.
template <class F, int GROUPS, int TOKENS>
void multiply_tile(const panel<F, GROUPS> & p, int64_t first_unit, int64_t unit_count, int64_t units, const activation_layout & at,
                   const uint8_t * const * tokens, float * const * outs, int64_t row) {
    using D = dot<SEVEN_BIT<F>>;
    constexpr int HALVES = F::HALVES, UNIT_BYTES = UNIT * D::VALUE_BYTES;
    v128_t total[GROUPS][TOKENS];
    const uint8_t * values[TOKENS];
    const float * scale[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        values[t] = tokens[t] + first_unit * UNIT_BYTES;
        scale[t] = (const float *) (tokens[t] + at.scale_offset) + first_unit;
        for (int g = 0; g < GROUPS; g++) {
            total[g][t] = first_unit ? wasm_v128_load(outs[t] + row + g * ROWS) : wasm_f32x4_splat(0.0f);
        }
    }
    const v128_t * w = p.weights;
    for (int64_t u = 0; u < unit_count; u++) {
#pragma clang loop unroll(full)
        for (int h = 0; h < HALVES; h++) {
            v128_t sum[GROUPS][TOKENS];
            for (int g = 0; g < GROUPS; g++) {
                for (int t = 0; t < TOKENS; t++) {
                    sum[g][t] = wasm_i32x4_splat(0);
                }
            }
#pragma clang loop unroll(full)
            for (int step = h * D::STEPS / HALVES; step < (h + 1) * D::STEPS / HALVES; step++) {
                v128_t weight[GROUPS];
                for (int g = 0; g < GROUPS; g++) {
                    weight[g] = w[step * GROUPS + g];
                }
                for (int t = 0; t < TOKENS; t++) {
                    const v128_t a = wasm_v128_load32_splat(values[t] + step * D::STEP_BYTES);
                    for (int g = 0; g < GROUPS; g++) {
                        sum[g][t] = D::add(sum[g][t], a, weight[g]);
                    }
                }
            }
            const v128_t * d = p.d + (u * HALVES + h) * GROUPS;
            const v128_t * m = p.m + (u * HALVES + h) * GROUPS;
            for (int t = 0; t < TOKENS; t++) {
                const v128_t token_d = splat_from(scale[t] + u);
                // the sums follow the scales of all units; scale[t] points at this part's first unit
                const v128_t token_sum = splat_from(scale[t] + units + first_unit * (HALVES - 1) + u * HALVES + h);
                for (int g = 0; g < GROUPS; g++) {
                    const v128_t product = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sum[g][t]), token_d);
                    total[g][t] = multiply_add(d[g], product, total[g][t]);
                    if constexpr (F::HAS_MINIMUM) {
                        total[g][t] = multiply_add(m[g], token_sum, total[g][t]);
                    }
                }
            }
        }
        w += panel<F, GROUPS>::UNIT_VECTORS;
        for (int t = 0; t < TOKENS; t++) {
            values[t] += UNIT_BYTES;
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        for (int g = 0; g < GROUPS; g++) {
            wasm_v128_store(outs[t] + row + g * ROWS, total[g][t]);
        }
    }
}

template <class F, int GROUPS>
void multiply_panel(const F * packed, int64_t columns, int64_t row, const uint8_t * const * tokens, float * const * outs, int64_t token_count,
                    uint8_t * scratch) {
    const int64_t blocks = columns / (F::UNITS * UNIT), units = columns / UNIT;
    const int64_t blocks_a_part = PANEL_COLUMNS / (F::UNITS * UNIT);
    const activation_layout at = layout<F>(columns);
    panel<F, GROUPS> p(scratch);
    const F * group[GROUPS];
    for (int g = 0; g < GROUPS; g++) {
        group[g] = packed + (row / ROWS + g) * blocks;
    }
    for (int64_t first = 0; first < blocks; first += blocks_a_part) {
        const int64_t count = std::min(blocks_a_part, blocks - first);
        const int64_t first_unit = first * F::UNITS, unit_count = count * F::UNITS;
        p.fill(group, first, count);
        int64_t t = 0;
        for (; t + TILE_TOKENS <= token_count; t += TILE_TOKENS) {
            multiply_tile<F, GROUPS, TILE_TOKENS>(p, first_unit, unit_count, units, at, tokens + t, outs + t, row);
        }
        for (; t < token_count; t++) {
            multiply_tile<F, GROUPS, 1>(p, first_unit, unit_count, units, at, tokens + t, outs + t, row);
        }
    }
}

template <class F>
void multiply_all(const void * packed, int64_t columns, int64_t first_row, int64_t last_row, const uint8_t * const * tokens,
                  float * const * outs, int64_t token_count, uint8_t * scratch) {
    const F * weights = (const F *) packed;
    switch (token_count) {
        case 1: return multiply_few<F, 1>(weights, columns, first_row, last_row, tokens, outs);
        case 2: return multiply_few<F, 2>(weights, columns, first_row, last_row, tokens, outs);
        case 3: return multiply_few<F, 3>(weights, columns, first_row, last_row, tokens, outs);
        default: break;
    }
    int64_t row = first_row;
    for (; row + PANEL_GROUPS * ROWS <= last_row; row += PANEL_GROUPS * ROWS) {
        multiply_panel<F, PANEL_GROUPS>(weights, columns, row, tokens, outs, token_count, scratch);
    }
    for (; row < last_row; row += ROWS) {
        multiply_panel<F, 1>(weights, columns, row, tokens, outs, token_count, scratch);
    }
}

// Call `action` with the packed format of a type as its template argument.
template <class Action> auto with_format(ggml_type type, Action action) {
    switch (type) {
        case GGML_TYPE_Q4_0: return action.template operator()<packed_q4_0>();
        case GGML_TYPE_Q4_1: return action.template operator()<packed_q4_1>();
        case GGML_TYPE_Q5_0: return action.template operator()<packed_q5_0>();
        case GGML_TYPE_Q5_1: return action.template operator()<packed_q5_1>();
        case GGML_TYPE_Q8_0: return action.template operator()<packed_q8_0>();
        case GGML_TYPE_Q4_K: return action.template operator()<packed_q4_k>();
        case GGML_TYPE_Q5_K: return action.template operator()<packed_q5_k>();
        case GGML_TYPE_Q6_K: return action.template operator()<packed_q6_k>();
        default:             GGML_ABORT("type %d isn't packed", (int) type);
    }
}

}  // namespace

activation_layout layout_for(ggml_type type, int64_t columns) {
    return with_format(type, [=]<class F>() { return layout<F>(columns); });
}

void quantize_token(ggml_type type, const float * in, int64_t columns, uint8_t * out) {
    with_format(type, [=]<class F>() { quantize<F>(in, columns, out); });
}

size_t scratch_bytes(ggml_type type, int64_t /*columns*/) {
    return with_format(type, []<class F>() { return panel<F, PANEL_GROUPS>::bytes(); });
}

void multiply(ggml_type type, const void * packed, int64_t columns, int64_t first_row, int64_t last_row, const uint8_t * const * tokens,
              float * const * outs, int64_t token_count, uint8_t * scratch) {
    with_format(type, [=]<class F>() {
        multiply_all<F>(packed, columns, first_row, last_row, tokens, outs, token_count, scratch);
    });
}

}  // namespace sippet
