// Products of many rows: a vector holds some of them, each in two lanes, and meets the same two words of a weight's row in
// all of them. What is loaded for a tile serves all of its sums, and no lane waits for another.
#pragma once

#include <type_traits>

#include "two_words.hpp"

namespace {

constexpr i64 rows_per_vector = lanes / words;
// Vectors and outputs whose sums fit into the registers: 12 of 16, or 24 of 32 with AVX512.
constexpr int vectors_per_tile = lanes == 16 ? 4 : 2, outputs_per_tile = 6;
// Vectors that pass over a tile's weights one after the other, while those are in the nearest cache.
constexpr i64 vectors_per_block = 2 * vectors_per_tile;

template <int vectors, int outputs> using Sums = Floats<lanes>[vectors][outputs];

// sums[v, n] += x[v] w[n] for the columns of one step.
template <int vectors, int outputs, typename T>
inline void fold_step(const float *x, i64 x_vector, const T *w, i64 w_row, Sums<vectors, outputs> &sums) {
    Floats<lanes> values[folds<T>][vectors];
    for (int fold = 0; fold < folds<T>; ++fold) {
        for (int v = 0; v < vectors; ++v) {
            values[fold][v] = load(x + v * x_vector + fold * lanes);
        }
    }
    for (int n = 0; n < outputs; ++n) {
        const Floats<lanes> loaded = repeated<lanes>(w + n * w_row);
        for (int v = 0; v < vectors; ++v) {
            sums[v][n] = taken_in<0, lanes>(sums[v][n], values[0][v], loaded, T());
        }
        for (int v = 0; v < vectors && folds<T> == 2; ++v) {
            sums[v][n] = taken_in<1, lanes>(sums[v][n], values[folds<T> - 1][v], loaded, T());
        }
    }
}

// The columns behind the last whole step, with zeros for those beyond.
template <int vectors, int outputs, typename T>
inline void fold_last(i64 columns, const float *x, i64 x_vector, const T *w, i64 w_row, Sums<vectors, outputs> &sums) {
    T weights[outputs * step<T>] = {};
    for (int n = 0; n < outputs; ++n) {
        std::memcpy(weights + n * step<T>, w + n * w_row, static_cast<size_t>(columns) * sizeof(T));
    }
    fold_step<vectors, outputs, T>(x, x_vector, weights, step<T>, sums);
}

// What is fetched from memory while a tile is computed: lines so far apart for each line of the tile's columns.
template <typename T> struct Fetch {
    const T *from;
    i64 lines, apart, per_column;
};

// A share of the next tile, whose rows begin at `from`: in the order of use, or, where the rows crowd each other in the
// nearest cache, in that in which they lie.
template <typename T> inline Fetch<T> fetch_of(const T *from, i64 rows, i64 inner) {
    return is_crowded<T>(inner) ? Fetch<T>{from, rows, line<T>, rows} : Fetch<T>{from, rows, inner, 1};
}

// y[r, n] = x[r, :] · w[n, :] + bias[n] for the rows of some vectors.
template <int vectors, int outputs, typename T>
void tile(i64 rows, i64 inner, const float *x, i64 x_vector, const T *w, Fetch<T> fetch, const T *bias, T *y, i64 y_row) {
    Sums<vectors, outputs> sums = {};
    i64 k = 0;
    for (; k + line<T> <= inner; k += line<T>) {
        for (i64 i = 0; i < fetch.lines; ++i) {
            __builtin_prefetch(fetch.from + i * fetch.apart + k * fetch.per_column);
        }
        for (i64 within = 0; within < line<T>; within += step<T>, x += folds<T> * lanes) {
            fold_step<vectors, outputs, T>(x, x_vector, w + k + within, inner, sums);
        }
    }
    for (; k + step<T> <= inner; k += step<T>, x += folds<T> * lanes) {
        fold_step<vectors, outputs, T>(x, x_vector, w + k, inner, sums);
    }
    if (k < inner) {
        fold_last<vectors, outputs, T>(inner - k, x, x_vector, w + k, inner, sums);
    }
    // By constants first: only so do the sums stay in registers until here.
    float apart[vectors][outputs][lanes];
    for (int v = 0; v < vectors; ++v) {
        for (int n = 0; n < outputs; ++n) {
            std::memcpy(apart[v][n], &sums[v][n], sizeof apart[v][n]);
        }
    }
    for (i64 r = 0; r < rows; ++r) {
        for (int n = 0; n < outputs; ++n) {
            const float *both = apart[r / rows_per_vector][n] + words * (r % rows_per_vector);
            store(y + r * y_row + n, both[0] + both[1] + (bias ? wide(bias[n]) : 0.0f));
        }
    }
}

// Calls `body` with the number of vectors as a constant.
template <int most, typename Body> inline void by_vectors(i64 vectors, const Body &body) {
    i64 v = 0;
    for (; v + most <= vectors; v += most) {
        body(std::integral_constant<int, most>(), v);
    }
    for (; v < vectors; ++v) {
        body(std::integral_constant<int, 1>(), v);
    }
}

// Calls `body` with the number of outputs as a constant.
template <int most, typename Body> inline void by_tile_outputs(i64 outputs, const Body &body) {
    i64 n = 0;
    for (; n + most <= outputs; n += most) {
        body(std::integral_constant<int, most>(), n);
    }
    for (; n < outputs; ++n) {
        body(std::integral_constant<int, 1>(), n);
    }
}

// y[rows, outputs] = x w^T + bias for the rows of one block of vectors, in tiles of at most so many vectors and outputs.
// `fetches`: whether the weights come from memory, and not from where the block before has left them.
template <int most_vectors, int most_outputs, typename T>
void block_product(i64 rows, i64 inner, i64 outputs, const float *x, i64 x_vector, const T *w, bool fetches, const T *bias,
                   T *y, i64 y_row) {
    const i64 vectors = (rows + rows_per_vector - 1) / rows_per_vector;
    by_tile_outputs<most_outputs>(outputs, [&](auto some_outputs, i64 n) {
        by_vectors<most_vectors>(vectors, [&](auto some_vectors, i64 v) {
            const i64 row = v * rows_per_vector;
            const i64 some_rows = smaller(some_vectors.value * rows_per_vector, rows - row);
            const T *weights = w + n * inner;
            // While the first vectors pass, each fetches its share of the next tile.
            const i64 begin = most_outputs * v / vectors;
            const i64 end = fetches ? most_outputs * (v + some_vectors.value) / vectors : begin;
            const auto fetch = fetch_of(weights + (most_outputs + begin) * inner, end - begin, inner);
            tile<some_vectors.value, some_outputs.value>(some_rows, inner, x + v * x_vector, x_vector, weights, fetch,
                                                         bias ? bias + n : nullptr, y + row * y_row + n, y_row);
        });
    });
}

// y[rows, outputs] = x w^T + bias for this task's outputs. x: vectors of `rows_per_vector` rows by `interleave`.
template <typename T>
void many_rows_product(i64 rows, i64 inner, i64 outputs, const float *x, const T *w, const T *bias, T *y, i64 y_row) {
    const i64 x_vector = rows_per_vector * interleaved<T>(whole_lines<T>(inner)), block = vectors_per_block * rows_per_vector;
    for (i64 row = 0; row < rows; row += block, x += vectors_per_block * x_vector) {
        const i64 some = smaller(block, rows - row);
        // Where rows do not fill a tile's vectors, their registers hold the sums of more outputs.
        const auto product = some > (vectors_per_tile - 1) * rows_per_vector
                                 ? block_product<vectors_per_tile, outputs_per_tile, T>
                                 : block_product<vectors_per_tile / 2, 2 * outputs_per_tile, T>;
        product(some, inner, outputs, x, x_vector, w, row == 0, bias, y + row * y_row, y_row);
    }
}

} // namespace
