"""Scaled dot-product attention (Vaswani et al. 2017, equation 1), with masks, dropout and shared key heads.

    scores  S = scale q k^T + mask                 [..., L, S]
    weights P = softmax of S along its last axis, dropped out where asked
    output  o = P v

Gradients, with P' the weights before dropout, D the dropout's factors (0 or 1 / (1 - p)), g = grad_o:

    grad_v = P^T g        grad_P' = D (g v^T)        grad_S = P' (grad_P' - rows' sums of g o)
    grad_q = scale grad_S k        grad_k = scale grad_S^T q        grad_mask = grad_S, summed where mask was stretched

No [L, S] matrix outlives its tile: the backward pass computes the weights again from the logarithm of each row's sum
(Dao et al. 2022). A row with no key to look at has weights and output 0, as in PyTorch since 2.5.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import check_array, check_float, check_number, check_same_dtype, refuse_type, refuse_value
from ..operation import Cost, Operation, Refused, Sample, Values

_NAME = "scaled_dot_product_attention"


def _check(query, key, value, attn_mask=None, *, is_causal=False, scale=None, dropout_p=0.0, seed=0, enable_gqa=False):
    """query: [..., heads, L, E], key: [..., heads, S, E], value: [..., heads, S, Ev], all of one type.

    attn_mask: bool (True: may look) or query's type (added to the scores), broadcastable to [..., heads, L, S].
    is_causal: query i sees keys 0..i only. scale: None means 1 / sqrt(E). dropout_p: in [0, 1]; weight number
    n in C order of [..., heads, L, S] is dropped where Philox's number n under `seed` is below it. enable_gqa: key and
    value may have fewer heads, each for as many neighbouring query heads.
    """
    check_float(_NAME, "query", query)
    check_same_dtype(_NAME, "query", query, "key", key)
    check_same_dtype(_NAME, "query", query, "value", value)
    if query.ndim < 2 or query.shape[-1] == 0:
        refuse_value(_NAME, "query", "as [..., L, E] with E of 1 or more", f"shape {query.shape}")
    for name, flag in (("is_causal", is_causal), ("enable_gqa", enable_gqa)):
        if not isinstance(flag, bool):
            refuse_type(_NAME, name, "as a bool", type(flag).__qualname__)
    _check_heads(query, key, enable_gqa)
    if value.shape[:-1] != key.shape[:-1]:
        refuse_value(_NAME, "value", f"of shape {(*key.shape[:-1], 'Ev')} (key is {key.shape})", value.shape)
    if attn_mask is not None:
        _check_mask(query, key, attn_mask)
    if scale is not None:
        check_number(_NAME, "scale", scale, open_low=True, open_high=True)
    check_number(_NAME, "dropout_p", dropout_p, 0, 1)
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool):
        refuse_type(_NAME, "seed", "as an integer", type(seed).__qualname__)
    check_number(_NAME, "seed", seed, 0, 2**63 - 1)


def _check_heads(query, key, enable_gqa):
    features = query.shape[-1]
    if key.ndim != query.ndim or key.shape[-1] != features:
        expected = f"with {query.ndim} axes, the last of size {features} (query is {query.shape})"
        refuse_value(_NAME, "key", expected, f"shape {key.shape}")
    if key.shape[:-2] == query.shape[:-2]:
        return
    if not enable_gqa:
        refuse_value(_NAME, "key", f"with leading axes {query.shape[:-2]} (query is {query.shape})", key.shape[:-2])
    if key.shape[:-3] != query.shape[:-3] or key.shape[-3] == 0 or query.shape[-3] % key.shape[-3]:
        refuse_value(_NAME, "key", f"with heads that divide the query's (query is {query.shape})", f"shape {key.shape}")


def _check_mask(query, key, mask):
    check_array(_NAME, "attn_mask", mask)
    if mask.dtype != bool and mask.dtype != query.dtype:
        refuse_type(_NAME, "attn_mask", f"of type bool or query's type {query.dtype}", mask.dtype)
    scores = (*query.shape[:-1], key.shape[-2])
    if mask.ndim > len(scores) or any(m not in (1, s) for m, s in zip(mask.shape[::-1], scores[::-1])):
        refuse_value(_NAME, "attn_mask", f"of a shape that broadcasts to {scores}", mask.shape)


def _cost(query, key, value, attn_mask=None, *, is_causal=False, **_):
    """Two products; a causal mask leaves of each row what it sees."""
    length, keys = query.shape[-2], key.shape[-2]
    pairs = sum(min(i + 1, keys) for i in range(length)) if is_causal else length * keys
    heads = math.prod(query.shape[:-2])
    elements = query.size + key.size + value.size + heads * length * value.shape[-1]
    mask_bytes = 0 if attn_mask is None else attn_mask.nbytes
    return Cost(
        flops=2 * heads * pairs * (query.shape[-1] + value.shape[-1]),
        bytes=elements * query.dtype.itemsize + mask_bytes,
    )


def _sample(name, heads, lengths, features, mask=None, *, large=False, key_heads=None, **attributes):
    """heads: the leading axes; lengths: L, S; features: E, Ev."""
    key_heads = heads if key_heads is None else key_heads
    inputs = {
        "query": (*heads, lengths[0], features[0]),
        "key": (*key_heads, lengths[1], features[0]),
        "value": (*key_heads, lengths[1], features[1]),
    }
    if mask is not None:
        inputs["attn_mask"] = mask
    return Sample(name, inputs, attributes, large)


def _random_mask(*shape):
    """A bool mask in which each row keeps its first key and most others; the same at every start."""
    mask = np.random.default_rng(0).random(shape) < 0.7
    mask[..., 0] = True
    return Values(mask)


def _vary(pick):
    heads = tuple(pick(0, 3) for _ in range(pick(0, 2)))
    length, keys = pick(0, 20), pick(0, 20)
    mask = None
    if pick(0, 1):
        full = (*heads, length, keys)
        shape = tuple(1 if pick(0, 2) == 0 else size for size in full[pick(0, len(heads)) :])
        mask = pick.of((shape, Values(np.random.default_rng(pick(0, 99)).random(shape) < 0.6)))
    attributes = {"is_causal": pick.of((True, False)), "dropout_p": pick.of((0.0, 0.3)), "seed": pick(0, 2**40)}
    return _sample("varied", heads, (length, keys), (pick(1, 9), pick(0, 9)), mask, **attributes)


scaled_dot_product_attention = Operation(
    _NAME,
    __name__,
    check=_check,
    by_form=True,
    cost=_cost,
    reduction_length=lambda query, key, *_, **__: max(query.shape[-1], query.shape[-2], key.shape[-2], 1),
    vary=_vary,
    samples=[
        _sample("heads", (2, 3), (7, 7), (8, 8)),
        _sample("cross", (2, 2), (5, 9), (6, 10), scale=0.3),
        _sample("causal", (2,), (9, 9), (4, 4), is_causal=True),
        _sample("causal_more_keys", (2,), (5, 11), (4, 4), is_causal=True),
        _sample("causal_more_queries", (2,), (11, 5), (4, 4), is_causal=True),
        _sample("padding", (3, 2), (6, 8), (4, 4), _random_mask(3, 1, 1, 8)),
        _sample("bool_mask", (2, 2), (6, 8), (4, 4), _random_mask(6, 8)),
        _sample("bias", (2, 2), (6, 8), (4, 4), (2, 6, 8)),
        _sample("bias_a_row", (2, 2), (6, 8), (4, 4), (2, 1, 1, 8), is_causal=True),
        _sample("bias_a_column", (2, 2), (6, 8), (4, 4), (6, 1)),
        _sample("dropout", (2, 2), (9, 17), (4, 4), dropout_p=0.4, seed=2**50 + 17),
        _sample("shared_keys", (2, 6), (7, 5), (4, 3), (6, 7, 5), key_heads=(2, 2), enable_gqa=True, dropout_p=0.2),
        _sample("shared_keys_causal", (4,), (7, 9), (4, 3), key_heads=(1,), enable_gqa=True, is_causal=True),
        _sample("no_heads_axis", (), (5, 6), (3, 2)),
        _sample("one", (1, 1), (1, 1), (1, 1)),
        _sample("no_batch", (0, 2), (3, 4), (5, 6)),
        _sample("no_queries", (2,), (0, 4), (5, 6)),
        _sample("no_keys", (2,), (3, 0), (5, 6)),
        _sample("gpt2_small", (4, 12), (1024, 1024), (64, 64), is_causal=True, large=True),
        _sample("bert_base", (8, 12), (512, 512), (64, 64), large=True),
        _sample("llama_2", (1, 32), (512, 512), (128, 128), is_causal=True, large=True),
        _sample("gemma_2b", (1, 8), (512, 512), (256, 256), is_causal=True, large=True),
        _sample("digits_transformer", (64, 4), (64, 64), (16, 16), large=True),
    ],
    refused=[
        Refused(
            "integers",
            {"query": np.zeros((2, 3), int), "key": np.zeros((2, 3)), "value": np.zeros((2, 3))},
            TypeError,
            "query of type",
        ),
        Refused(
            "mixed",
            {"query": np.zeros((2, 3)), "key": np.zeros((2, 3), "f4"), "value": np.zeros((2, 3))},
            TypeError,
            "key of query's type float64",
        ),
        Refused(
            "vector",
            {"query": np.zeros(3), "key": np.zeros((2, 3)), "value": np.zeros((2, 3))},
            ValueError,
            r"query as \[\.\.\., L, E\]",
        ),
        Refused(
            "features",
            {"query": np.zeros((2, 3)), "key": np.zeros((2, 4)), "value": np.zeros((2, 3))},
            ValueError,
            "key with 2 axes, the last of size 3",
        ),
        Refused(
            "heads",
            {"query": np.zeros((4, 2, 3)), "key": np.zeros((2, 2, 3)), "value": np.zeros((2, 2, 3))},
            ValueError,
            r"key with leading axes \(4,\)",
        ),
        Refused(
            "groups",
            {"query": np.zeros((4, 2, 3)), "key": np.zeros((3, 2, 3)), "value": np.zeros((3, 2, 3))},
            ValueError,
            "heads that divide",
            {"enable_gqa": True},
        ),
        Refused(
            "keys",
            {"query": np.zeros((2, 3)), "key": np.zeros((4, 3)), "value": np.zeros((5, 3))},
            ValueError,
            r"value of shape \(4, 'Ev'\)",
        ),
        Refused(
            "mask_shape",
            {
                "query": np.zeros((2, 3)),
                "key": np.zeros((4, 3)),
                "value": np.zeros((4, 3)),
                "attn_mask": np.ones((3, 4), bool),
            },
            ValueError,
            r"attn_mask of a shape that broadcasts to \(2, 4\)",
        ),
        Refused(
            "mask_type",
            {
                "query": np.zeros((2, 3)),
                "key": np.zeros((4, 3)),
                "value": np.zeros((4, 3)),
                "attn_mask": np.ones((2, 4), int),
            },
            TypeError,
            "attn_mask of type bool or query's type float64",
        ),
        *(
            Refused(
                attribute,
                {"query": np.zeros((2, 3)), "key": np.zeros((2, 3)), "value": np.zeros((2, 3))},
                error,
                message,
                {attribute: bad},
            )
            for attribute, bad, error, message in [
                ("dropout_p", 1.5, ValueError, r"dropout_p in \[0, 1\], got 1.5"),
                ("scale", math.nan, ValueError, "scale in .*, got nan"),
                ("seed", 0.5, TypeError, "seed as an integer"),
                ("is_causal", 1, TypeError, "is_causal as a bool"),
            ]
        ),
    ],
)
