// Sums of products of rows of x with rows of a weight. Each sum is made in the same order whatever the numbers of rows and
// outputs and however they are cut into tiles, so that a row's result does not depend on who is beside it.
#pragma once

#include <type_traits>

#include "element.hpp"

namespace {

// A vector holds this many weights per lane: bfloat16 weights come two to a word of 32 bits.
template <typename T> constexpr int parts = sizeof(float) / sizeof(T);
// Values that one turn of the inner loop takes.
template <typename T> constexpr i64 turn = parts<T> * lanes;

template <int part> inline vector weights_of(const float *place) { return load(place); }

// A mask or a shift makes float32 of one half of each word; interleaving instructions would take several times as long.
template <int part> inline vector weights_of(const bf16 *place) {
    typedef std::uint32_t words __attribute__((vector_size(lanes * sizeof(std::uint32_t)), aligned(2), may_alias));
    const words pairs = *reinterpret_cast<const words *>(place);
    const words bits = part == 0 ? pairs << 16 : pairs & 0xffff0000u;
    vector result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

// A row of x in the order in which `dots` meets it beside weights of type T: within a turn first the values of one part,
// then those of the next; what is left behind the last turn stays as it is.
template <typename T, typename From> inline void arrange(i64 columns, const From *from, float *to) {
    i64 c = 0;
    for (; c + turn<T> <= columns; c += turn<T>) {
        for (int part = 0; part < parts<T>; ++part) {
            for (int lane = 0; lane < lanes; ++lane) {
                to[c + part * lanes + lane] = wide(from[c + lane * parts<T> + part]);
            }
        }
    }
    for (; c < columns; ++c) {
        to[c] = wide(from[c]);
    }
}

// The same of bfloat16, whose parts a mask and a shift bring into lanes.
template <> inline void arrange<bf16, bf16>(i64 columns, const bf16 *from, float *to) {
    i64 c = 0;
    for (; c + turn<bf16> <= columns; c += turn<bf16>) {
        *reinterpret_cast<vector *>(to + c) = weights_of<0>(from + c);
        *reinterpret_cast<vector *>(to + c + lanes) = weights_of<1>(from + c);
    }
    for (; c < columns; ++c) {
        to[c] = wide(from[c]);
    }
}

// Rows of x for `dots` beside weights of their own type: float32 ones are used where they are.
inline const float *arranged(i64, i64, const float *x, Scratch &) { return x; }

inline const float *arranged(i64 rows, i64 columns, const bf16 *x, Scratch &scratch) {
    float *copy = scratch.take(rows * columns);
    for (i64 r = 0; r < rows; ++r) {
        arrange<bf16>(columns, x + r * columns, copy + r * columns);
    }
    return copy;
}

template <int part, int rows, int outputs, typename T>
inline void fold_part(const float *x, i64 x_row, const T *w, i64 w_row, vector (&sums)[rows][outputs]) {
    vector weights[outputs];
    for (int n = 0; n < outputs; ++n) {
        weights[n] = weights_of<part>(w + n * w_row);
    }
    for (int r = 0; r < rows; ++r) {
        const vector values = load(x + r * x_row + part * lanes);
        for (int n = 0; n < outputs; ++n) {
            sums[r][n] += values * weights[n];
        }
    }
}

// The columns behind the last turn. In vectors too, lest a compiler rounds a lonely product otherwise in one tile than in
// another.
template <int rows, int outputs, typename T>
inline void fold_rest(i64 columns, const float *x, i64 x_row, const T *w, i64 w_row, vector (&sums)[rows][outputs]) {
    for (i64 k = columns / turn<T> * turn<T>; k < columns; k += lanes) {
        const i64 some = smaller(lanes, columns - k);
        for (int n = 0; n < outputs; ++n) {
            const vector weights = load_some(w + n * w_row + k, some);
            for (int r = 0; r < rows; ++r) {
                sums[r][n] += load_some(x + r * x_row + k, some) * weights;
            }
        }
    }
}

// sums[r, n] = x[r, :] · w[n, :]; x is arranged.
template <int rows, int outputs, typename T>
inline void dots(i64 columns, const float *x, i64 x_row, const T *w, i64 w_row, float *sums, i64 sums_row) {
    vector partial[rows][outputs] = {};
    for (i64 k = 0; k + turn<T> <= columns; k += turn<T>) {
        fold_part<0>(x + k, x_row, w + k, w_row, partial);
        if (parts<T> == 2) {
            fold_part<1>(x + k, x_row, w + k, w_row, partial);
        }
    }
    fold_rest(columns, x, x_row, w, w_row, partial);
    for (int r = 0; r < rows; ++r) {
        for (int n = 0; n < outputs; ++n) {
            sums[r * sums_row + n] = sum(partial[r][n]);
        }
    }
}

// Calls `body` with the number of rows as a constant: fours, then what is left.
template <typename Body> inline void by_rows(i64 rows, const Body &body) {
    i64 r = 0;
    for (; r + 4 <= rows; r += 4) {
        body(std::integral_constant<int, 4>(), r);
    }
    switch (rows - r) {
    case 3: body(std::integral_constant<int, 3>(), r); break;
    case 2: body(std::integral_constant<int, 2>(), r); break;
    case 1: body(std::integral_constant<int, 1>(), r); break;
    default: break;
    }
}

// Calls `body` with the number of outputs as a constant: threes, for which the sums of four rows fill AVX2's registers.
template <typename Body> inline void by_outputs(i64 outputs, const Body &body) {
    i64 n = 0;
    for (; n + 3 <= outputs; n += 3) {
        body(std::integral_constant<int, 3>(), n);
    }
    for (; n < outputs; ++n) {
        body(std::integral_constant<int, 1>(), n);
    }
}

// `dots` for any numbers of rows and outputs.
template <typename T>
void dots_of_rows(i64 rows, i64 outputs, i64 columns, const float *x, i64 x_row, const T *w, i64 w_row, float *sums,
                  i64 sums_row) {
    by_outputs(outputs, [&](auto some_outputs, i64 n) {
        by_rows(rows, [&](auto some_rows, i64 r) {
            dots<some_rows.value, some_outputs.value>(columns, x + r * x_row, x_row, w + n * w_row, w_row,
                                                      sums + r * sums_row + n, sums_row);
        });
    });
}

} // namespace
