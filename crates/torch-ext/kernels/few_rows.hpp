// Products of one or two rows, which take as long as the weight takes to come from memory: a vector holds two words of each
// of four outputs, so that few loads take in much.
#pragma once

#include "two_words.hpp"

namespace {

// Outputs of a tile, which a vector holds whatever the processor has. More would be more places in memory at once.
constexpr int outputs_per_vector = 4;
constexpr int output_lanes = words * outputs_per_vector;
typedef Floats<output_lanes> output_vector;

// Two steps of four outputs, step by step.
struct TwoSteps {
    output_vector first, second;
};

inline TwoSteps two_steps(const void *w0, const void *w1, const void *w2, const void *w3) {
#if defined(__AVX__)
    const auto both = [](const void *low, const void *high) {
        const __m256 half = _mm256_castps128_ps256(_mm_loadu_ps(static_cast<const float *>(low)));
        return _mm256_castps_pd(_mm256_insertf128_ps(half, _mm_loadu_ps(static_cast<const float *>(high)), 1));
    };
    const __m256d even = both(w0, w2), odd = both(w1, w3);
    return {_mm256_castpd_ps(_mm256_unpacklo_pd(even, odd)), _mm256_castpd_ps(_mm256_unpackhi_pd(even, odd))};
#else
    const void *const rows[] = {w0, w1, w2, w3};
    float steps[2][outputs_per_vector][words];
    for (int n = 0; n < outputs_per_vector; ++n) {
        const char *row = static_cast<const char *>(rows[n]);
        std::memcpy(steps[0][n], row, sizeof steps[0][n]);
        std::memcpy(steps[1][n], row + sizeof steps[0][n], sizeof steps[1][n]);
    }
    TwoSteps result;
    std::memcpy(&result, steps, sizeof result);
    return result;
#endif
}

// sums[r] += x[r] w for one step of four outputs.
template <int rows, typename T>
inline void fold_vector(const float *x, i64 x_row, output_vector loaded, output_vector (&sums)[rows]) {
    for (int r = 0; r < rows; ++r) {
        const float *own = x + r * x_row;
        sums[r] = taken_in<0, output_lanes>(sums[r], repeated<output_lanes>(own), loaded, T());
        if (folds<T> == 2) {
            sums[r] = taken_in<1, output_lanes>(sums[r], repeated<output_lanes>(own + words), loaded, T());
        }
    }
}

template <int rows, typename T>
inline void fold_two_steps(const float *x, i64 x_row, const T *const (&w)[outputs_per_vector], i64 k,
                           output_vector (&sums)[rows]) {
    const TwoSteps loaded = two_steps(w[0] + k, w[1] + k, w[2] + k, w[3] + k);
    fold_vector<rows, T>(x, x_row, loaded.first, sums);
    fold_vector<rows, T>(x + words * folds<T>, x_row, loaded.second, sums);
}

// Fetches what comes next while a line of four outputs is folded, as the processor's own guesses end with a row of the
// weight: in the order in which it lies, or, where the rows crowd each other, in that of its use. Both were measured.
template <typename T> inline void fetch_next(const T *w, i64 inner, i64 k) {
    for (i64 n = 0; n < outputs_per_vector; ++n) {
        const i64 place = is_crowded<T>(inner) ? n * inner + k : outputs_per_vector * k + n * line<T>;
        __builtin_prefetch(w + outputs_per_vector * inner + place);
    }
}

// y[r, n] = x[r, :] · w[n, :] + bias[n] for at most four outputs. x: rows by `interleave`, one slot each.
template <int rows, typename T>
void four_outputs(i64 inner, i64 outputs, const float *x, i64 x_row, const T *w, const T *bias, T *y, i64 y_row) {
    // Outputs that are not there are computed like the last one, and not stored.
    const auto begin = [&](i64 n) { return w + smaller(n, outputs - 1) * inner; };
    const T *const begins[] = {begin(0), begin(1), begin(2), begin(3)};
    output_vector sums[rows] = {};
    i64 k = 0;
    for (; k + line<T> <= inner; k += line<T>) {
        fetch_next(w, inner, k);
        for (i64 within = k; within < k + line<T>; within += 2 * step<T>) {
            fold_two_steps<rows, T>(x + interleaved<T>(within), x_row, begins, within, sums);
        }
    }
    if (k < inner) {
        T rest[outputs_per_vector][line<T>] = {};
        for (int n = 0; n < outputs_per_vector; ++n) {
            std::memcpy(rest[n], begins[n] + k, static_cast<size_t>(inner - k) * sizeof(T));
        }
        const T *const rests[] = {rest[0], rest[1], rest[2], rest[3]};
        for (i64 within = 0; within < line<T>; within += 2 * step<T>) {
            fold_two_steps<rows, T>(x + interleaved<T>(k + within), x_row, rests, within, sums);
        }
    }
    for (int r = 0; r < rows; ++r) {
        float apart[outputs_per_vector][words];
        std::memcpy(apart, &sums[r], sizeof apart);
        for (i64 n = 0; n < smaller(outputs, outputs_per_vector); ++n) {
            store(y + r * y_row + n, apart[n][0] + apart[n][1] + (bias ? wide(bias[n]) : 0.0f));
        }
    }
}

// Whether `few_rows_product` is the faster one.
template <typename T> inline bool are_few_rows(i64 rows, i64 inner) {
    return rows <= 2 && (parts<T> > 1 || is_crowded<T>(inner));
}

// y[rows, outputs] = x w^T + bias for this task's outputs; one or two rows.
template <typename T>
void few_rows_product(i64 rows, i64 inner, i64 outputs, const float *x, const T *w, const T *bias, T *y, i64 y_row) {
    const auto product = rows == 1 ? four_outputs<1, T> : four_outputs<2, T>;
    for (i64 n = 0; n < outputs; n += outputs_per_vector) {
        product(inner, outputs - n, x, interleaved<T>(whole_lines<T>(inner)), w + n * inner, bias ? bias + n : nullptr, y + n, y_row);
    }
}

} // namespace
