// Causal attention over documents that lie end to end, forward and backward, without padding and without a
// [tokens, tokens] matrix. Only the keys that a block of queries may see are touched. One task is one document and one
// key/value head with the query heads that share it, so no two tasks write to the same place.
#pragma once

#include "element.hpp"

namespace {

// Columns of one tile; widths of right-hand matrices are padded to it.
constexpr i64 panel = 2 * lanes;
constexpr i64 tile_rows = 6;
constexpr i64 query_block = 48;

inline i64 padded(i64 width) { return (width + panel - 1) / panel * panel; }

// C[rows, panel] (+)= A[rows, depth] B[depth, panel]; A has any strides.
template <int rows>
inline void tile(i64 depth, const float *a, i64 a_row, i64 a_column, const float *b, i64 b_row, float *c, i64 c_row,
                 bool accumulate) {
    vector left[rows], right[rows];
    for (int r = 0; r < rows; ++r) {
        left[r] = accumulate ? *reinterpret_cast<const vector *>(c + r * c_row) : vector{};
        right[r] = accumulate ? *reinterpret_cast<const vector *>(c + r * c_row + lanes) : vector{};
    }
    for (i64 k = 0; k < depth; ++k) {
        const vector first = *reinterpret_cast<const vector *>(b + k * b_row);
        const vector second = *reinterpret_cast<const vector *>(b + k * b_row + lanes);
        for (int r = 0; r < rows; ++r) {
            const float factor = a[r * a_row + k * a_column];
            left[r] += factor * first;
            right[r] += factor * second;
        }
    }
    for (int r = 0; r < rows; ++r) {
        *reinterpret_cast<vector *>(c + r * c_row) = left[r];
        *reinterpret_cast<vector *>(c + r * c_row + lanes) = right[r];
    }
}

// C[rows, columns] (+)= A[rows, depth] B[depth, columns]; columns are a multiple of `panel`.
void multiply(i64 rows, i64 columns, i64 depth, const float *a, i64 a_row, i64 a_column, const float *b, i64 b_row,
              float *c, i64 c_row, bool accumulate) {
    for (i64 j = 0; j < columns; j += panel) {
        i64 i = 0;
        for (; i + tile_rows <= rows; i += tile_rows) {
            tile<tile_rows>(depth, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row, accumulate);
        }
        const float *rest = a + i * a_row;
        float *place = c + i * c_row + j;
        switch (rows - i) {
        case 5: tile<5>(depth, rest, a_row, a_column, b + j, b_row, place, c_row, accumulate); break;
        case 4: tile<4>(depth, rest, a_row, a_column, b + j, b_row, place, c_row, accumulate); break;
        case 3: tile<3>(depth, rest, a_row, a_column, b + j, b_row, place, c_row, accumulate); break;
        case 2: tile<2>(depth, rest, a_row, a_column, b + j, b_row, place, c_row, accumulate); break;
        case 1: tile<1>(depth, rest, a_row, a_column, b + j, b_row, place, c_row, accumulate); break;
        default: break;
        }
    }
}

struct AttentionShape {
    i64 heads, kv_heads, head_columns;
    float scale;
    i64 window; // 0 is none
    float cap;  // 0 is none
};

// to[rows, width] = from, columns beyond `columns` zero.
template <typename T>
void widen(i64 rows, i64 columns, const T *from, i64 from_row, float *to, i64 width) {
    for (i64 r = 0; r < rows; ++r) {
        for (i64 c = 0; c < columns; ++c) {
            to[r * width + c] = wide(from[r * from_row + c]);
        }
        for (i64 c = columns; c < width; ++c) {
            to[r * width + c] = 0.0f;
        }
    }
}

// to[columns, width] = from[rows, columns] transposed, columns beyond `rows` zero.
void transpose(i64 rows, i64 columns, const float *from, i64 from_row, float *to, i64 width) {
    for (i64 c = 0; c < columns; ++c) {
        for (i64 r = 0; r < rows; ++r) {
            to[c * width + r] = from[r * from_row + c];
        }
        for (i64 r = rows; r < width; ++r) {
            to[c * width + r] = 0.0f;
        }
    }
}

template <typename T> void narrow(i64 rows, i64 columns, const float *from, i64 width, T *to, i64 to_row) {
    for (i64 r = 0; r < rows; ++r) {
        for (i64 c = 0; c < columns; ++c) {
            store(to + r * to_row + c, from[r * width + c]);
        }
    }
}

// The first key that query `row` sees, and the tile-aligned first key that any query from `row` on sees.
inline i64 first_key(const AttentionShape &shape, i64 row) {
    return shape.window > 0 && row + 1 > shape.window ? row + 1 - shape.window : 0;
}
inline i64 first_column(const AttentionShape &shape, i64 row) { return first_key(shape, row) / panel * panel; }

inline float capped(const AttentionShape &shape, float score) {
    return shape.cap > 0.0f ? shape.cap * hyperbolic_tangent(score / shape.cap) : score;
}

// Scores of one query row over [from, to) become probabilities times their sum; returns the sum, sets the maximum.
inline float soften(const AttentionShape &shape, float *score, i64 from, i64 to, float *maximum) {
    float most = -__builtin_inff();
    if (shape.cap > 0.0f) {
#pragma omp simd reduction(max : most)
        for (i64 c = from; c < to; ++c) {
            score[c] = capped(shape, score[c] * shape.scale);
            most = larger(most, score[c]);
        }
    } else {
#pragma omp simd reduction(max : most)
        for (i64 c = from; c < to; ++c) {
            score[c] *= shape.scale;
            most = larger(most, score[c]);
        }
    }
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (i64 c = from; c < to; ++c) {
        score[c] = exponential(score[c] - most);
        sum += score[c];
    }
    *maximum = most;
    return sum;
}

template <typename T>
void attend_document(const AttentionShape &shape, i64 length, i64 kv_head, const T *qkv, i64 qkv_row, T *out,
                     i64 out_row, float *lse) {
    const i64 columns = shape.head_columns, wide_columns = padded(columns), keys = padded(length);
    const i64 group = shape.heads / shape.kv_heads;
    const T *k = qkv + (shape.heads + kv_head) * columns;
    const T *v = qkv + (shape.heads + shape.kv_heads + kv_head) * columns;
    Scratch scratch(2 * keys * wide_columns + columns * keys + query_block * (keys + 2 * wide_columns));
    float *key = scratch.take(keys * wide_columns), *value = scratch.take(keys * wide_columns);
    float *key_columns = scratch.take(columns * keys);
    float *scores = scratch.take(query_block * keys);
    float *query = scratch.take(query_block * wide_columns), *mixed = scratch.take(query_block * wide_columns);
    widen(length, columns, k, qkv_row, key, wide_columns);
    widen(length, columns, v, qkv_row, value, wide_columns);
    transpose(length, columns, key, wide_columns, key_columns, keys);
    for (i64 head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (i64 start = 0; start < length; start += query_block) {
            const i64 rows = smaller(query_block, length - start);
            const i64 from = first_column(shape, start), to = padded(start + rows);
            const i64 depth = smaller(to, length) - from;
            widen(rows, columns, qkv + start * qkv_row + head * columns, qkv_row, query, wide_columns);
            multiply(rows, to - from, columns, query, wide_columns, 1, key_columns + from, keys, scores + from, keys, false);
            for (i64 r = 0; r < rows; ++r) {
                float *score = scores + r * keys, most;
                const i64 low = first_key(shape, start + r), high = start + r + 1;
                const float sum = soften(shape, score, low, high, &most);
                clear(score, from, low);
                clear(score, high, to);
                const float share = 1.0f / sum;
                for (i64 c = low; c < high; ++c) {
                    score[c] *= share;
                }
                if (lse) {
                    lse[(start + r) * shape.heads + head] = most + __builtin_logf(sum);
                }
            }
            multiply(rows, wide_columns, depth, scores + from, keys, 1, value + from * wide_columns, wide_columns, mixed, wide_columns, false);
            narrow(rows, columns, mixed, wide_columns, out + start * out_row + head * columns, out_row);
        }
    }
}

// Scores and gradients of probabilities of one query row become probabilities and gradients of scores.
inline void steepen(const AttentionShape &shape, float *score, float *slope, i64 from, i64 to, float lse, float delta) {
    if (shape.cap > 0.0f) {
#pragma omp simd
        for (i64 c = from; c < to; ++c) {
            const float value = capped(shape, score[c] * shape.scale);
            const float bend = 1.0f - value / shape.cap * (value / shape.cap);
            score[c] = exponential(value - lse);
            slope[c] = score[c] * (slope[c] - delta) * shape.scale * bend;
        }
        return;
    }
#pragma omp simd
    for (i64 c = from; c < to; ++c) {
        score[c] = exponential(score[c] * shape.scale - lse);
        slope[c] = score[c] * (slope[c] - delta) * shape.scale;
    }
}

template <typename T>
void attend_document_backward(const AttentionShape &shape, i64 length, i64 kv_head, const T *qkv, i64 qkv_row,
                              const T *out, const T *gradient, i64 out_row, const float *lse, T *result,
                              i64 result_row) {
    const i64 columns = shape.head_columns, wide_columns = padded(columns), keys = padded(length);
    const i64 group = shape.heads / shape.kv_heads, block = query_block * wide_columns;
    const i64 k_place = (shape.heads + kv_head) * columns, v_place = k_place + shape.kv_heads * columns;
    Scratch scratch(4 * keys * wide_columns + 2 * columns * keys + 2 * query_block * keys + 3 * block);
    float *key = scratch.take(keys * wide_columns), *value = scratch.take(keys * wide_columns);
    float *key_slope = scratch.take(keys * wide_columns), *value_slope = scratch.take(keys * wide_columns);
    float *key_columns = scratch.take(columns * keys), *value_columns = scratch.take(columns * keys);
    float *scores = scratch.take(query_block * keys), *slopes = scratch.take(query_block * keys);
    float *query = scratch.take(block), *mixed_slope = scratch.take(block), *query_slope = scratch.take(block);
    widen(length, columns, qkv + k_place, qkv_row, key, wide_columns);
    widen(length, columns, qkv + v_place, qkv_row, value, wide_columns);
    transpose(length, columns, key, wide_columns, key_columns, keys);
    transpose(length, columns, value, wide_columns, value_columns, keys);
    clear(key_slope, 0, keys * wide_columns);
    clear(value_slope, 0, keys * wide_columns);
    for (i64 head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (i64 start = 0; start < length; start += query_block) {
            const i64 rows = smaller(query_block, length - start);
            const i64 from = first_column(shape, start), to = padded(start + rows);
            const i64 depth = smaller(to, length) - from;
            const i64 place = start * out_row + head * columns;
            widen(rows, columns, qkv + start * qkv_row + head * columns, qkv_row, query, wide_columns);
            widen(rows, columns, gradient + place, out_row, mixed_slope, wide_columns);
            multiply(rows, to - from, columns, query, wide_columns, 1, key_columns + from, keys, scores + from, keys, false);
            multiply(rows, to - from, columns, mixed_slope, wide_columns, 1, value_columns + from, keys, slopes + from, keys, false);
            for (i64 r = 0; r < rows; ++r) {
                float *score = scores + r * keys, *slope = slopes + r * keys;
                const i64 low = first_key(shape, start + r), high = start + r + 1;
                float delta = 0.0f;
                for (i64 c = 0; c < columns; ++c) {
                    delta += mixed_slope[r * wide_columns + c] * wide(out[place + r * out_row + c]);
                }
                steepen(shape, score, slope, low, high, lse[(start + r) * shape.heads + head], delta);
                clear(score, from, low);
                clear(score, high, to);
                clear(slope, from, low);
                clear(slope, high, to);
            }
            multiply(rows, wide_columns, depth, slopes + from, keys, 1, key + from * wide_columns, wide_columns, query_slope, wide_columns, false);
            multiply(depth, wide_columns, rows, slopes + from, 1, keys, query, wide_columns, key_slope + from * wide_columns, wide_columns, true);
            multiply(depth, wide_columns, rows, scores + from, 1, keys, mixed_slope, wide_columns, value_slope + from * wide_columns, wide_columns, true);
            narrow(rows, columns, query_slope, wide_columns, result + start * result_row + head * columns, result_row);
        }
    }
    narrow(length, columns, key_slope, wide_columns, result + k_place, result_row);
    narrow(length, columns, value_slope, wide_columns, result + v_place, result_row);
}

// qkv: [tokens, (heads + 2 kv_heads) * head_columns]; out: [tokens, heads * head_columns]; lse: [tokens, heads] or none;
// ends: the row behind each document.
template <typename T>
void attention_forward(const AttentionShape &shape, i64 documents, const i64 *ends, const T *qkv, T *out, float *lse) {
    const i64 qkv_row = (shape.heads + 2 * shape.kv_heads) * shape.head_columns, out_row = shape.heads * shape.head_columns;
#pragma omp parallel for schedule(dynamic)
    for (i64 task = 0; task < documents * shape.kv_heads; ++task) {
        const i64 document = task / shape.kv_heads, start = document ? ends[document - 1] : 0;
        attend_document(shape, ends[document] - start, task % shape.kv_heads, qkv + start * qkv_row, qkv_row,
                        out + start * out_row, out_row, lse ? lse + start * shape.heads : nullptr);
    }
}

// result: the gradient of qkv, all of it written.
template <typename T>
void attention_backward(const AttentionShape &shape, i64 documents, const i64 *ends, const T *qkv, const T *out,
                        const T *gradient, const float *lse, T *result) {
    const i64 qkv_row = (shape.heads + 2 * shape.kv_heads) * shape.head_columns, out_row = shape.heads * shape.head_columns;
#pragma omp parallel for schedule(dynamic)
    for (i64 task = 0; task < documents * shape.kv_heads; ++task) {
        const i64 document = task / shape.kv_heads, start = document ? ends[document - 1] : 0;
        attend_document_backward(shape, ends[document] - start, task % shape.kv_heads, qkv + start * qkv_row, qkv_row,
                                 out + start * out_row, gradient + start * out_row, out_row, lse + start * shape.heads,
                                 result + start * qkv_row, qkv_row);
    }
}

} // namespace
