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

// Whether the rows of a weight begin at the same place of the nearest cache, where only so many have room side by side.
template <typename T> inline bool is_crowded(i64 inner) { return inner * static_cast<i64>(sizeof(T)) % 4096 == 0; }

// Columns that rows of x are filled up to with zeros.
template <typename T> inline i64 whole_lines(i64 inner) { return (inner + line<T> - 1) / line<T> * line<T>; }

// Rows of x side by side in the order in which the words meet them, with zeros for the rows and columns that are not there.
// to: [steps, parts, slots, words].
template <typename T> void interleave(i64 rows, i64 slots, i64 inner, const T *x, float *to) {
    clear(to, 0, slots * whole_lines<T>(inner));
    for (i64 r = 0; r < rows; ++r) {
        const T *from = x + r * inner;
        float *place = to + words * r;
        for (i64 k = 0; k + step<T> <= inner; k += step<T>, place += step<T> * slots) {
            const Floats<words> both = repeated<words>(from + k);
            for (int part = 0; part < parts<T>; ++part) {
                const auto some = part == 0 ? weights_in<0, words>(both, T()) : weights_in<parts<T> - 1, words>(both, T());
                std::memcpy(place + words * slots * part, &some, sizeof some);
            }
        }
        for (i64 rest = 0; rest < inner % step<T>; ++rest) {
            place[words * slots * (rest % parts<T>) + rest / parts<T>] = wide(from[inner - inner % step<T> + rest]);
        }
    }
}

} // namespace
