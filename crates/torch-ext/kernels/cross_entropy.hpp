// Cross-entropy of rows of scores, and its gradient in the place of the scores.
#pragma once

#include "element.hpp"

namespace {

// Whether no score before `target` is as high.
template <typename T> bool is_first(const T *score, i64 target, float most) {
    for (i64 c = 0; c < target; ++c) {
        if (wide(score[c]) == most) {
            return false;
        }
    }
    return true;
}

// The sum of e^(score - most), with the addends in the place of the scores where `keep` is set.
template <bool keep, typename T> float exponentials(T *score, i64 count, float most) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (i64 c = 0; c < count; ++c) {
        const float value = exponential(wide(score[c]) - most);
        sum += value;
        if (keep) {
            store(score + c, value);
        }
    }
    return sum;
}

// scores: [rows, vocabulary], overwritten with weight * scale * (softmax - onehot) where `backward`. With a cap c > 0 the
// scores count as c tanh(score / c). losses: weight * cross-entropy. hits: 1 where the target is the first maximum.
template <typename T>
void cross_entropy(i64 rows, i64 vocabulary, T *scores, const i64 *targets, const float *weights, float scale,
                   float cap, bool backward, float *losses, i64 *hits) {
    each(rows, vocabulary * 16, [&](i64 row) {
        T *score = scores + row * vocabulary;
        if (cap > 0.0f) {
#pragma omp simd
            for (i64 c = 0; c < vocabulary; ++c) {
                store(score + c, cap * hyperbolic_tangent(wide(score[c]) / cap));
            }
        }
        float most = -__builtin_inff();
#pragma omp simd reduction(max : most)
        for (i64 c = 0; c < vocabulary; ++c) {
            most = larger(most, wide(score[c]));
        }
        const i64 target = targets[row];
        const float own = wide(score[target]);
        const bool first_of_most = own == most && is_first(score, target, most);
        // In float32 without a cap the exponentials themselves are kept: then the gradient needs only a product.
        const bool keep = backward && cap <= 0.0f && sizeof(T) == sizeof(float);
        const float sum = keep ? exponentials<true>(score, vocabulary, most) : exponentials<false>(score, vocabulary, most);
        // A row that is not finite must show in the loss; the clamped exponential would hide it.
        const float poison = (most - most) + (sum - sum);
        losses[row] = weights[row] * (__builtin_logf(sum) + most - own) + poison;
        hits[row] = first_of_most;
        if (!backward) {
            return;
        }
        const float factor = weights[row] * scale;
        const float share = factor / sum;
        if (cap > 0.0f) {
            const float slope_own = 1.0f - own / cap * (own / cap);
#pragma omp simd
            for (i64 c = 0; c < vocabulary; ++c) {
                const float value = wide(score[c]);
                const float slope = 1.0f - value / cap * (value / cap);
                store(score + c, share * exponential(value - most) * slope);
            }
            store(score + target, wide(score[target]) - factor * slope_own);
        } else {
#pragma omp simd
            for (i64 c = 0; c < vocabulary; ++c) {
                store(score + c, share * (keep ? wide(score[c]) : exponential(wide(score[c]) - most)));
            }
            store(score + target, wide(score[target]) - factor);
        }
    });
}

} // namespace
