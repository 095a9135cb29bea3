// The table of kernels of one instruction set. build.rs compiles this file once for each, with its own table name.
#include <type_traits>

#include "attention.hpp"
#include "cached_attention.hpp"
#include "cross_entropy.hpp"
#include "dropout.hpp"
#include "glu.hpp"
#include "lora_rows.hpp"
#include "norm.hpp"
#include "optimizer.hpp"
#include "rope.hpp"
#include "serving_linear.hpp"

namespace {

// As `Element` in src/kernels/table.rs.
constexpr std::int32_t is_float32 = 0;

// Calls `body` with a null pointer of the element type.
template <typename Body> void with_type(std::int32_t element, const Body &body) {
    if (element == is_float32) {
        body(static_cast<float *>(nullptr));
    } else {
        body(static_cast<bf16 *>(nullptr));
    }
}

template <typename T> T *as(void *place, T *) { return static_cast<T *>(place); }
template <typename T> const T *as(const void *place, T *) { return static_cast<const T *>(place); }

void rms_norm(std::int32_t element, i64 rows, i64 heads, i64 columns, const void *x, i64 x_stride,
              const float *weight, float epsilon, void *y, i64 y_stride) {
    with_type(element, [&](auto *type) {
        norm_forward(rows, heads, columns, as(x, type), x_stride, weight, epsilon, as(y, type), y_stride);
    });
}

void rms_norm_backward(std::int32_t element, i64 rows, i64 heads, i64 columns, const void *x, i64 x_stride,
                       const float *weight, float epsilon, const void *dy, i64 dy_stride, const void *addend,
                       i64 addend_stride, void *dx, i64 dx_stride) {
    with_type(element, [&](auto *type) {
        norm_backward(rows, heads, columns, as(x, type), x_stride, weight, epsilon, as(dy, type), dy_stride,
                      as(addend, type), addend_stride, as(dx, type), dx_stride);
    });
}

void rotate(std::int32_t element, i64 rows, i64 heads, i64 head_columns, i64 rotary, void *x, i64 x_stride,
            const float *cosine, const float *sine, const i64 *positions, float sign) {
    with_type(element, [&](auto *type) {
        rope(rows, heads, head_columns, rotary, as(x, type), x_stride, cosine, sine, positions, sign);
    });
}

void gate(std::int32_t element, std::int32_t gelu, i64 rows, i64 inner, const void *gate_up, void *product) {
    with_type(element, [&](auto *type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if (gelu) {
            glu_forward<T, Gelu>(rows, inner, as(gate_up, type), as(product, type));
        } else {
            glu_forward<T, Silu>(rows, inner, as(gate_up, type), as(product, type));
        }
    });
}

void gate_backward(std::int32_t element, std::int32_t gelu, i64 rows, i64 inner, void *gate_up, void *product) {
    with_type(element, [&](auto *type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if (gelu) {
            glu_backward<T, Gelu>(rows, inner, as(gate_up, type), as(product, type));
        } else {
            glu_backward<T, Silu>(rows, inner, as(gate_up, type), as(product, type));
        }
    });
}

void score(std::int32_t element, i64 rows, i64 vocabulary, void *scores, const i64 *targets, const float *weights,
           float scale, float cap, std::int32_t backward, float *losses, i64 *hits) {
    with_type(element, [&](auto *type) {
        cross_entropy(rows, vocabulary, as(scores, type), targets, weights, scale, cap, backward != 0, losses, hits);
    });
}

void drop(std::int32_t element, i64 rows, i64 columns, const void *x, i64 x_stride, void *y, i64 y_stride,
          std::uint64_t stream, i64 threshold, float kept, std::int32_t accumulate) {
    with_type(element, [&](auto *type) {
        dropout(rows, columns, as(x, type), x_stride, as(y, type), y_stride, stream, threshold, kept, accumulate != 0);
    });
}

void attend(std::int32_t element, const AttentionShape *shape, i64 documents, const i64 *ends, const void *qkv,
            void *out, float *lse) {
    with_type(element, [&](auto *type) {
        attention_forward(*shape, documents, ends, as(qkv, type), as(out, type), lse);
    });
}

void attend_backward(std::int32_t element, const AttentionShape *shape, i64 documents, const i64 *ends,
                     const void *qkv, const void *out, const void *gradient, const float *lse, void *result) {
    with_type(element, [&](auto *type) {
        attention_backward(*shape, documents, ends, as(qkv, type), as(out, type), as(gradient, type), lse,
                           as(result, type));
    });
}

void serve_linear(std::int32_t element, i64 rows, i64 inner, i64 outputs, const void *x, const void *w,
                  const void *bias, void *y) {
    with_type(element, [&](auto *type) {
        serving_product(rows, inner, outputs, as(x, type), as(w, type), as(bias, type), as(y, type));
    });
}

void lora_rows(std::int32_t element, i64 count, const LoraRows *parts, i64 rows, i64 inner, const void *x, void *y,
               i64 y_row) {
    with_type(element, [&](auto *type) {
        lora_rows_add(count, parts, rows, inner, as(x, type), as(y, type), y_row);
    });
}

void attend_cached(std::int32_t element, const AttentionShape *shape, i64 count, const CachedRows *cached,
                   const void *qkv, i64 qkv_row, void *out, i64 out_row) {
    with_type(element, [&](auto *type) {
        cached_attention(*shape, count, cached, as(qkv, type), qkv_row, as(out, type), out_row);
    });
}

} // namespace

// As `Table` in src/kernels/table.rs: the same functions in the same order.
struct TunesmithKernels {
    decltype(&rms_norm) rms_norm_;
    decltype(&rms_norm_backward) rms_norm_backward_;
    decltype(&rotate) rotate_;
    decltype(&gate) gate_;
    decltype(&gate_backward) gate_backward_;
    decltype(&score) score_;
    decltype(&drop) drop_;
    decltype(&attend) attend_;
    decltype(&attend_backward) attend_backward_;
    decltype(&adamw) adamw_;
    decltype(&serve_linear) serve_linear_;
    decltype(&lora_rows) lora_rows_;
    decltype(&attend_cached) attend_cached_;
};

extern "C" const TunesmithKernels TABLE_NAME = {
    rms_norm, rms_norm_backward, rotate, gate,     gate_backward, score, drop,
    attend,   attend_backward,   adamw,  serve_linear, lora_rows, attend_cached,
};
