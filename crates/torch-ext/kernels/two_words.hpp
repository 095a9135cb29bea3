// How the products of inference take in a row of a weight: two words of 32 bits at a time, one float32 or two bfloat16 each.
// Every sum is made of two, one of each word's products, in the order of the columns, and these are added at the end. So a
// row's result is the same bit for bit whatever other rows there are, and however a kernel arranges its lanes.
#pragma once

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "dots.hpp"

namespace {

constexpr int words = 2;
// Parts of a word that are taken in one after the other: one, where an instruction multiplies both bfloat16 numbers of it.
template <typename T> constexpr int folds = parts<T>;
#if defined(__AVX512BF16__)
template <> constexpr int folds<bf16> = 1;
#endif
// Weights in two words, and in a line of the cache.
template <typename T> constexpr i64 step = words * parts<T>;
template <typename T> constexpr i64 line = 64 / sizeof(T);

// Vectors of `width` floats, and the same bits as words and as pairs of words.
template <int width> struct Lanes {
    typedef float floats __attribute__((vector_size(width * 4)));
    typedef std::uint32_t words __attribute__((vector_size(width * 4)));
    typedef std::int64_t pairs __attribute__((vector_size(width * 4)));
};
template <int width> using Floats = typename Lanes<width>::floats;

template <typename To, typename From> inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits are neither made nor lost");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Two words in all lanes.
template <int width> inline Floats<width> repeated(const void *place) {
    std::int64_t pair;
    std::memcpy(&pair, place, sizeof pair);
    return same_bits<Floats<width>>(pair - typename Lanes<width>::pairs{});
}

// The weights in one part of each word; the last argument is of their type.
template <int part, int width> inline Floats<width> weights_in(Floats<width> loaded, float) { return loaded; }

template <int part, int width> inline Floats<width> weights_in(Floats<width> loaded, bf16) {
    const auto bits = same_bits<typename Lanes<width>::words>(loaded);
    return same_bits<Floats<width>>(part == 0 ? bits << 16 : bits & 0xffff0000u);
}

// sums + x w for one part of the words of w, or for both, which x is then in the form of, too. The last argument is of w's
// type.
template <int, int width>
inline Floats<width> taken_in(Floats<width> sums, Floats<width> x, Floats<width> w, float) {
    return sums + x * w;
}

template <int part, int width>
inline Floats<width> taken_in(Floats<width> sums, Floats<width> x, Floats<width> w, bf16 type) {
#if defined(__AVX512BF16__)
    static_cast<void>(type);
    if constexpr (width == 16) {
        return _mm512_dpbf16_ps(sums, same_bits<__m512bh>(x), same_bits<__m512bh>(w));
    } else {
        return _mm256_dpbf16_ps(sums, same_bits<__m256bh>(x), same_bits<__m256bh>(w));
    }
#else
    return sums + x * weights_in<part, width>(w, type);
#endif
}

// Whether the rows of a weight begin at the same place of the nearest cache, where only so many have room side by side.
template <typename T> inline bool is_crowded(i64 inner) { return inner * static_cast<i64>(sizeof(T)) % 4096 == 0; }

// Columns that rows of x are filled up to with zeros.
template <typename T> inline i64 whole_lines(i64 inner) { return (inner + line<T> - 1) / line<T> * line<T>; }

// Where the columns from the k-th on begin in a row that `interleave` has made.
template <typename T> inline i64 interleaved(i64 k) { return k / parts<T> * folds<T>; }

// The columns of one step of a row of x to where the words meet them.
template <typename T> inline void put_step(i64 slots, const T *from, float *to) {
    const Floats<words> both = repeated<words>(from);
    if (folds<T> < parts<T>) {
        std::memcpy(to, &both, sizeof both);
        return;
    }
    const auto first = weights_in<0, words>(both, T()), second = weights_in<parts<T> - 1, words>(both, T());
    std::memcpy(to, &first, sizeof first);
    if (parts<T> == 2) {
        std::memcpy(to + words * slots, &second, sizeof second);
    }
}

// Rows of x side by side in the order in which the words meet them, with zeros for the rows and columns that are not there.
// to: [steps, folds, slots, words].
template <typename T> void interleave(i64 rows, i64 slots, i64 inner, const T *x, float *to) {
    clear(to, 0, slots * interleaved<T>(whole_lines<T>(inner)));
    for (i64 r = 0; r < rows; ++r) {
        const T *from = x + r * inner;
        float *place = to + words * r;
        i64 k = 0;
        for (; k + step<T> <= inner; k += step<T>, place += words * folds<T> * slots) {
            put_step(slots, from + k, place);
        }
        if (k < inner) {
            T rest[step<T>] = {};
            std::memcpy(rest, from + k, static_cast<size_t>(inner - k) * sizeof(T));
            put_step(slots, rest, place);
        }
    }
}

} // namespace
