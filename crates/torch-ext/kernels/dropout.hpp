// Dropout whose mask is a function of a key and the element's place alone (SplitMix64's finaliser).
#pragma once

#include "element.hpp"

namespace {

inline std::uint64_t mix(std::uint64_t value) {
    value += 0x9e3779b97f4a7c15ull;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    return value ^ (value >> 31);
}

// y = x * mask, or y += x * mask: 0 where the upper 31 bits of the mixed counter are below `threshold`, else `kept`.
template <typename T>
void dropout(i64 rows, i64 columns, const T *x, i64 x_stride, T *y, i64 y_stride, std::uint64_t stream,
             i64 threshold, float kept, bool accumulate) {
    each(rows, columns * 12, [&](i64 row) {
        const T *from = x + row * x_stride;
        T *to = y + row * y_stride;
        const std::uint64_t start = static_cast<std::uint64_t>(row * columns);
        for (i64 c = 0; c < columns; ++c) {
            const std::uint64_t bits = mix((start + static_cast<std::uint64_t>(c)) ^ stream) >> 33;
            const float value = static_cast<i64>(bits) >= threshold ? wide(from[c]) * kept : 0.0f;
            store(to + c, accumulate ? wide(to[c]) + value : value);
        }
    });
}

} // namespace
