"""The recipe by which a call's return value is built again, and its changes of Python objects are
made again (runtime.outputs says what it looks like).
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tracejit.ir.dtypes import TORCH, itemsize
from tracejit.ir.graph import Value, numel
from tracejit.ops.strides import dense
from tracejit.ops.views import inverse
from tracejit.runtime import constants, private
from tracejit.trace.aliases import Alias, Storage
from tracejit.trace.changes import Change
from tracejit.trace.recording import Refused
from tracejit.trace.storages import Storages, check_type

Tree = dict[str, Any]


def encode(
    result: Any,
    changes: Sequence[Change],
    reached: Mapping[int, int],
    storages: Storages,
    outside: set[int],
) -> tuple[Tree, list[int]]:
    """The recipe for `result` and for what the call changed, and the nodes of the objects that it
    holds, in the order of its numbers; the graph gets its outputs.

    reached: nodes of the objects that were there before the call, by their ids. outside:
    `containers` of what the call was given, before it ran. Raises Refused for a value that cannot
    be built from tensors and constants.
    """
    encoder = _Encoder(reached, storages, outside)
    for item in (result, *(change.values for change in changes)):
        encoder.collect(item, 0)
    tree = encoder.tree(result)
    if changes:
        tree = {"after": list(map(encoder.changed, changes)), "result": tree}
    return tree, list(encoder.held)


class _Encoder:
    def __init__(self, reached: Mapping[int, int], storages: Storages, outside: set[int]) -> None:
        self.reached = reached
        self.held: dict[int, int] = {}  # node -> number in the recipe
        self.storages = storages
        self.outside = outside
        self.seen: set[int] = set()  # containers that stand in the result already
        self.owners: dict[Storage, list[torch.Tensor]] = {}
        self.out: dict[Storage, tuple[int, Alias]] = {}
        self.leaves: dict[int, Tree] = {}  # by the tensor's identity
        self.plain: set[int] = set()  # graph outputs that are returned as they are
        self.spelled: list[Tree] = []
        self.fresh = 0  # leaves that this call computed

    def changed(self, change: Change) -> Tree:
        """A change; where its value cannot be built again, the call has an effect."""
        try:
            return self._change(change)
        except Refused as refused:
            text = f"writes {change.key or 'an object'}, and {refused.text}"
            raise Refused("side-effect", text) from refused

    def _change(self, change: Change) -> Tree:
        """A change with its values spelled."""
        number = self._hold(change.node)
        where = [number, change.step, change.key]
        if change.kind == "drop":
            return {"drop": where}
        if change.kind == "put":
            return {"put": where, "value": self.tree(change.values[0])}
        if change.kind == "count":
            return {"count": where, "by": change.values[0]}
        if change.kind in ("extend", "fill"):
            return {change.kind: number, "items": [self.tree(item) for item in change.values]}
        gone, new = change.values
        gone = [constants.encode(key) for key in gone]
        if change.kind == "renew":
            return {"renew": number, "gone": gone, "new": [constants.encode(part) for part in new]}
        pairs = [[constants.encode(key), self.tree(value)] for key, value in new]
        return {"rekey": number, "gone": gone, "set": pairs}

    def _hold(self, node: int) -> int:
        """The number of an object that was there before the call."""
        return self.held.setdefault(node, len(self.held))

    # --- tensors ---

    def collect(self, item: Any, depth: int) -> None:
        """Note which tensors lie in which memory, so that those that share it are built as views of
        one.
        """
        if depth > 50:
            raise Refused("output", "a return value nested more than 50 deep")
        if isinstance(item, torch.Tensor):
            home = self._alias(item).home
            tensors = self.owners.setdefault(home, [])
            if not any(item is t for t in tensors):
                tensors.append(item)
            return
        for part in () if id(item) in self.reached else _parts(item):
            self.collect(part, depth + 1)

    def _alias(self, tensor: torch.Tensor) -> Alias:
        check_type(tensor)
        return self.storages.find(tensor)

    def _tensor(self, tensor: torch.Tensor) -> Tree:
        found = self.leaves.get(id(tensor))
        if found is None:
            found = self.leaves[id(tensor)] = self._leaf(tensor)
        return found

    def _leaf(self, tensor: torch.Tensor) -> Tree:
        alias = self._alias(tensor)
        number = self.storages.number(tensor)
        if number >= 0:
            return {"input": number}
        made = _made(tensor)
        here = torch.is_inference_mode_enabled()
        if tensor.is_inference() != here and not alias.home.outside:
            made["inference"] = not here
        self.fresh += 1
        if alias.home.outside:
            return self._distinct({**self._of_input(tensor, alias), **made})
        if alias.home not in self.out:
            base = self._base(alias)
            self.out[alias.home] = (self._output(base), base)
        number, base = self.out[alias.home]
        if base is alias and (made or number not in self.plain):
            if not made:
                self.plain.add(number)
            return self._distinct({"out": number, **made})
        return self._distinct({**_view("view", number, alias, base), **made})

    def _of_input(self, tensor: torch.Tensor, alias: Alias) -> Tree:
        """The recipe of a view of an input."""
        number = self.storages.inputs.index(alias.root)
        source = self.storages.sources[number]
        tree = _view("input_view", number, alias, alias.root)
        # A view is of inference mode if its base is; one as another dtype, if it is made there.
        here, bits = torch.is_inference_mode_enabled(), tree.get("pairs") is False
        if tensor.is_inference() != (here if bits else source.is_inference()):
            raise Refused("output", "a view that was made in another inference mode")
        if source.requires_grad and torch.is_grad_enabled() and not tensor.requires_grad:
            tree["apart"] = True  # a leaf that requires gradients is made apart
        return tree

    def _base(self, alias: Alias) -> Alias:
        """What is computed: the alias itself if it is alone on its memory, else the root that all
        are views of.
        """
        root = alias.root
        part = alias.offset != root.offset or numel(alias.sizes) != numel(root.sizes)
        alike = alias.dtype == root.dtype and not alias.lazy
        alone = len(self.owners[alias.home]) == 1 and alike
        if alone and part and len(alias.home.roots) == 1 and dense(root.sizes, root.strides):
            return root  # its memory is as large as eager's, and it begins where eager's does
        if alone and dense(alias.sizes, alias.strides) is not None:
            return alias
        if len(alias.home.roots) > 1:
            raise Refused("output", "results that share memory in an unknown way")
        return alias.root

    def _output(self, alias: Alias) -> int:
        """The alias's value becomes a graph output, with the strides that the real tensor has."""
        outputs = self.storages.graph.outputs
        value = self.storages.read(alias)
        outputs.append(value if value.strides == alias.strides else self._restrided(value, alias))
        return len(outputs) - 1

    def _restrided(self, value: Value, alias: Alias) -> Value:
        order = dense(alias.sizes, alias.strides)
        if order is None:
            raise Refused("output", "a result with gaps that was written to")
        add = self.storages.add
        turned = add("aten.permute", (value, order), {})
        copied = add("aten.clone", (turned,), {"memory_format": torch.contiguous_format})
        return add("aten.permute", (copied, inverse(order)), {})

    def _distinct(self, leaf: Tree) -> Tree:
        """The leaf, numbered if another tensor object has the same."""
        same = sum(leaf == {k: v for k, v in old.items() if k != "nth"} for old in self.spelled)
        if same:
            leaf["nth"] = same
        self.spelled.append(leaf)
        return leaf

    # --- everything else ---

    def tree(self, item: Any) -> Tree:
        if isinstance(item, torch.Tensor):
            return self._tensor(item)
        if constants.is_constant(item):
            return {"const": constants.encode(item)}
        kind = type(item)
        if kind is torch.Generator and private.is_default(item):  # torch.manual_seed returns it
            return {"global": "torch:default_generator"}
        if kind is not tuple and not isinstance(item, type) and not _is_function(item):
            if id(item) in self.reached:
                return {"held": self._hold(self.reached[id(item)])}
            self._enter(item)
        if kind is tuple or kind is list:
            return {kind.__name__: [self.tree(part) for part in item]}
        if kind is dict:
            return {"dict": [[self._key(k), self.tree(v)] for k, v in item.items()]}
        if isinstance(item, tuple) and (hasattr(kind, "_make") or hasattr(kind, "n_fields")):
            return {"namedtuple": _name(kind), "items": [self.tree(part) for part in item]}
        node = private.pytree_nodes().get(kind)
        if node is not None:
            children, context = node.flatten_fn(item)
            trees = [self.tree(child) for child in children]
            return {"pytree": _name(kind), "context": self.tree(context), "children": trees}
        if isinstance(item, type) or _is_function(item):
            return {"global": _name(item)}
        return self._object(item)

    def _enter(self, item: Any) -> None:
        """Containers are built anew: one that existed before, or stands in two places, would lose
        its identity.
        """
        if id(item) in self.outside:
            raise Refused("output", f"a {type(item).__name__} that the call was given")
        if id(item) in self.seen:
            raise Refused("output", f"one {type(item).__name__} stands in two places")
        self.seen.add(id(item))

    def _key(self, key: Any) -> Tree:
        if not constants.is_constant(key):
            raise Refused("output", f"a dict with a key of type {type(key).__name__}")
        return {"const": constants.encode(key)}

    def _object(self, item: Any) -> Tree:
        """An instance with nothing but attributes. It must hold something computed: others existed
        before the call.
        """
        kind = type(item)
        if not is_plain_object(item):
            raise Refused("output", f"an object of type {_qualified(kind)} is returned")
        before = self.fresh
        fields = [[name, self.tree(value)] for name, value in vars(item).items()]
        if self.fresh == before:
            raise Refused("output", f"an object of type {_qualified(kind)} is returned")
        return {"object": _name(kind), "fields": fields}


def is_plain_object(item: Any) -> bool:
    """Whether `__dict__` is all there is to an instance, as far as copying it goes."""
    kind = type(item)
    own = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__")
    changed = any(getattr(kind, n, None) is not getattr(object, n, None) for n in own)
    slots = copyreg._slotnames(kind)  # type: ignore[attr-defined]  # CPython's
    is_module = isinstance(item, torch.nn.Module)
    return hasattr(item, "__dict__") and not changed and not slots and not is_module


def _view(kind: str, number: int, alias: Alias, base: Alias) -> Tree:
    """The recipe of a view."""
    tree: Tree = {kind: number, "sizes": list(alias.sizes), "strides": list(alias.strides)}
    if alias.dtype == base.dtype:
        tree["offset"] = alias.offset - base.offset
    else:
        starts = [each.offset * itemsize(each.dtype) for each in (alias, base)]
        name = str(TORCH[alias.dtype]).removeprefix("torch.")
        tree.update(offset=starts[0] - starts[1], dtype=name, pairs=_as_pairs(alias))
    return {**tree, "lazy": alias.lazy} if alias.lazy else tree


def _as_pairs(alias: Alias | None) -> bool:
    """Whether only views of complex numbers as pairs, and back, led to another dtype."""
    while alias is not None:
        if alias.op == "aten.view_copy.dtype":
            return False
        alias = alias.parent
    return True


def _made(tensor: torch.Tensor) -> Tree:
    """What a new tensor is besides its memory: of another class, with attributes, a leaf that
    requires gradients. Raises Refused for one that leads to others."""
    if not tensor.is_leaf:
        raise Refused("autograd", "the result requires gradients")
    if any(private.tensor_hooks(tensor)) or (tensor.requires_grad and tensor.grad is not None):
        raise Refused("autograd", "a new tensor with a gradient or with hooks is returned")
    fields = vars(tensor)
    if not all(map(constants.is_constant, fields.values())):
        raise Refused("output", "a new tensor with attributes is returned")
    parameter = type(tensor) is torch.nn.Parameter
    if not (tensor.requires_grad or parameter or fields):
        return {}
    spelled = [[{"const": c} for c in map(constants.encode, pair)] for pair in fields.items()]
    return {"made": [tensor.requires_grad, parameter, spelled]}


def _parts(item: Any) -> list[Any]:
    """What a container holds; nothing for a leaf."""
    kind = type(item)
    if kind is dict:
        return list(item.values())
    if isinstance(item, (list, tuple)):
        return list(item)
    node = private.pytree_nodes().get(kind)
    if node is not None:
        return list(node.flatten_fn(item)[0])
    if isinstance(item, type) or constants.is_constant(item) or not is_plain_object(item):
        return []
    return list(vars(item).values())


def containers(given: Any) -> set[int]:
    """Identities of the containers among the arguments."""
    found: set[int] = set()
    stack = [given]
    while stack:
        item = stack.pop()
        if id(item) in found or isinstance(item, torch.Tensor) or constants.is_constant(item):
            continue
        parts = _parts(item)
        if not isinstance(item, tuple):
            found.add(id(item))
        stack.extend(parts)
    return found


def _is_function(item: Any) -> bool:
    return callable(item) and hasattr(item, "__qualname__") and not hasattr(item, "__self__")


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _name(item: Any) -> str:
    """`module:qualname`, if that leads back to the class or function. Raises Refused otherwise."""
    name = constants.name_of(item)
    if constants.named(name) is not item:
        raise Refused("output", f"{name} is returned, and cannot be found by that name")
    return name
