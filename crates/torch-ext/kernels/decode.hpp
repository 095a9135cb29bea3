// Attention of one new token per sequence over that sequence's cache, for all sequences of a step at once.
#pragma once

#include "attention.hpp"
#include "few_rows.hpp"

namespace {

// One layer of a sequence's cache, [kv_heads, capacity, head_columns] each, and where the sequence's row is.
struct CachedRow {
    void *keys;
    void *values;
    i64 capacity;
    i64 seen; // tokens before the new one
    i64 row;
};

template <typename T> float dot(i64 columns, const float *x, const T *w) {
    float result;
    dots<1, 1>(columns, x, w, &result, 1);
    return result;
}

// `blocks` vectors of `weighted_sum`.
template <int blocks, typename T>
void weighted_block(i64 keys, i64 columns, const float *weights, const T *values, float *to) {
    vector sums[blocks] = {};
    for (i64 key = 0; key < keys; ++key) {
        for (int s = 0; s < blocks; ++s) {
            sums[s] += weights[key] * load(values + key * columns + s * lanes);
        }
    }
    for (int s = 0; s < blocks; ++s) {
        *reinterpret_cast<vector *>(to + s * lanes) = sums[s];
    }
}

// to[columns] = sum over keys of weights[key] values[key, columns].
template <typename T>
void weighted_sum(i64 keys, i64 columns, const float *weights, const T *values, float *to) {
    i64 c = 0;
    for (; c + 4 * lanes <= columns; c += 4 * lanes) {
        weighted_block<4>(keys, columns, weights, values + c, to + c);
    }
    for (; c + lanes <= columns; c += lanes) {
        weighted_block<1>(keys, columns, weights, values + c, to + c);
    }
    for (; c < columns; ++c) {
        float total = 0.0f;
        for (i64 key = 0; key < keys; ++key) {
            total += weights[key] * wide(values[key * columns + c]);
        }
        to[c] = total;
    }
}

// scores[keys] become their softmax.
inline void soften_scores(i64 keys, float *scores, float cap) {
    float largest = -__builtin_inff();
    for (i64 key = 0; key < keys; ++key) {
        if (cap > 0.0f) {
            scores[key] = cap * hyperbolic_tangent(scores[key] / cap);
        }
        largest = larger(largest, scores[key]);
    }
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (i64 key = 0; key < keys; ++key) {
        scores[key] = exponential(scores[key] - largest);
        total += scores[key];
    }
    const float share = 1.0f / total;
    for (i64 key = 0; key < keys; ++key) {
        scores[key] *= share;
    }
}

// qkv: [rows, qkv_row] with a row's query, key and value heads one after the other; out: [rows, out_row]. Stores each
// row's key and value behind its cache, then lets its queries look at all of it.
template <typename T>
void decode_attention(const AttentionShape &shape, i64 count, const CachedRow *cached, const T *qkv, i64 qkv_row,
                      T *out, i64 out_row) {
    const i64 columns = shape.head_columns, group = shape.heads / shape.kv_heads;
    i64 work = 0;
    for (i64 i = 0; i < count; ++i) {
        work += (cached[i].seen + 1) * columns * group * 4;
    }
    each(count * shape.kv_heads, work / (count > 0 ? count : 1), [&](i64 task) {
        const CachedRow &sequence = cached[task / shape.kv_heads];
        const i64 head = task % shape.kv_heads;
        const T *row = qkv + sequence.row * qkv_row;
        T *keys = static_cast<T *>(sequence.keys) + head * sequence.capacity * columns;
        T *values = static_cast<T *>(sequence.values) + head * sequence.capacity * columns;
        const i64 size = static_cast<i64>(sizeof(T)) * columns;
        std::memcpy(keys + sequence.seen * columns, row + (shape.heads + head) * columns, static_cast<size_t>(size));
        std::memcpy(values + sequence.seen * columns, row + (shape.heads + shape.kv_heads + head) * columns,
                    static_cast<size_t>(size));
        const i64 total = sequence.seen + 1;
        const i64 first = shape.window > 0 && total > shape.window ? total - shape.window : 0;
        Scratch scratch(total - first + 2 * columns);
        float *scores = scratch.take(total - first);
        float *query = scratch.take(columns), *mixed = scratch.take(columns);
        for (i64 q = head * group; q < (head + 1) * group; ++q) {
            for (i64 c = 0; c < columns; ++c) {
                query[c] = wide(row[q * columns + c]) * shape.scale;
            }
            for (i64 key = first; key < total; ++key) {
                scores[key - first] = dot(columns, query, keys + key * columns);
            }
            soften_scores(total - first, scores, shape.cap);
            weighted_sum(total - first, columns, scores, values + first * columns, mixed);
            T *to = out + sequence.row * out_row + q * columns;
            for (i64 c = 0; c < columns; ++c) {
                store(to + c, mixed[c]);
            }
        }
    });
}

} // namespace
