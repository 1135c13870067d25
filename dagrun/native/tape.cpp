// The autodiff records of operations, made as they are recorded. What a record means is said in dagrun/record/tape.py.
#include <cstring>

#include "objects.h"

#include <structmember.h>

namespace dagrun {

// One recorded operation. Not tracked by the garbage collector, as it would not see through handles anyway.
struct Node {
  PyObject_HEAD
  PyObject* plan;     // what nodes of one signature share: name, rules, layouts
  PyObject* parents;  // tuple: for each operand the record that it came from, or None
  PyObject* saved;    // tuple: what the rules read, each followed by its version; nullptr once freed
  PyObject *hooks, *kept, *token;
  uint64_t sequence;
  uint32_t site;
};

// How the nodes of a signature are made on one device, where the operands `bits` are tracked.
struct Recipe {
  struct Read {
    char kind;  // 'r': the result, 'a': an array, else the kind of a scalar: 'd' float64, 's' float32, 'i', 'u', '?'
    int index;
  };
  Device* device;
  uint32_t bits;
  PyObject* plan = nullptr;  // nullptr: made by the hook in Python
  std::vector<int> operands;  // the array among the inputs, -1 for a scalar
  std::vector<Read> reads;
  ~Recipe() { Py_XDECREF(plan); }
};

thread_local PyObject* observer = nullptr;

namespace {

uint64_t last_sequence = 0;
constexpr size_t kMostRecipes = 64;
constexpr size_t kMostTracked = 32;

// Chains of nodes are long, the stack is not: a node that dies while another does waits for its turn.
thread_local std::vector<Node*> dying;
thread_local bool freeing = false;

void node_dealloc(PyObject* self) {
  auto* first = reinterpret_cast<Node*>(self);
  if (freeing) {
    dying.push_back(first);
    return;
  }
  freeing = true;
  dying.push_back(first);
  while (!dying.empty()) {
    Node* node = dying.back();
    dying.pop_back();
    for (PyObject* held : {node->plan, node->parents, node->saved, node->hooks, node->kept, node->token}) Py_XDECREF(held);
    PyTypeObject* type = Py_TYPE(node);
    PyObject_Free(node);
    Py_DECREF(type);
  }
  freeing = false;
}

// Takes over the tuples.
PyObject* make_node(PyObject* plan, PyObject* parents, PyObject* saved, uint32_t site) {
  Node* node = PyObject_New(Node, module.node_type);
  if (!node) {
    Py_DECREF(parents);
    Py_XDECREF(saved);
    return nullptr;
  }
  node->plan = Py_NewRef(plan);
  node->parents = parents;
  node->saved = saved;
  node->hooks = node->kept = node->token = nullptr;
  node->sequence = ++last_sequence;
  node->site = site;
  return reinterpret_cast<PyObject*>(node);
}

PyObject* node_new(PyTypeObject*, PyObject* args, PyObject*) {
  PyObject *plan, *parents, *saved;
  if (!PyArg_ParseTuple(args, "OO!O!", &plan, &PyTuple_Type, &parents, &PyTuple_Type, &saved)) return nullptr;
  return make_node(plan, Py_NewRef(parents), Py_NewRef(saved), current_site());
}

PyMemberDef node_members[] = {{"plan", T_OBJECT, offsetof(Node, plan), READONLY, nullptr},
                              {"parents", T_OBJECT, offsetof(Node, parents), READONLY, nullptr},
                              {"saved", T_OBJECT, offsetof(Node, saved), 0, nullptr},
                              {"hooks", T_OBJECT, offsetof(Node, hooks), 0, nullptr},
                              {"kept", T_OBJECT, offsetof(Node, kept), 0, nullptr},
                              {"token", T_OBJECT, offsetof(Node, token), 0, nullptr},
                              {"sequence", T_ULONGLONG, offsetof(Node, sequence), READONLY, nullptr},
                              {"site", T_UINT, offsetof(Node, site), READONLY, nullptr},
                              {}};
PyType_Slot node_slots[] = {{Py_tp_new, reinterpret_cast<void*>(node_new)},
                            {Py_tp_dealloc, reinterpret_cast<void*>(node_dealloc)},
                            {Py_tp_members, node_members},
                            {Py_tp_doc, const_cast<char*>("Node(plan, parents, saved): one recorded operation")},
                            {0, nullptr}};
PyType_Spec node_spec = {"dagrun._native.Node", sizeof(Node), 0, Py_TPFLAGS_DEFAULT, node_slots};

// A tuple of what the collector need not look at: handles, nodes, numbers.
PyObject* plain_tuple(size_t count) {
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(count));
  if (tuple && count) PyObject_GC_UnTrack(tuple);
  return tuple;
}

PyObject* alias_of(Handle* handle, PyObject* record) {
  module.executor->add_handle(handle->buffer);
  Handle* made = make_handle(handle->layout, handle->buffer, handle->offset);
  if (made && record) {
    made->node = Py_NewRef(record);
    made->requires_grad = 1;
  }
  return reinterpret_cast<PyObject*>(made);
}

PyObject* scalar_of(char kind, uint64_t bits) {
  switch (kind) {
    case 'd': {
      double number;
      memcpy(&number, &bits, 8);
      return PyFloat_FromDouble(number);
    }
    case 's': {
      float number;
      memcpy(&number, &bits, 4);
      return PyFloat_FromDouble(number);
    }
    case 'i':
      return PyLong_FromLongLong(static_cast<long long>(bits));
    case 'u':
      return PyLong_FromUnsignedLongLong(bits);
    default:
      return PyBool_FromLong(static_cast<long>(bits & 0xFF));
  }
}

// Asks the signature's context: (plan, operands, reads), or None where the hook in Python has to do it.
Recipe* find_recipe(Signature* signature, Device* device, uint32_t bits) {
  if (!signature->recipes) signature->recipes = new std::vector<std::unique_ptr<Recipe>>();
  auto& known = *signature->recipes;
  for (auto& recipe : known)
    if (recipe->device == device && recipe->bits == bits) return recipe.get();
  auto made = std::make_unique<Recipe>();
  made->device = device;
  made->bits = bits;
  PyObject* told = PyObject_CallMethod(signature->context, "recipe", "OI", module.devices[device->index], bits);
  if (!told) return nullptr;
  PyObject *plan, *operands, *reads;
  if (told != Py_None) {
    if (!PyArg_ParseTuple(told, "OO!O!", &plan, &PyTuple_Type, &operands, &PyTuple_Type, &reads)) {
      Py_DECREF(told);
      return nullptr;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(operands); i++)
      made->operands.push_back(static_cast<int>(PyLong_AsLong(PyTuple_GET_ITEM(operands, i))));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(reads); i++) {
      const char* kind;
      int index;
      if (!PyArg_ParseTuple(PyTuple_GET_ITEM(reads, i), "si", &kind, &index)) {
        Py_DECREF(told);
        return nullptr;
      }
      made->reads.push_back({kind[0], index});
    }
    made->plan = Py_NewRef(plan);
  }
  Py_DECREF(told);
  if (known.size() >= kMostRecipes) known.clear();
  known.push_back(std::move(made));
  return known.back().get();
}

}  // namespace

void drop_recipes(Signature* signature) { delete signature->recipes; }

uint64_t next_sequence() { return ++last_sequence; }

// The usual operation: arrays that no write through another view concerns, a fresh result, a native body.
int remember(Signature* signature, Handle* const* inputs, size_t n_in, const uint64_t* scalars, Handle* result, uint32_t site) {
  uint32_t bits = 0;
  if (observer || n_in > kMostTracked) return 0;
  for (size_t i = 0; i < n_in; i++) {
    if (inputs[i]->family && inputs[i]->family->tracked) return 0;
    if (inputs[i]->requires_grad && inputs[i]->node) bits |= 1u << i;
  }
  if (!bits) return 0;
  const Recipe* recipe = find_recipe(signature, inputs[0]->buffer->device, bits);
  if (!recipe) return -1;
  if (!recipe->plan) return 0;
  PyObject* parents = plain_tuple(recipe->operands.size());
  PyObject* saved = plain_tuple(2 * recipe->reads.size());
  bool good = parents && saved;
  for (size_t k = 0; good && k < recipe->operands.size(); k++) {
    const int i = recipe->operands[k];
    PyObject* record = i >= 0 && bits >> i & 1 ? inputs[i]->node : Py_None;
    PyTuple_SET_ITEM(parents, static_cast<Py_ssize_t>(k), Py_NewRef(record));
  }
  for (size_t k = 0; good && k < recipe->reads.size(); k++) {
    const Recipe::Read& read = recipe->reads[k];
    uint64_t version = 0;
    PyObject* value;
    if (read.kind == 'a' || read.kind == 'r') {  // a result without its record, which would lead back to this node
      Handle* handle = read.kind == 'r' ? result : inputs[read.index];
      value = alias_of(handle, read.kind == 'a' && bits >> read.index & 1 ? handle->node : nullptr);
      version = handle->buffer->version;
    } else {
      value = scalar_of(read.kind, scalars[read.index]);
    }
    PyObject* number = PyLong_FromUnsignedLongLong(version);
    PyTuple_SET_ITEM(saved, static_cast<Py_ssize_t>(2 * k), value);
    PyTuple_SET_ITEM(saved, static_cast<Py_ssize_t>(2 * k + 1), number);
    good = value && number;
  }
  if (!good) {
    Py_XDECREF(parents);
    Py_XDECREF(saved);
    return -1;
  }
  PyObject* node = make_node(recipe->plan, parents, saved, site);
  if (!node) return -1;
  Py_XSETREF(result->node, node);
  result->requires_grad = 1;
  return 1;
}

bool add_tape(PyObject* m) {
  module.node_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&node_spec));
  return module.node_type && !PyModule_AddObjectRef(m, "Node", reinterpret_cast<PyObject*>(module.node_type));
}

}  // namespace dagrun
