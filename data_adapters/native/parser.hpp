// One pass over a line: every byte is checked, and what a shape asks for goes into its column at once.
//
// Exports are monotonous: objects at the same place have the same keys in the same order, almost always. So each
// place remembers the sequences of keys that it met, as a trie. A key is found by comparing it with what followed
// last time, which needs no hash; and since no sequence in the trie holds a key twice, a repeated key never
// matches, so that finding it costs nothing either.
//
// What is at fault, or too unusual (a key with an escape, nesting without end), throws `Undecided`.
#pragma once

#include <algorithm>
#include <deque>
#include <string_view>
#include <unordered_map>

#include "columns.hpp"
#include "scan.hpp"

namespace gemel {

constexpr size_t MAX_KEY = 64, MAX_KEYS = 512, MAX_LEARNED = 1 << 15;
constexpr int MAX_DEPTH = 128;

struct Edge;
struct Place;

// A sequence of keys since the start of an object.
struct State {
    Edge* first = nullptr;  // The keys that followed, as a list.
    const Edge* into = nullptr;
    const State* before = nullptr;
    size_t length = 0;
};

// A key that followed a sequence, quotes included.
struct Edge {
    alignas(16) char text[MAX_KEY + 16] = {};
    size_t size = 0;
    Edge* next = nullptr;
    Place* value = nullptr;
    State after;
};

// A place in resources of one type: an element of the shape (no column: only checked), or what nobody reads (no node).
struct Place {
    const Node* node = nullptr;
    Column* column = nullptr;
    State start;
    std::unordered_map<std::string, Place*> children;
};

// What is read of one resource type.
struct Root {
    std::string name;
    std::unique_ptr<Node> node;
    std::unique_ptr<Column> column;
    Place* place = nullptr;
    bool stored = false;
    size_t id = 0;  // Index of the child `id`.
    size_t rows = 0;
    int64_t accepted = 0;
    Buffer<int64_t> lines;
};

class Parser {
   public:
    void add(std::string name, std::unique_ptr<Node> node, bool stored) {
        auto root = std::make_unique<Root>();
        root->name = std::move(name);
        root->node = std::move(node);
        root->stored = stored;
        for (size_t i = 0; i < root->node->children.size(); ++i) {
            if (root->node->children[i].first == "id") root->id = i;
        }
        root->column = std::make_unique<Column>(*root->node);
        by_name_[root->name] = root.get();
        roots_.push_back(std::move(root));
        guess_ = roots_.front().get();
        forget();
    }

    const std::vector<std::unique_ptr<Root>>& roots() const { return roots_; }

    // Read one line, which ends at `end` with LF; PADDING bytes can be read behind it. True when it was accepted.
    bool read(const char* p, const char* end, bool ascii, int64_t number) {
        if (edges_.size() > MAX_LEARNED) forget();
        try {
            if (!ascii && !is_utf8(p, end)) throw Undecided();
            p = skip_blanks(p);
            guess_ = guess_type(p, end);
            // The second time with the type that the line says.
            if (!read_resource(p, end) && !read_resource(p, end)) throw Undecided();
        } catch (const Undecided&) {
            guess_->column->shrink(guess_->rows);
            return false;
        }
        ++guess_->accepted;
        if (guess_->stored) {
            guess_->lines.push(number);
            ++guess_->rows;
        } else {
            guess_->column->shrink(0);
        }
        return true;
    }

    // Give up rows that were read and not fetched.
    void clear() {
        for (auto& root : roots_) {
            root->column->shrink(0);
            root->lines.shrink(0);
            root->rows = 0;
            root->accepted = 0;
        }
    }

   private:
    struct OtherType {};

    // The type, when it is the first key as nearly everywhere; else that of the line before, or what stands behind
    // the first such key anywhere. It is only a guess: the value of the key decides.
    Root* guess_type(const char* p, const char* end) {
        static constexpr std::string_view KEY = "\"resourceType\"";
        if (*p != '{') throw Undecided();
        p = skip_blanks(p + 1);
        if (std::memcmp(p, KEY.data(), KEY.size()) != 0) {
            const void* at = memmem(p, static_cast<size_t>(end - p), KEY.data(), KEY.size());
            if (at == nullptr) throw Undecided();
            p = static_cast<const char*>(at);
        }
        p = skip_blanks(p + KEY.size());
        if (*p != ':') throw Undecided();
        p = skip_blanks(p + 1);
        Root* root = find_type(p);
        return root != nullptr ? root : guess_;
    }

    // The root of the type whose name is the string at p; null when there is none.
    Root* find_type(const char* p) {
        if (*p++ != '"') return nullptr;
        const auto named = [p](const Root& root) {
            return std::memcmp(p, root.name.data(), root.name.size()) == 0 && p[root.name.size()] == '"';
        };
        if (named(*guess_)) return guess_;
        const auto found = by_name_.find(std::string(p, static_cast<size_t>(skip_string(p) - 1 - p)));
        return found == by_name_.end() ? nullptr : found->second;
    }

    // False when the line says another type than `guess_`, which is that one from then on.
    bool read_resource(const char* p, const char* end) {
        line_end_ = end;
        has_type_ = false;
        try {
            p = read_object(p + 1, guess_->place, guess_->rows, 0);
        } catch (const OtherType&) {
            return false;
        }
        if (skip_blanks(p) != end || !has_type_ || !has_id(*guess_)) throw Undecided();
        return true;
    }

    static bool has_id(Root& root) {
        Column& column = root.column->child(root.id);
        if (!column.is_valid(root.rows)) return false;
        size_t size;
        const char* text = column.last_text(root.rows, &size);
        if (size < 1 || size > 64) return false;
        for (size_t i = 0; i < size; ++i) {
            const char c = text[i], lower = static_cast<char>(c | 0x20);
            if (!(is_digit(c) || (lower >= 'a' && lower <= 'z') || c == '-' || c == '.')) return false;
        }
        return true;
    }

    // p stands behind the brace, or the place of the first key.
    const char* read_object(const char* p, Place* place, size_t row, int depth) {
        if (depth > MAX_DEPTH) throw Undecided();
        p = skip_blanks(p);
        if (*p == '}') return p + 1;
        State* state = &place->start;
        for (;;) {
            Edge* edge = find_key(p, state, place);
            p += edge->size;
            if (*p != ':') p = skip_blanks(p);
            if (*p != ':') throw Undecided();
            p = read_value(skip_blanks(p + 1), edge->value, row, depth);
            if (*p != ',' && *p != '}') p = skip_blanks(p);
            if (*p == '}') return p + 1;
            if (*p != ',') throw Undecided();
            p = skip_blanks(p + 1);
            state = &edge->after;
        }
    }

    Edge* find_key(const char* p, State* state, Place* place) {
        for (Edge* edge = state->first; edge != nullptr; edge = edge->next) {
            if (same_text(p, edge->text, edge->size)) return edge;
        }
        return learn_key(p, state, place);
    }

    Edge* learn_key(const char* p, State* state, Place* place) {
        if (*p != '"') throw Undecided();
        const auto size = static_cast<size_t>(skip_string(p + 1) - p);
        if (size > MAX_KEY || std::memchr(p, '\\', size) != nullptr) throw Undecided();
        for (const State* at = state; at->into != nullptr; at = at->before) {
            if (at->into->size == size && std::memcmp(at->into->text, p, size) == 0) throw Undecided();
        }
        // A line may hold keys without end; the next one forgets them, this one is left to Python.
        if (state->length >= MAX_KEYS || edges_.size() > 2 * MAX_LEARNED) throw Undecided();
        Place* value = find_place(std::string(p + 1, size - 2), place);
        Edge& edge = edges_.emplace_back();
        std::memcpy(edge.text, p, size);
        edge.size = size;
        edge.value = value;
        edge.after.into = &edge;
        edge.after.before = state;
        edge.after.length = state->length + 1;
        Edge** last = &state->first;
        while (*last != nullptr) last = &(*last)->next;
        *last = &edge;
        return &edge;
    }

    Place* find_place(const std::string& key, Place* place) {
        const auto found = place->children.find(key);
        if (found != place->children.end()) return found->second;
        Place child;
        if (place->node != nullptr && place->node->kind == Kind::structure) {
            const Node& node = *place->node;
            for (size_t i = 0; i < node.children.size(); ++i) {
                if (node.children[i].first != key) continue;
                child.node = node.children[i].second.get();
                child.column = &place->column->child(i);
            }
            const bool is_root = node.children.size() > 0 && place == guess_->place;
            if (child.node == nullptr && is_root && key == "resourceType") {
                child.node = &type_node_;
            } else if (child.node == nullptr && node.closed) {
                const auto same = [&key](const auto& other) { return other.first == key; };
                const auto found_other = std::find_if(node.others.begin(), node.others.end(), same);
                if (found_other == node.others.end()) throw Undecided();
                child.node = found_other->second.get();
            }
        }
        places_.push_back(std::move(child));
        return place->children[key] = &places_.back();
    }

    const char* read_value(const char* p, Place* place, size_t row, int depth) {
        if (place->node == nullptr) return skip_value(p, place, depth);
        if (!place->node->repeats) return read_item(p, place, row, depth);
        if (*p == 'n') return skip_literal(p, "null", 4);
        if (*p != '[') throw Undecided();
        Column& column = *place->column;
        column.begin_list(row);
        p = skip_blanks(p + 1);
        if (*p == ']') return p + 1;
        for (;;) {
            p = read_item(p, place, column.next_item(), depth);
            if (*p != ',' && *p != ']') p = skip_blanks(p);
            if (*p == ']') return p + 1;
            if (*p != ',') throw Undecided();
            p = skip_blanks(p + 1);
        }
    }

    const char* read_item(const char* p, Place* place, size_t row, int depth) {
        const Kind kind = place->node->kind;
        if (kind == Kind::text && *p == '"') {
            if (place->column == nullptr) return skip_string(p + 1);
            char* out = place->column->begin_text(row, static_cast<size_t>(line_end_ - p) + PADDING);
            p = copy_string(p + 1, &out);
            place->column->end_text(out);
            return p;
        }
        if (kind == Kind::structure && *p == '{') {
            place->column->put_structure(row);
            return read_object(p + 1, place, row, depth + 1);
        }
        if (kind == Kind::type) return read_type(p);
        if (*p == 'n') return skip_literal(p, "null", 4);
        if (place->column == nullptr && kind != Kind::decimal) throw Undecided();
        switch (kind) {
            case Kind::decimal: {
                const Number number = read_number(p);
                const double value = decimal_value(p, number);
                if (place->column != nullptr) place->column->put_decimal(row, value);
                return number.end;
            }
            case Kind::integer: {
                const Number number = read_number(p);
                const uint64_t most = uint64_t{2147483647} + number.negative;
                if (!number.whole || !number.certain || number.digits > most) throw Undecided();
                const auto value = static_cast<int64_t>(number.digits);
                place->column->put_integer(row, number.negative ? -value : value);
                return number.end;
            }
            case Kind::boolean: {
                const bool value = *p == 't';
                p = value ? skip_literal(p, "true", 4) : skip_literal(p, "false", 5);
                place->column->put_boolean(row, value);
                return p;
            }
            case Kind::opaque: {
                if (*p != '{') throw Undecided();
                const char* start = p;
                p = skip_value(p, place, depth);
                put_slice(*place->column, row, start, p);
                return p;
            }
            case Kind::exact_decimal: {
                const Number number = read_number(p);
                decimal_value(p, number);  // Not one that is too large for a float.
                put_slice(*place->column, row, p, number.end);
                return number.end;
            }
            default:
                throw Undecided();
        }
    }

    // Bytes of the line as they are.
    static void put_slice(Column& column, size_t row, const char* start, const char* end) {
        const auto size = static_cast<size_t>(end - start);
        char* out = column.begin_text(row, size);
        std::memcpy(out, start, size);
        column.end_text(out + size);
    }

    const char* read_type(const char* p) {
        Root* root = find_type(p);
        if (root == nullptr) throw Undecided();
        if (root != guess_) {
            guess_->column->shrink(guess_->rows);
            guess_ = root;
            throw OtherType();
        }
        has_type_ = true;
        return p + root->name.size() + 2;
    }

    const char* skip_value(const char* p, Place* place, int depth) {
        switch (*p) {
            case '"':
                return skip_string(p + 1);
            case '{':
                return read_object(p + 1, place, 0, depth + 1);
            case '[':
                if (depth > MAX_DEPTH) throw Undecided();
                p = skip_blanks(p + 1);
                if (*p == ']') return p + 1;
                for (;;) {
                    p = skip_value(p, place, depth + 1);
                    if (*p != ',' && *p != ']') p = skip_blanks(p);
                    if (*p == ']') return p + 1;
                    if (*p != ',') throw Undecided();
                    p = skip_blanks(p + 1);
                }
            case 't':
                return skip_literal(p, "true", 4);
            case 'f':
                return skip_literal(p, "false", 5);
            case 'n':
                return skip_literal(p, "null", 4);
            default:
                return skip_number(p);
        }
    }

    // Forget the sequences of keys that were met.
    void forget() {
        edges_.clear();
        places_.clear();
        for (auto& root : roots_) {
            Place place;
            place.node = root->node.get();
            place.column = root->column.get();
            places_.push_back(std::move(place));
            root->place = &places_.back();
        }
    }

    std::vector<std::unique_ptr<Root>> roots_;
    std::unordered_map<std::string, Root*> by_name_;
    std::deque<Edge> edges_;
    std::deque<Place> places_;
    Node type_node_{Kind::type, false, false, {}, {}};
    Root* guess_ = nullptr;
    const char* line_end_ = nullptr;
    bool has_type_ = false;
};

}  // namespace gemel
