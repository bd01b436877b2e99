// gemel.data_adapters.reading._reader: blocks of NDJSON lines to Arrow arrays, for `reading/reader.py`.
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#ifndef GEMEL_SOURCE_DIGEST
#define GEMEL_SOURCE_DIGEST ""
#endif

#include <mutex>

#include "parser.hpp"

namespace {

using namespace gemel;

struct UndecidedLine {
    int64_t index;
    size_t start, end;
};

// What reading a block gives.
struct Outcome {
    int64_t read = 0;
    std::vector<UndecidedLine> undecided;
};

// Read all lines of a block. `first` is the number of its first line.
Outcome read_lines(Parser& parser, const char* data, size_t size, int64_t first) {
    Outcome outcome;
    const char *p = data, *stop = data + size;
    std::string copy;
    for (int64_t index = 0; p <= stop; ++index) {
        bool ascii;
        const char* feed = find_line_end(p, stop, &ascii);
        const char* text = p;
        const char* end = feed;
        if (static_cast<size_t>(stop - feed) < PADDING) {
            // Behind it is too little to read into: the line moves.
            copy.assign(p, feed);
            copy.push_back('\n');
            copy.append(PADDING, '\0');
            text = copy.data();
            end = text + (feed - p);
        }
        const char* first_byte = text;
        while (*first_byte == ' ' || (*first_byte >= '\t' && *first_byte <= '\r' && *first_byte != '\n')) ++first_byte;
        if (first_byte != end) {
            ++outcome.read;
            if (!parser.read(text, end, ascii, first + index)) {
                const char* last = feed > p && feed[-1] == '\r' ? feed - 1 : feed;
                outcome.undecided.push_back(
                    {index, static_cast<size_t>(p - data), static_cast<size_t>(last - data)});
            }
        }
        p = feed + 1;
    }
    return outcome;
}

std::unique_ptr<Node> read_node(PyObject* spec);

// ((name, node or None), ...) into `nodes`. False with an error set.
bool read_nodes(PyObject* specs, std::vector<std::pair<std::string, std::unique_ptr<Node>>>& nodes) {
    for (Py_ssize_t i = 0; i < PyTuple_Size(specs); ++i) {
        const char* name;
        PyObject* spec;
        if (!PyArg_ParseTuple(PyTuple_GetItem(specs, i), "sO", &name, &spec)) return false;
        auto node = spec == Py_None ? nullptr : read_node(spec);
        if (node == nullptr && spec != Py_None) return false;
        nodes.emplace_back(name, std::move(node));
    }
    return true;
}

// (kind, repeats, children, other keys of a closed element or None) of `reader.py`. Null with an error set.
std::unique_ptr<Node> read_node(PyObject* spec) {
    int kind, repeats;
    PyObject *children, *others;
    if (!PyArg_ParseTuple(spec, "ipO!O", &kind, &repeats, &PyTuple_Type, &children, &others)) return nullptr;
    auto node = std::make_unique<Node>();
    node->kind = static_cast<Kind>(kind);
    node->repeats = repeats != 0;
    node->closed = others != Py_None;
    if (!read_nodes(children, node->children)) return nullptr;
    for (const auto& [name, child] : node->children) {
        if (child == nullptr) return PyErr_SetString(PyExc_TypeError, "a child needs a node"), nullptr;
    }
    if (node->closed && !read_nodes(others, node->others)) return nullptr;
    return node;
}

// Parsers learn, so that threads cannot share one: each call takes one that is free.
struct State {
    PyObject *shaped = nullptr, *counted = nullptr;
    std::mutex lock;
    std::vector<std::unique_ptr<Parser>> free;
};

struct ReaderObject {
    PyObject_HEAD
    State* state;
};

bool add_roots(Parser& parser, PyObject* specs, bool stored) {
    PyObject *name, *spec;
    Py_ssize_t position = 0;
    while (PyDict_Next(specs, &position, &name, &spec)) {
        const char* text = PyUnicode_AsUTF8AndSize(name, nullptr);
        auto node = text == nullptr ? nullptr : read_node(spec);
        if (node == nullptr) return false;
        parser.add(text, std::move(node), stored);
    }
    return true;
}

std::unique_ptr<Parser> make_parser(const State& state) {
    auto parser = std::make_unique<Parser>();
    if (!add_roots(*parser, state.shaped, true) || !add_roots(*parser, state.counted, false)) return nullptr;
    return parser;
}

void free_capsule(PyObject* capsule) {
    auto* array = static_cast<ArrowArray*>(PyCapsule_GetPointer(capsule, "arrow_array"));
    if (array->release != nullptr) array->release(array);
    delete array;
}

// A struct array of the columns `line` and `r`, as a capsule.
PyObject* export_root(Root& root) {
    const auto rows = static_cast<int64_t>(root.rows);
    ArrowArray* lines = make_array(rows, 0, {nullptr, root.lines.release()}, {});
    for (size_t row = 0; row < root.rows; ++row) root.column->put_structure(row);
    ArrowArray* array = make_array(rows, 0, {nullptr}, {lines, root.column->finish(root.rows)});
    root.rows = 0;
    return PyCapsule_New(array, "arrow_array", free_capsule);
}

// Put `value` (taken over) into the dict. False with an error set.
bool put(PyObject* dict, const std::string& key, PyObject* value) {
    if (value == nullptr) return false;
    const int failed = PyDict_SetItemString(dict, key.c_str(), value);
    Py_DecRef(value);
    return failed == 0;
}

PyObject* give_result(Parser& parser, const Outcome& outcome) {
    PyObject *types = PyDict_New(), *arrays = PyDict_New();
    PyObject* undecided = PyList_New(0);
    bool good = types != nullptr && arrays != nullptr && undecided != nullptr;
    for (const auto& root : parser.roots()) {
        if (!good || root->accepted == 0) continue;
        good = put(types, root->name, PyLong_FromLongLong(root->accepted));
        if (good && root->stored) good = put(arrays, root->name, export_root(*root));
    }
    for (const UndecidedLine& line : outcome.undecided) {
        if (!good) break;
        PyObject* item = Py_BuildValue(
            "(Lnn)", static_cast<long long>(line.index), static_cast<Py_ssize_t>(line.start), static_cast<Py_ssize_t>(line.end));
        good = item != nullptr && PyList_Append(undecided, item) == 0;
        Py_XDECREF(item);
    }
    PyObject* result = good ? Py_BuildValue("(LOOO)", static_cast<long long>(outcome.read), types, arrays, undecided) : nullptr;
    Py_XDECREF(types);
    Py_XDECREF(arrays);
    Py_XDECREF(undecided);
    return result;
}

PyObject* reader_read(PyObject* self, PyObject* args) {
    State& state = *reinterpret_cast<ReaderObject*>(self)->state;
    Py_buffer data;
    long long first;
    if (!PyArg_ParseTuple(args, "y*L", &data, &first)) return nullptr;
    PyObject* result = nullptr;
    try {
        std::unique_ptr<Parser> parser;
        {
            const std::lock_guard<std::mutex> guard(state.lock);
            if (!state.free.empty()) {
                parser = std::move(state.free.back());
                state.free.pop_back();
            }
        }
        if (parser == nullptr) parser = make_parser(state);
        if (parser != nullptr) {
            Outcome outcome;
            std::exception_ptr failure;
            PyThreadState* thread = PyEval_SaveThread();
            try {
                outcome = read_lines(*parser, static_cast<const char*>(data.buf), static_cast<size_t>(data.len), first);
            } catch (...) {
                failure = std::current_exception();
            }
            PyEval_RestoreThread(thread);
            if (failure != nullptr) std::rethrow_exception(failure);
            result = give_result(*parser, outcome);
            parser->clear();
            const std::lock_guard<std::mutex> guard(state.lock);
            state.free.push_back(std::move(parser));
        }
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    }
    PyBuffer_Release(&data);
    return result;
}

PyObject* reader_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyObject *shaped, *counted;
    if (!PyArg_ParseTuple(args, "O!O!", &PyDict_Type, &shaped, &PyDict_Type, &counted)) return nullptr;
    const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    PyObject* self = allocate(type, 0);
    if (self == nullptr) return nullptr;
    auto* state = new (std::nothrow) State;
    reinterpret_cast<ReaderObject*>(self)->state = state;
    if (state == nullptr) {
        Py_DecRef(self);
        return PyErr_NoMemory();
    }
    Py_IncRef(shaped);
    Py_IncRef(counted);
    state->shaped = shaped;
    state->counted = counted;
    try {
        // Made at once, so that a shape that is none is refused here.
        auto parser = make_parser(*state);
        if (parser != nullptr) {
            state->free.push_back(std::move(parser));
            return self;
        }
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    }
    Py_DecRef(self);
    return nullptr;
}

void reader_free(PyObject* self) {
    State* state = reinterpret_cast<ReaderObject*>(self)->state;
    if (state != nullptr) {
        Py_XDECREF(state->shaped);
        Py_XDECREF(state->counted);
        delete state;
    }
    PyTypeObject* type = Py_TYPE(self);
    const auto release = reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free));
    release(self);
    Py_DecRef(reinterpret_cast<PyObject*>(type));
}

PyMethodDef methods[] = {
    {"read", reader_read, METH_VARARGS,
        "read(data, first_line) -> (lines, types, arrays, undecided)\n\n"
        "`undecided` lists (index, start, end) of the lines that the rules in Python must judge."},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(reader_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(reader_free)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

PyType_Spec spec = {"gemel.data_adapters.reading._reader.Reader", sizeof(ReaderObject), 0, Py_TPFLAGS_DEFAULT, slots};

int fill_module(PyObject* module) {
    PyObject* type = PyType_FromSpec(&spec);
    if (type == nullptr) return -1;
    const int failed = PyModule_AddObjectRef(module, "Reader", type);
    Py_DecRef(type);
    // What it was compiled from, so that a test can tell a reader that is older than its source.
    return failed != 0 ? failed : PyModule_AddStringConstant(module, "source_digest", GEMEL_SOURCE_DIGEST);
}

PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, reinterpret_cast<void*>(fill_module)},
    {0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_reader", "NDJSON lines to Arrow.", 0, nullptr, module_slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__reader() { return PyModuleDef_Init(&definition); }
