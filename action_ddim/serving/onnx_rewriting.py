"""How the exporter's graphs are written: operations that ONNX has not, and nodes that become fewer.

At these sizes a node costs about as much as what it does.
"""

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset23
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

OPSET = 23  # the first with Attention
op: Any = opset23  # its types are those of functions that are compiled, not traced


# --- In the place of what the exporter has no translation for, or another one than torch computes by ---


def _cumsum(self, dim: int, dtype: int = -1):
    """Sum floats in float64, as torch does on the CPU."""
    summed, given = (ir.DataType.DOUBLE, self.dtype) if self.dtype.is_floating_point() else 2 * (ir.DataType.INT64,)
    return op.Cast(op.CumSum(op.Cast(self, to=summed), op.Constant(value_int=dim)), to=given)


def _cummax(self, dim: int):
    """Take the largest of indices `(N, L, C)` up to each step: the maximum of a window that reaches back to the first."""
    by_channel = op.Transpose(op.Cast(self, to=ir.DataType.FLOAT), perm=[0, 2, 1])
    length = self.shape[1]
    largest, _ = op.MaxPool(by_channel, kernel_shape=[length], pads=[length - 1, 0])
    values = op.Cast(op.Transpose(largest, perm=[0, 2, 1]), to=ir.DataType.INT64)
    return values, values  # the second, where they lie, is not looked at


def _cummin(self, dim: int):
    negative = op.Neg(self)
    negative.shape = self.shape
    values = op.Neg(_cummax(negative, dim)[0])
    return values, values


def _scatter_reduce(self, dim: int, index, src, reduce: str, include_self: bool = True):
    """Reduce the values of each group, which is not empty; `self` is not among them."""
    reduction, neutral = {"amin": ("min", math.inf), "amax": ("max", -math.inf)}.get(reduce, ("add", 0.0))
    shape = op.Shape(src)
    start = op.Expand(op.Constant(value_float=neutral), shape)
    reduced = op.ScatterElements(start, index, src, axis=dim, reduction=reduction)
    if reduce != "mean":
        return reduced
    ones = op.Expand(op.Constant(value_float=1.0), shape)
    return op.Div(reduced, op.ScatterElements(start, index, ones, axis=dim, reduction="add"))


def _unbind(self, dim: int = 0):
    return [op.Gather(self, op.Constant(value_int=index), axis=dim) for index in range(self.shape[dim])]


def _where(condition, first, second):
    if first.dtype != ir.DataType.BOOL:
        return op.Where(condition, first, second)
    return op.Or(op.And(condition, first), op.And(op.Not(condition), second))  # onnxruntime chooses among no booleans


_aten = torch.ops.aten
TRANSLATIONS: dict[Callable, Callable] = {
    _aten.cumsum.default: _cumsum,
    _aten.cummax.default: _cummax,
    _aten.cummin.default: _cummin,
    _aten.scatter_reduce.two: _scatter_reduce,
    _aten.unbind.int: _unbind,
    _aten.where.self: _where,
}


# --- Pairs of what the exporter writes and what is written instead ---


def _attributes(value: Any) -> dict:
    return {name: attribute.value for name, attribute in value.producer().attributes.items()}


def _modulated_norm(op, x, ones, scale, shift):
    return op.Add(shift, op.Mul(op.LayerNormalization(x, ones, _outputs=["normalized"]), scale))


def _norm_with_scale_and_shift(op, x, scale, shift, normalized, **_):
    flat = op.Constant(value_ints=[-1])
    return op.LayerNormalization(x, op.Reshape(scale, flat), op.Reshape(shift, flat), **_attributes(normalized))


def _attention_by_head(op, qkv, heads, first, second, third, gain, joined):
    parts = op.Reshape(qkv, heads, _outputs=["parts"])
    queries = op.LayerNormalization(op.Gather(parts, first, axis=2), gain, _outputs=["normalized"])
    keys = op.LayerNormalization(op.Gather(parts, second, axis=2), gain)
    by_head = [op.Transpose(values, perm=[0, 2, 1, 3]) for values in (queries, keys, op.Gather(parts, third, axis=2))]
    return op.Reshape(op.Transpose(op.Attention(*by_head, _outputs=["attended"]), perm=[0, 2, 1, 3]), joined)


def _attention_over_channels(op, qkv, gain, parts, normalized, attended, **_):
    """Leave the heads beside each other: Attention finds them by their number."""
    num_heads, size = parts.shape[3:]
    width = num_heads * size
    both, values = op.Split(qkv, op.Constant(value_ints=[2 * width, width]), axis=-1, _outputs=2)
    both = op.Reshape(both, op.Constant(value_ints=[0, 0, 2 * num_heads, size]))
    both = op.LayerNormalization(both, gain, **_attributes(normalized))
    queries, keys = op.Split(op.Reshape(both, op.Constant(value_ints=[0, 0, 2 * width])), axis=-1, num_outputs=2, _outputs=2)
    return op.Attention(queries, keys, values, q_num_heads=num_heads, kv_num_heads=num_heads, **_attributes(attended))


def _product_with_neighbours(op, x, tokens, shape, matrix):
    padded = op.Concat(op.Slice(x, _allow_other_inputs=True), x, op.Slice(x, _allow_other_inputs=True), axis=1)
    windows = op.Transpose(op.Gather(padded, tokens, axis=1), perm=[0, 1, 3, 2])
    return op.MatMul(op.Reshape(windows, shape), matrix)


def _product_of_gathered(op, x, tokens, matrix, **_):
    """Gather the neighbours of each token once, and turn the matrix instead of them."""
    (num_tokens, num_channels), width = x.shape[1:], tokens.shape[1]
    gathered = (tokens.const_value.numpy() - width // 2).clip(0, num_tokens - 1)
    windows = op.Gather(x, op.Constant(value=ir.tensor(gathered)), axis=1)
    windows = op.Reshape(windows, op.Constant(value_ints=[0, 0, width * num_channels]))
    turned = op.Transpose(op.Reshape(matrix, op.Constant(value_ints=[num_channels, width, -1])), perm=[1, 0, 2])
    return op.MatMul(windows, op.Reshape(turned, op.Constant(value_ints=[width * num_channels, -1])))


def _padding_by_zeros(op, x, shape):
    return op.Concat(x, op.ConstantOfShape(shape, _outputs=["zeros"]), axis=1)


def _padding(op, x, zeros, **_):
    return op.Pad(x, op.Constant(value_ints=[0, 0, 0, 0, zeros.shape[1], 0]))


def _two_sums(op, x, first, second):
    return op.Add(op.Add(x, first), second)


def _sum_of_constants(op, x, first, second):
    return op.Add(x, op.Add(first, second))


def _are_constant(context, first, second, **_) -> bool:
    return first.is_initializer() and second.is_initializer()


REWRITING = RewriteRuleSet(
    [
        RewriteRule(_modulated_norm, _norm_with_scale_and_shift),
        RewriteRule(_attention_by_head, _attention_over_channels),
        RewriteRule(_product_with_neighbours, _product_of_gathered, remove_nodes=False),  # the windows may serve two
        RewriteRule(_padding_by_zeros, _padding),
        RewriteRule(_two_sums, _sum_of_constants, _are_constant),
    ]
)
