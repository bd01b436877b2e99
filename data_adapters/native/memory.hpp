// Memory for columns. The kernel clears each page that it gives, which would cost a fifth of the reading time: so
// large pieces are kept for the next block, up to a bound, instead of being given back.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace gemel {

class Pool {
   public:
    Pool() {
#if defined(__GLIBC__)
        // The blocks of lines are Python's, and malloc's: it too shall keep what is freed for the next block.
        mallopt(M_MMAP_THRESHOLD, 16 << 20);
        mallopt(M_TRIM_THRESHOLD, 32 << 20);
#endif
    }

    // At least `bytes`, aligned to 64 as Arrow recommends.
    void* take(size_t bytes) {
        unsigned order = SMALLEST;
        while (order < LARGEST && (size_t{1} << order) < bytes + HEADER) ++order;
        const size_t size = order < LARGEST ? size_t{1} << order : (bytes + 2 * HEADER) / HEADER * HEADER;
        if (order >= KEPT_FROM && order < LARGEST) {
            const std::lock_guard<std::mutex> guard(lock_);
            auto& kept = kept_[order];
            if (!kept.empty()) {
                void* piece = kept.back();
                kept.pop_back();
                kept_bytes_ -= size;
                return static_cast<char*>(piece) + HEADER;
            }
        }
        void* piece = std::aligned_alloc(HEADER, size);
        if (piece == nullptr) throw std::bad_alloc();
        *static_cast<Head*>(piece) = {size, order};
        return static_cast<char*>(piece) + HEADER;
    }

    void give_back(void* memory) noexcept {
        if (memory == nullptr) return;
        void* piece = static_cast<char*>(memory) - HEADER;
        const Head head = *static_cast<Head*>(piece);
        if (head.order >= KEPT_FROM && head.order < LARGEST) {
            const std::lock_guard<std::mutex> guard(lock_);
            if (kept_bytes_ + head.size <= MOST_KEPT) {
                try {
                    kept_[head.order].push_back(piece);
                    kept_bytes_ += head.size;
                    return;
                } catch (const std::bad_alloc&) {
                    // Freed below.
                }
            }
        }
        std::free(piece);
    }

    static size_t capacity(void* memory) {
        return static_cast<Head*>(static_cast<void*>(static_cast<char*>(memory) - HEADER))->size - HEADER;
    }

   private:
    struct Head {
        size_t size;
        unsigned order;
    };
    static constexpr size_t HEADER = 64, MOST_KEPT = size_t{32} << 20;
    static constexpr unsigned SMALLEST = 9, KEPT_FROM = 15, LARGEST = 24;

    std::mutex lock_;
    std::array<std::vector<void*>, LARGEST> kept_;
    size_t kept_bytes_ = 0;
};

// Never destroyed: Arrow may release arrays while the process ends.
inline Pool& pool() {
    static Pool* pool = new Pool;
    return *pool;
}

}  // namespace gemel
