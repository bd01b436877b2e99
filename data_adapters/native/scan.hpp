// The bytes of JSON: strings, numbers, escapes, UTF-8. Every function may read up to `PADDING` bytes past the line.
//
// A line ends with LF, which is no white space here: whatever scans forward stops at it.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if !defined(__cpp_lib_to_chars)
#include <locale.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif
#endif

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the reader needs a little-endian machine; Gemel has one in Python for others"
#endif

namespace gemel {

constexpr size_t PADDING = 64;

// Thrown for a line that is at fault, or so unusual that the rules in Python shall judge it.
struct Undecided {};

#if defined(__SSE2__)

constexpr size_t STEP = 16;

// How many of the next STEP bytes are plain text: no quote, no backslash, no control character.
inline size_t plain_bytes(const char* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    const __m128i backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
    const __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
    const int found = _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control));
    return static_cast<size_t>(__builtin_ctz(static_cast<unsigned>(found) | 1u << STEP));
}

// True when the `size` bytes at p are the text, which has zeros up to a multiple of 16 behind it.
inline bool same_text(const char* p, const char* text, size_t size) {
    for (;;) {
        const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m128i b = _mm_load_si128(reinterpret_cast<const __m128i*>(text));
        const unsigned equal = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(a, b)));
        if (size <= 16) return (~equal & ((1u << size) - 1)) == 0;
        if (equal != 0xffff) return false;
        p += 16;
        text += 16;
        size -= 16;
    }
}

#else

constexpr size_t STEP = 8;

inline size_t plain_bytes(const char* p) {
    constexpr uint64_t ONES = 0x0101010101010101, HIGH = 0x8080808080808080;
    uint64_t bytes;
    std::memcpy(&bytes, p, 8);
    const uint64_t quote = bytes ^ ONES * '"', backslash = bytes ^ ONES * '\\';
    // Each term is exact up to the first byte that it finds; behind it there may be false ones.
    const uint64_t found = (((quote - ONES) & ~quote) | ((backslash - ONES) & ~backslash) |
                            ((bytes - ONES * 0x20) & ~bytes)) & HIGH;
    return found == 0 ? STEP : static_cast<size_t>(__builtin_ctzll(found)) / 8;
}

inline bool same_text(const char* p, const char* text, size_t size) { return std::memcmp(p, text, size) == 0; }

#endif

// The LF that ends the line, or `end`. `ascii` becomes false when a byte of the line is not ASCII.
inline const char* find_line_end(const char* p, const char* end, bool* ascii) {
    unsigned high = 0;
#if defined(__SSE2__)
    for (; end - p >= 16; p += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const unsigned feeds = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('\n'))));
        const unsigned highs = static_cast<unsigned>(_mm_movemask_epi8(bytes));
        if (feeds != 0) {
            *ascii = (high | (highs & (feeds - 1) & ~feeds)) == 0;
            return p + __builtin_ctz(feeds);
        }
        high |= highs;
    }
#endif
    for (; p < end && *p != '\n'; ++p) high |= static_cast<unsigned char>(*p) & 0x80u;
    *ascii = high == 0;
    return p;
}

// As RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
inline bool is_utf8(const char* text, const char* end) {
    const auto* p = reinterpret_cast<const unsigned char*>(text);
    const auto* stop = reinterpret_cast<const unsigned char*>(end);
    while (p < stop) {
        uint64_t eight;
        if (stop - p >= 8 && (std::memcpy(&eight, p, 8), (eight & 0x8080808080808080) == 0)) {
            p += 8;
            continue;
        }
        const unsigned lead = *p++;
        if (lead < 0x80) continue;
        const int more = lead >= 0xc2 && lead <= 0xdf ? 1 : (lead & 0xf0) == 0xe0 ? 2 : lead >= 0xf0 && lead <= 0xf4 ? 3 : 0;
        if (more == 0 || stop - p < more) return false;
        const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (*p < low || *p > high) return false;
        for (int i = 1; i < more; ++i) {
            if ((p[i] & 0xc0) != 0x80) return false;
        }
        p += more;
    }
    return true;
}

inline const char* skip_blanks(const char* p) {
    while (*p == ' ' || *p == '\t' || *p == '\r') ++p;
    return p;
}

inline unsigned hex_digit(char c) {
    if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
    if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
    throw Undecided();
}

// The four digits of \uXXXX. One by one: behind the first that is none, the line may end.
inline unsigned hex_digits(const char* p) {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i) value = value << 4 | hex_digit(p[i]);
    return value;
}

// The character of the escape at the backslash `*p`, which moves behind it. A lone surrogate is at fault.
inline unsigned read_escape(const char** p) {
    const char letter = (*p)[1];
    *p += 2;
    switch (letter) {
        case '"': case '\\': case '/': return static_cast<unsigned>(letter);
        case 'b': return '\b';
        case 'f': return '\f';
        case 'n': return '\n';
        case 'r': return '\r';
        case 't': return '\t';
        case 'u': break;
        default: throw Undecided();
    }
    const unsigned first = hex_digits(*p);
    *p += 4;
    if (first < 0xd800 || first > 0xdfff) return first;
    if (first > 0xdbff || (*p)[0] != '\\' || (*p)[1] != 'u') throw Undecided();
    const unsigned second = hex_digits(*p + 2);
    if (second < 0xdc00 || second > 0xdfff) throw Undecided();
    *p += 6;
    return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
}

inline char* write_utf8(char* out, unsigned c) {
    const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3f)); };
    if (c < 0x80) {
        *out++ = static_cast<char>(c);
    } else if (c < 0x800) {
        *out++ = static_cast<char>(0xc0 | c >> 6);
        *out++ = tail(0);
    } else if (c < 0x10000) {
        *out++ = static_cast<char>(0xe0 | c >> 12);
        *out++ = tail(6);
        *out++ = tail(0);
    } else {
        *out++ = static_cast<char>(0xf0 | c >> 18);
        *out++ = tail(12);
        *out++ = tail(6);
        *out++ = tail(0);
    }
    return out;
}

// p stands behind the opening quote; gives the place behind the closing one.
inline const char* skip_string(const char* p) {
    for (;;) {
        const size_t plain = plain_bytes(p);
        p += plain;
        if (plain == STEP) continue;
        if (*p == '"') return p + 1;
        if (*p != '\\') throw Undecided();
        read_escape(&p);
    }
}

// The same, and the text is written to *out, which moves behind it; there is room for the rest of the line.
inline const char* copy_string(const char* p, char** out) {
    for (;;) {
        std::memcpy(*out, p, STEP);
        const size_t plain = plain_bytes(p);
        p += plain;
        *out += plain;
        if (plain == STEP) continue;
        if (*p == '"') return p + 1;
        if (*p != '\\') throw Undecided();
        *out = write_utf8(*out, read_escape(&p));
    }
}

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

// A number as the grammar of RFC 8259 has it. Only a number that `certain` holds for has the value of its parts.
struct Number {
    const char* end;
    uint64_t digits;  // All digits, the point left out.
    int exponent;     // Of ten.
    bool negative, whole, certain;
};

inline Number read_number(const char* p) {
    Number number{p, 0, 0, *p == '-', true, true};
    p += number.negative;
    const char* first = p;
    if (*p == '0') {
        ++p;
    } else if (is_digit(*p)) {
        do number.digits = number.digits * 10 + static_cast<unsigned>(*p++ - '0');
        while (is_digit(*p));
    } else {
        throw Undecided();
    }
    ptrdiff_t count = p - first;
    if (*p == '.') {
        const char* point = p++;
        while (is_digit(*p)) number.digits = number.digits * 10 + static_cast<unsigned>(*p++ - '0');
        const ptrdiff_t decimals = p - point - 1;
        if (decimals == 0) throw Undecided();
        number.whole = false;
        number.exponent = decimals > 400 ? -400 : -static_cast<int>(decimals);
        count += decimals;
    }
    if (*p == 'e' || *p == 'E') {
        ++p;
        const bool down = *p == '-';
        if (*p == '-' || *p == '+') ++p;
        if (!is_digit(*p)) throw Undecided();
        int exponent = 0;
        for (; is_digit(*p); ++p) exponent = exponent < 9999 ? exponent * 10 + (*p - '0') : exponent;
        number.whole = false;
        number.exponent += down ? -exponent : exponent;
    }
    number.certain = count <= 19;
    number.end = p;
    return number;
}

// The float nearest to the number that starts at p, as Python's float() gives it.
inline double decimal_value(const char* p, const Number& number) {
    static constexpr double POWERS[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13,
                                        1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    // Both parts are exact floats, so that the one operation rounds once (Clinger 1990).
    if (number.certain && number.digits <= uint64_t{1} << 53 && number.exponent >= -22 && number.exponent <= 22) {
        const auto digits = static_cast<double>(number.digits);
        const double value =
            number.exponent < 0 ? digits / POWERS[-number.exponent] : digits * POWERS[number.exponent];
        // msgspec reads the integer -0 as 0.
        return number.negative && !(number.whole && number.digits == 0) ? -value : value;
    }
#if defined(__cpp_lib_to_chars)
    double value = 0;
    const auto read = std::from_chars(p, number.end, value);
    if (read.ec != std::errc() || read.ptr != number.end) throw Undecided();
    return value;
#else
    // clang's library has no from_chars for floats. The grammar is checked: strtod reads what read_number has read.
    static const locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr);
    char* end = nullptr;
    const double value = strtod_l(p, &end, plain);
    if (end != number.end || !std::isfinite(value)) throw Undecided();
    return value;
#endif
}

// Passes a number that nobody reads; one that may be too large for a float is not decided here.
inline const char* skip_number(const char* p) {
    const Number number = read_number(p);
    if (number.exponent > 0 || number.end - p > 300) decimal_value(p, number);
    return number.end;
}

// p behind the literal; only its first letter was looked at.
inline const char* skip_literal(const char* p, const char* literal, size_t size) {
    if (std::memcmp(p, literal, size) != 0) throw Undecided();
    return p + size;
}

}  // namespace gemel
