// Exceptions of LibTorch, as C functions tell of them.
#pragma once

#include <cstring>
#include <exception>

#include <c10/util/Exception.h>

namespace {

struct Message {
    char *text;
    std::size_t capacity;

    void write(const char *words) const {
        if (capacity > 0) {
            std::strncpy(text, words, capacity - 1);
            text[capacity - 1] = '\0';
        }
    }
};

template <typename Body> int guarded(Message message, const Body &body) {
    try {
        body();
        return 0;
    } catch (const c10::Error &error) {
        message.write(error.what_without_backtrace());
    } catch (const std::exception &error) {
        message.write(error.what());
    } catch (...) {
        message.write("an exception of an unknown type");
    }
    return 1;
}

} // namespace
