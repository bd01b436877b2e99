// Columns that grow row by row and are handed to Arrow without a copy (the Arrow C data interface).
//
// A column is told only what is there. What is absent costs nothing while a line is parsed: rows that were passed
// over are filled with null when the next value comes, or at the end.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "memory.hpp"

// https://arrow.apache.org/docs/format/CDataInterface.html
extern "C" struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void** buffers;
    ArrowArray** children;
    ArrowArray* dictionary;
    void (*release)(ArrowArray*);
    void* private_data;
};

namespace gemel {

// A growing array, whose memory Arrow's consumer gives back through a function of ours.
template <class T>
class Buffer {
   public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { pool().give_back(data_); }

    size_t size() const { return size_; }
    T operator[](size_t i) const { return data_[i]; }
    T& at(size_t i) { return data_[i]; }
    T* end() { return data_ + size_; }

    // Room for `more` elements behind the last one.
    void reserve(size_t more) {
        if (capacity_ - size_ < more) grow(more);
    }
    void push(T value) {
        reserve(1);
        data_[size_++] = value;
    }
    // Up to `size` elements, the new ones all `value`.
    void fill(size_t size, T value) {
        if (size <= size_) return;
        reserve(size - size_);
        while (size_ < size) data_[size_++] = value;
    }
    // The end of what was written behind `end()`, within the room reserved.
    void set_end(const T* end) { size_ = static_cast<size_t>(end - data_); }
    void shrink(size_t size) {
        if (size < size_) size_ = size;
    }
    // The memory, which the caller gives back to the pool; never null.
    T* release() {
        reserve(1);
        T* data = data_;
        // The next block will need about as much.
        expected_ = size_ < MOST_EXPECTED ? size_ + size_ / 8 : MOST_EXPECTED;
        data_ = nullptr;
        size_ = capacity_ = 0;
        return data;
    }

   private:
    void grow(size_t more) {
        size_t capacity = data_ == nullptr ? expected_ : capacity_ * 2;
        if (capacity < size_ + more) capacity = size_ + more;
        void* data = pool().take(capacity * sizeof(T));
        if (size_ != 0) std::memcpy(data, data_, size_ * sizeof(T));
        pool().give_back(data_);
        data_ = static_cast<T*>(data);
        capacity_ = Pool::capacity(data) / sizeof(T);
    }

    T* data_ = nullptr;
    static constexpr size_t MOST_EXPECTED = size_t{1} << 22;
    size_t size_ = 0, capacity_ = 0, expected_ = 0;
};

class Bits {
   public:
    void set(size_t i) {
        if (i >> 3 >= bytes_.size()) bytes_.fill((i >> 3) + 1, 0);
        bytes_.at(i >> 3) |= static_cast<uint8_t>(1u << (i & 7));
    }
    bool get(size_t i) const { return i >> 3 < bytes_.size() && (bytes_[i >> 3] >> (i & 7) & 1) != 0; }
    void shrink(size_t bits) {
        bytes_.shrink((bits + 7) / 8);
        if (bytes_.size() > bits >> 3) bytes_.at(bits >> 3) &= static_cast<uint8_t>((1u << (bits & 7)) - 1);
    }
    uint8_t* release(size_t bits) {
        bytes_.fill((bits + 7) / 8, 0);
        return bytes_.release();
    }

   private:
    Buffer<uint8_t> bytes_;
};

// As `reader.py` numbers them; `type` is the key "resourceType" of a resource, which has no column.
enum class Kind : int { structure, text, decimal, integer, boolean, opaque, exact_decimal, type };

// An element as a shape describes it.
struct Node {
    Kind kind = Kind::structure;
    bool repeats = false;
    bool closed = false;
    std::vector<std::pair<std::string, std::unique_ptr<Node>>> children;
    // The further keys of a closed element: checked when there is a node, and not kept.
    std::vector<std::pair<std::string, std::unique_ptr<Node>>> others;
};

inline int32_t as_offset(size_t size) {
    if (size > static_cast<size_t>(std::numeric_limits<int32_t>::max())) throw std::length_error("block too large");
    return static_cast<int32_t>(size);
}

// One array under construction: `buffers` are freed with it.
ArrowArray* make_array(int64_t length, int64_t null_count, std::vector<void*> buffers, std::vector<ArrowArray*> children);

class Column {
   public:
    explicit Column(const Node& node) : node_(node) {
        for (const auto& [name, child] : node.children) children_.push_back(std::make_unique<Column>(*child));
    }

    Column& child(size_t i) { return *children_[i]; }
    bool is_valid(size_t row) const { return valid_.get(row); }
    const char* last_text(size_t row, size_t* size) {
        *size = text_.size() - static_cast<size_t>(starts_[row]);
        return text_.end() - *size;
    }

    void begin_list(size_t row) {
        lists_.fill(row, as_offset(items_));
        lists_.push(as_offset(items_));
        has_list_.set(row);
    }
    size_t next_item() { return items_++; }

    void put_structure(size_t row) { valid_.set(row); }
    void put_decimal(size_t row, double value) {
        valid_.set(row);
        decimals_.fill(row, 0);
        decimals_.push(value);
    }
    void put_integer(size_t row, int64_t value) {
        valid_.set(row);
        integers_.fill(row, 0);
        integers_.push(value);
    }
    void put_boolean(size_t row, bool value) {
        valid_.set(row);
        if (value) truths_.set(row);
    }
    // Where the text of a row goes; there is room for `room` bytes. `end_text` must follow.
    char* begin_text(size_t row, size_t room) {
        valid_.set(row);
        starts_.fill(row, as_offset(text_.size()));
        starts_.push(as_offset(text_.size()));
        text_.reserve(room);
        return text_.end();
    }
    void end_text(const char* end) { text_.set_end(end); }

    // Forget the rows from `rows` on.
    void shrink(size_t rows) {
        if (node_.repeats) {
            if (lists_.size() > rows) items_ = static_cast<size_t>(lists_[rows]);
            lists_.shrink(rows);
            has_list_.shrink(rows);
            rows = items_;
        }
        valid_.shrink(rows);
        if (starts_.size() > rows) text_.shrink(static_cast<size_t>(starts_[rows]));
        starts_.shrink(rows);
        decimals_.shrink(rows);
        integers_.shrink(rows);
        truths_.shrink(rows);
        for (auto& child : children_) child->shrink(rows);
    }

    // The Arrow array of `rows` rows; the column is empty afterwards.
    ArrowArray* finish(size_t rows) {
        if (!node_.repeats) return finish_items(rows);
        lists_.fill(rows + 1, as_offset(items_));
        ArrowArray* items = finish_items(items_);
        items_ = 0;
        return make_array(static_cast<int64_t>(rows), -1, {has_list_.release(rows), lists_.release()}, {items});
    }

   private:
    ArrowArray* finish_items(size_t rows) {
        const auto length = static_cast<int64_t>(rows);
        uint8_t* valid = valid_.release(rows);
        switch (node_.kind) {
            case Kind::structure: {
                std::vector<ArrowArray*> children;
                for (auto& child : children_) children.push_back(child->finish(rows));
                return make_array(length, -1, {valid}, children);
            }
            case Kind::decimal:
                decimals_.fill(rows, 0);
                return make_array(length, -1, {valid, decimals_.release()}, {});
            case Kind::integer:
                integers_.fill(rows, 0);
                return make_array(length, -1, {valid, integers_.release()}, {});
            case Kind::boolean:
                return make_array(length, -1, {valid, truths_.release(rows)}, {});
            default:
                starts_.fill(rows + 1, as_offset(text_.size()));
                return make_array(length, -1, {valid, starts_.release(), text_.release()}, {});
        }
    }

    const Node& node_;
    std::vector<std::unique_ptr<Column>> children_;
    // Of a repeating element: where each row's items start, and how many there are.
    Buffer<int32_t> lists_;
    Bits has_list_;
    size_t items_ = 0;
    // Of the items (for an element that does not repeat: of the rows).
    Bits valid_, truths_;
    Buffer<int32_t> starts_;
    Buffer<char> text_;
    Buffer<double> decimals_;
    Buffer<int64_t> integers_;
};

// What an exported array owns.
struct Exported {
    std::vector<void*> buffers;
    std::vector<const void*> views;
    std::vector<ArrowArray*> children;
};

inline void release_array(ArrowArray* array) {
    auto* exported = static_cast<Exported*>(array->private_data);
    for (void* buffer : exported->buffers) pool().give_back(buffer);
    for (ArrowArray* child : exported->children) {
        if (child->release != nullptr) child->release(child);
        delete child;
    }
    delete exported;
    array->release = nullptr;
}

inline ArrowArray* make_array(
    int64_t length, int64_t null_count, std::vector<void*> buffers, std::vector<ArrowArray*> children) {
    auto* exported = new Exported{std::move(buffers), {}, std::move(children)};
    exported->views.assign(exported->buffers.begin(), exported->buffers.end());
    return new ArrowArray{length, null_count, 0, static_cast<int64_t>(exported->views.size()),
        static_cast<int64_t>(exported->children.size()), exported->views.data(), exported->children.data(), nullptr,
        release_array, exported};
}

}  // namespace gemel
