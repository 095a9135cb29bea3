// Functions of LibTorch that tch does not have, behind a C interface: src/shim.rs declares it.
//
// A tensor is an `at::Tensor *`; one that is returned belongs to the caller. Every function returns 0, or 1 after an
// exception, whose words are then in `message`.
#include <optional>

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "guarded.hpp"

namespace {

at::Tensor *given_away(const at::Tensor &tensor) { return new at::Tensor(tensor); }

// oneDNN's operators are registered under names only: there is no C++ function to call.
std::optional<c10::OperatorHandle> operation(const char *name) {
    return c10::Dispatcher::singleton().findSchema({name, ""});
}

} // namespace

extern "C" {

// Whether oneDNN is there, and whether it has more than its reference code for bfloat16 on this processor.
int tunesmith_onednn(bool *float32, bool *bfloat16, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] {
        *float32 = operation("mkldnn::_linear_pointwise").has_value();
        *bfloat16 = false;
        const auto asked = operation("mkldnn::_is_mkldnn_bf16_supported");
        if (*float32 && asked) {
            torch::jit::Stack stack;
            asked->callBoxed(stack);
            *bfloat16 = torch::jit::pop(stack).toBool();
        }
    });
}

// x [rows, inner] times the transpose of weight [columns, inner], by oneDNN on the CPU.
int tunesmith_onednn_linear(const at::Tensor *x, const at::Tensor *weight, at::Tensor **result, char *text,
                            std::size_t capacity) {
    return guarded({text, capacity}, [&] {
        static const auto linear = operation("mkldnn::_linear_pointwise");
        TORCH_CHECK(linear, "this LibTorch has no mkldnn::_linear_pointwise");
        const c10::impl::ExcludeDispatchKeyGuard no_gradient(c10::autograd_dispatch_keyset);
        torch::jit::Stack stack;
        torch::jit::push(stack, *x, *weight, c10::IValue(), "none", c10::List<std::optional<at::Scalar>>(), "");
        linear->callBoxed(stack);
        *result = given_away(torch::jit::pop(stack).toTensor());
    });
}

// Causal flash attention on CUDA over documents end to end. query, key, value: [tokens, heads, head_dim] of a half type;
// ends: int32 [documents + 1] from 0. results: output, logarithms of the denominators, and two states of the random
// number generator that the backward pass asks for. A window of -1 is none.
int tunesmith_flash_attention(const at::Tensor *query, const at::Tensor *key, const at::Tensor *value,
                              const at::Tensor *ends, std::int64_t longest, double scale, std::int64_t window,
                              at::Tensor **results, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] {
        const c10::impl::ExcludeDispatchKeyGuard no_gradient(c10::autograd_dispatch_keyset);
        std::optional<std::int64_t> left, right;
        if (window >= 0) {
            left = window;
            right = 0;
        }
        const auto [output, lse, first, second, mask] = at::_flash_attention_forward(
            *query, *key, *value, *ends, *ends, longest, longest, 0.0, true, false, scale, left, right);
        results[0] = given_away(output);
        results[1] = given_away(lse);
        results[2] = given_away(first);
        results[3] = given_away(second);
    });
}

int tunesmith_empty_cuda_cache(char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] { c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache(); });
}

// Bytes that LibTorch's allocator holds on a device and no tensor uses.
int tunesmith_cuda_reserve(int device, std::int64_t *bytes, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] {
        const auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
        auto *allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
        const auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(device));
        *bytes = stats.reserved_bytes[all].current - stats.allocated_bytes[all].current;
    });
}

} // extern "C"
