// Matrix products with float weights (F16, BF16 and F32), which ggml offers to a function of this name before it computes them
// itself. Tokens stay floats: rounding them to the weights' type, as ggml does, would cost time and precision.
//
// Up to TILE_TOKENS tokens: each weight is converted in a register, once, and used at once for all of them.
// More tokens: a panel of rows is converted once into memory that stays in the first-level cache.
#include "llamafile/sgemm.h"

#include "ggml-cpu-impl.h"
#include "row_share.h"
#include "simd.h"

#include <algorithm>

namespace sippet {

namespace {

constexpr int TILE_ROWS = 4, TILE_TOKENS = 3;  // 12 sums and 4 weights: the sixteen registers that x86 has
constexpr int PANEL_ROWS = ROW_STEP, PANEL_COLUMNS = 512;  // 16 KiB

struct half { uint16_t bits; };
struct bfloat { uint16_t bits; };

SIPPET_INLINE v128_t load4(const float * p) { return wasm_v128_load(p); }
SIPPET_INLINE v128_t load4(const half * p) { return load_half4(p); }
SIPPET_INLINE v128_t load4(const bfloat * p) { return wasm_i32x4_shl(wasm_u32x4_load16x4(p), 16); }

float to_float(float x) { return x; }
float to_float(half x) { return ggml_fp16_to_fp32(x.bits); }
float to_float(bfloat x) { return ggml_bf16_to_fp32({x.bits}); }

// A matrix by rows; `stride` counts elements.
template <class T> struct matrix {
    T * data;
    int64_t stride;
    T * at(int64_t row, int64_t column) const { return data + row * stride + column; }
    matrix from(int64_t row, int64_t column) const { return {at(row, column), stride}; }
};

// The sums of the lanes of four vectors, as one vector.
SIPPET_INLINE v128_t lane_sums(const v128_t * v) {
    const v128_t low01 = wasm_i32x4_shuffle(v[0], v[1], 0, 4, 1, 5), high01 = wasm_i32x4_shuffle(v[0], v[1], 2, 6, 3, 7);
    const v128_t low23 = wasm_i32x4_shuffle(v[2], v[3], 0, 4, 1, 5), high23 = wasm_i32x4_shuffle(v[2], v[3], 2, 6, 3, 7);
    const v128_t s01 = wasm_f32x4_add(low01, high01), s23 = wasm_f32x4_add(low23, high23);
    return wasm_f32x4_add(wasm_i64x2_shuffle(s01, s23, 0, 2), wasm_i64x2_shuffle(s01, s23, 1, 3));
}

// ROWS rows of weights times TOKENS tokens over `columns` columns, added to what is in `out` or, for the first columns, put there.
template <class W, int ROWS, int TOKENS>
void multiply_tile(matrix<const W> w, matrix<const float> x, int64_t columns, matrix<float> out, bool is_first) {
    v128_t sums[TOKENS][TILE_ROWS];
    for (auto & token : sums) {
        std::fill(token, token + TILE_ROWS, wasm_f32x4_splat(0.0f));
    }
    int64_t k = 0;
    for (; k + 3 < columns; k += 4) {
        v128_t weights[ROWS];
        for (int r = 0; r < ROWS; r++) {
            weights[r] = load4(w.at(r, k));
        }
        for (int t = 0; t < TOKENS; t++) {
            const v128_t token = load4(x.at(t, k));
            for (int r = 0; r < ROWS; r++) {
                sums[t][r] = multiply_add(weights[r], token, sums[t][r]);
            }
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        float total[TILE_ROWS];
        wasm_v128_store(total, lane_sums(sums[t]));
        for (int r = 0; r < ROWS; r++) {
            for (int64_t rest = k; rest < columns; rest++) {
                total[r] += to_float(*w.at(r, rest)) * *x.at(t, rest);
            }
            float & place = *out.at(t, r);
            place = is_first ? total[r] : place + total[r];
        }
    }
}

template <class W, int TOKENS>
void multiply_rows(matrix<const W> w, int64_t rows, matrix<const float> x, int64_t columns, matrix<float> out, bool is_first) {
    int64_t r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS) {
        multiply_tile<W, TILE_ROWS, TOKENS>(w.from(r, 0), x, columns, out.from(0, r), is_first);
    }
    for (; r < rows; r++) {
        multiply_tile<W, 1, TOKENS>(w.from(r, 0), x, columns, out.from(0, r), is_first);
    }
}

template <class W>
void multiply_tokens(matrix<const W> w, int64_t rows, matrix<const float> x, int64_t tokens, int64_t columns, matrix<float> out, bool is_first) {
    int64_t t = 0;
    for (; t + TILE_TOKENS <= tokens; t += TILE_TOKENS) {
        multiply_rows<W, TILE_TOKENS>(w, rows, x.from(t, 0), columns, out.from(t, 0), is_first);
    }
    if (tokens - t == 2) {
        multiply_rows<W, 2>(w, rows, x.from(t, 0), columns, out.from(t, 0), is_first);
    } else if (tokens - t == 1) {
        multiply_rows<W, 1>(w, rows, x.from(t, 0), columns, out.from(t, 0), is_first);
    }
}

template <class W> void convert(const W * in, int64_t count, float * out) {
    int64_t i = 0;
    for (; i + 3 < count; i += 4) {
        wasm_v128_store(out + i, load4(in + i));
    }
    for (; i < count; i++) {
        out[i] = to_float(in[i]);
    }
}

template <class W> void multiply(matrix<const W> w, int64_t rows, matrix<const float> x, int64_t tokens, int64_t columns, matrix<float> out) {
    if (tokens <= TILE_TOKENS) {
        return multiply_tokens(w, rows, x, tokens, columns, out, true);
    }
    alignas(16) float panel[PANEL_ROWS * PANEL_COLUMNS];
    for (int64_t row = 0; row < rows; row += PANEL_ROWS) {
        const int64_t panel_rows = std::min<int64_t>(PANEL_ROWS, rows - row);
        for (int64_t column = 0; column < columns; column += PANEL_COLUMNS) {
            const int64_t panel_columns = std::min<int64_t>(PANEL_COLUMNS, columns - column);
            for (int64_t r = 0; r < panel_rows; r++) {
                convert(w.at(row + r, column), panel_columns, panel + r * PANEL_COLUMNS);
            }
            const matrix<const float> converted{panel, PANEL_COLUMNS};
            multiply_tokens(converted, panel_rows, x.from(0, column), tokens, panel_columns, out.from(0, row), column == 0);
        }
    }
}

// This thread's share of a product; see llamafile_sgemm() for the names.
template <class W>
void multiply_share(const ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * a, int64_t lda, const void * b,
                    int64_t ldb, void * c, int64_t ldc) {
    const auto [first, last] = share_of_rows(params, m);
    if (first < last) {
        const matrix<const W> w{(const W *) a, lda};
        multiply(w.from(first, 0), last - first, {(const float *) b, ldb}, n, k, matrix<float>{(float *) c, ldc}.from(0, first));
    }
}

}  // namespace

}  // namespace sippet

// c[j * ldc + i] = sum over k of a[i * lda + k] * b[j * ldb + k], for m rows i of weights and n tokens j; strides count elements.
// False, and nothing done, for types that aren't ours.
bool llamafile_sgemm(const ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * a, int64_t lda, const void * b,
                     int64_t ldb, void * c, int64_t ldc, int a_type, int b_type, int c_type) {
    if (b_type != GGML_TYPE_F32 || c_type != GGML_TYPE_F32) {
        return false;
    }
    switch (a_type) {
        case GGML_TYPE_F16:  sippet::multiply_share<sippet::half>(params, m, n, k, a, lda, b, ldb, c, ldc); return true;
        case GGML_TYPE_BF16: sippet::multiply_share<sippet::bfloat>(params, m, n, k, a, lda, b, ldb, c, ldc); return true;
        case GGML_TYPE_F32:  sippet::multiply_share<float>(params, m, n, k, a, lda, b, ldb, c, ldc); return true;
        default:             return false;
    }
}
