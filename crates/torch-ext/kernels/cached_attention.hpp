// Attention of the new tokens of several sequences over each sequence's cache. A token's result does not depend on how many
// others of its sequence come with it: what a prompt leaves in the cache is the same in whatever pieces it is read.
#pragma once

#include "attention.hpp"
#include "dots.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

// One layer of a sequence's cache, [kv_heads, capacity, head_columns] each, and the rows of its new tokens.
struct CachedRows {
    void *keys;
    void *values;
    i64 capacity;
    i64 seen; // tokens before the new ones
    i64 first_row;
    i64 rows;
};

// Most queries that one task takes; the heads that share keys are queries like any other.
constexpr i64 most_queries = 8;

inline i64 threads() {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

// to[r, lanes * vectors] = sum over keys of weights[r, key] values[key, :]
template <int rows, int vectors, typename T>
inline void mix_tile(i64 keys, i64 columns, const float *weights, i64 weights_row, const T *values, float *to,
                     i64 to_row) {
    vector sums[rows][vectors] = {};
    for (i64 key = 0; key < keys; ++key) {
        vector value[vectors];
        for (int v = 0; v < vectors; ++v) {
            value[v] = load(values + key * columns + v * lanes);
        }
        for (int r = 0; r < rows; ++r) {
            const float weight = weights[r * weights_row + key];
            for (int v = 0; v < vectors; ++v) {
                sums[r][v] += weight * value[v];
            }
        }
    }
    for (int r = 0; r < rows; ++r) {
        for (int v = 0; v < vectors; ++v) {
            *reinterpret_cast<vector *>(to + r * to_row + v * lanes) = sums[r][v];
        }
    }
}

// The same for the last `rest` columns, fewer than a vector.
template <int rows, typename T>
inline void mix_rest(i64 keys, i64 columns, i64 rest, const float *weights, i64 weights_row, const T *values, float *to) {
    vector sums[rows] = {};
    for (i64 key = 0; key < keys; ++key) {
        const vector value = load_some(values + key * columns, rest);
        for (int r = 0; r < rows; ++r) {
            sums[r] += weights[r * weights_row + key] * value;
        }
    }
    for (int r = 0; r < rows; ++r) {
        for (i64 c = 0; c < rest; ++c) {
            to[r * columns + c] = sums[r][c];
        }
    }
}

// to[r, columns] = sum over keys of weights[r, key] values[key, columns], key after key.
template <typename T>
void mix(i64 rows, i64 keys, i64 columns, const float *weights, i64 weights_row, const T *values, float *to) {
    by_rows(rows, [&](auto some_rows, i64 r) {
        const float *weight = weights + r * weights_row;
        float *place = to + r * columns;
        i64 c = 0;
        for (; c + 2 * lanes <= columns; c += 2 * lanes) {
            mix_tile<some_rows.value, 2>(keys, columns, weight, weights_row, values + c, place + c, columns);
        }
        for (; c + lanes <= columns; c += lanes) {
            mix_tile<some_rows.value, 1>(keys, columns, weight, weights_row, values + c, place + c, columns);
        }
        if (c < columns) {
            mix_rest<some_rows.value>(keys, columns, columns - c, weight, weights_row, values + c, place + c);
        }
    });
}

// Query `number` of a key/value head: the heads of one token come before the next token.
struct Query {
    i64 token, head;
};

inline Query query_of(i64 number, i64 kv_head, i64 group) { return {number / group, kv_head * group + number % group}; }

// Queries [begin, end) of one key/value head of one sequence, whose new keys and values are in the cache.
template <typename T>
void attend_queries(const AttentionShape &shape, const CachedRows &sequence, i64 kv_head, i64 begin, i64 end,
                    const T *qkv, i64 qkv_row, T *out, i64 out_row) {
    const i64 columns = shape.head_columns, group = shape.heads / shape.kv_heads, count = end - begin;
    const i64 place = kv_head * sequence.capacity * columns;
    const i64 low = first_key(shape, sequence.seen + query_of(begin, kv_head, group).token);
    const i64 high = sequence.seen + query_of(end - 1, kv_head, group).token + 1, keys = high - low;
    const T *key = static_cast<const T *>(sequence.keys) + place + low * columns;
    const T *value = static_cast<const T *>(sequence.values) + place + low * columns;
    Scratch scratch(count * (keys + 2 * columns));
    float *queries = scratch.take(count * columns), *mixed = scratch.take(count * columns);
    float *scores = scratch.take(count * keys);
    for (i64 q = 0; q < count; ++q) {
        const Query query = query_of(begin + q, kv_head, group);
        const T *from = qkv + (sequence.first_row + query.token) * qkv_row + query.head * columns;
        arrange<T>(columns, from, queries + q * columns);
    }
    dots_of_rows(count, keys, columns, queries, columns, key, columns, scores, keys);
    for (i64 q = 0; q < count; ++q) {
        const i64 position = sequence.seen + query_of(begin + q, kv_head, group).token;
        const i64 from = first_key(shape, position) - low, to = position + 1 - low;
        float *score = scores + q * keys, most;
        const float share = 1.0f / soften(shape, score, from, to, &most);
        for (i64 k = from; k < to; ++k) {
            score[k] *= share;
        }
        // What a query does not see counts nothing, so that all of them can be mixed together.
        clear(score, 0, from);
        clear(score, to, keys);
    }
    mix(count, keys, columns, scores, keys, value, mixed);
    for (i64 q = 0; q < count; ++q) {
        const Query query = query_of(begin + q, kv_head, group);
        narrow(1, columns, mixed + q * columns, columns,
               out + (sequence.first_row + query.token) * out_row + query.head * columns, out_row);
    }
}

template <typename T>
void keep_keys_and_values(const AttentionShape &shape, const CachedRows &sequence, i64 kv_head, const T *qkv,
                          i64 qkv_row) {
    const i64 columns = shape.head_columns;
    const size_t size = sizeof(T) * static_cast<size_t>(columns);
    for (i64 r = 0; r < sequence.rows; ++r) {
        const T *row = qkv + (sequence.first_row + r) * qkv_row + (shape.heads + kv_head) * columns;
        const i64 place = (kv_head * sequence.capacity + sequence.seen + r) * columns;
        std::memcpy(static_cast<T *>(sequence.keys) + place, row, size);
        std::memcpy(static_cast<T *>(sequence.values) + place, row + shape.kv_heads * columns, size);
    }
}

// qkv: [rows, qkv_row] with a row's query, key and value heads one after the other; out: [rows, out_row]. Stores the new
// keys and values behind each cache, then lets every query look at all of its sequence up to its own token.
template <typename T>
void cached_attention(const AttentionShape &shape, i64 count, const CachedRows *cached, const T *qkv, i64 qkv_row,
                      T *out, i64 out_row) {
    const i64 group = shape.heads / shape.kv_heads;
    i64 queries = 0, tasks = 0, work = 0;
    for (i64 s = 0; s < count; ++s) {
        queries += cached[s].rows * shape.heads;
        work += cached[s].rows * (cached[s].seen + cached[s].rows) * shape.heads * shape.head_columns;
    }
    // Fewer to a task where there are few: a long context is worth a thread for each of its heads.
    const i64 share = queries / (2 * threads());
    const i64 per_task = share < 1 ? 1 : smaller(share, most_queries);
    Scratch places(2 * (count + 1));
    i64 *first_task = reinterpret_cast<i64 *>(places.take(2 * (count + 1)));
    for (i64 s = 0; s < count; ++s) {
        first_task[s] = tasks;
        tasks += (cached[s].rows * group + per_task - 1) / per_task * shape.kv_heads;
    }
    first_task[count] = tasks;
#pragma omp parallel if (work > 32768)
    {
#pragma omp for schedule(static)
        for (i64 i = 0; i < count * shape.kv_heads; ++i) {
            keep_keys_and_values(shape, cached[i / shape.kv_heads], i % shape.kv_heads, qkv, qkv_row);
        }
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < tasks; ++task) {
            i64 s = 0;
            while (first_task[s + 1] <= task) {
                ++s;
            }
            const i64 begin = (task - first_task[s]) / shape.kv_heads * per_task;
            attend_queries(shape, cached[s], (task - first_task[s]) % shape.kv_heads, begin,
                           smaller(cached[s].rows * group, begin + per_task), qkv, qkv_row, out, out_row);
        }
    }
}

} // namespace
