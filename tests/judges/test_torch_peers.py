"""The calls by which `ranvier profile` asks PyTorch for the same, on every operation's samples: if they agree with
Ranvier's outputs and gradients here, what is timed there is the same work."""

import numpy as np
import pytest

from ranvier.kernels.operation import all_operations
from ranvier.profiling import agreement, cases, peers
from ranvier.profiling.variants import NoPeer, differentiated, needed, ranvier_variant

torch = pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")
pytestmark = pytest.mark.judge

# PyTorch's own limits, met by samples that are there for Ranvier's edges.
REFUSED_BY_TORCH = {
    ("gather", "middle"), ("gaussian_nll_loss", "one_variance"), ("group_norm", "one_group"),
    ("interpolate", "unbatched"), ("margin_ranking_loss", "one_order"), ("remainder", "number_left"),
}  # fmt: skip
WITHOUT_PEER = {"embedding_renorm", "lion", "scatter_slice"}


def worth_comparing(sample):
    """Random masks of few elements agree by luck, and dropout2d takes no volumes."""
    return not sample.large and sample.name not in ("one", "volumes", "no_batch")


@pytest.mark.parametrize("operation", list(all_operations()), ids=lambda operation: operation.name)
def test_peers_compute_what_the_operation_does(operation):
    compared = 0
    torch.manual_seed(0)  # of its random masks
    for sample in filter(worth_comparing, operation.samples):
        # PyTorch's gradient of hardsigmoid has a sixth in float32, whatever the type.
        case = cases.Case(operation, sample, "float32" if operation.name == "hardsigmoid" else "float64")
        inputs = case.build()
        if (operation.name, sample.name) in REFUSED_BY_TORCH or any(getattr(x, "size", 1) == 0 for x in inputs):
            continue
        ours = ranvier_variant(case, inputs, "cpu", None)
        outputs = [ours.fetch(o) for o in ours.forward()]
        for peer in peers.peer_variants(case, inputs, "cpu")[0]:
            try:
                theirs = [peer.fetch(o) for o in peer.forward()]
            except NoPeer:
                continue
            assert agreement.disagreement(case, outputs, theirs, inputs, f"{peer.name} {sample.name}") is None
            if ours.backward and peer.backward and any(needed(case, inputs)):
                _compare_gradients(case, ours, peer, outputs, inputs)
            compared += peer.name == "pytorch"
    assert (compared > 0) == (operation.name not in WITHOUT_PEER)


def _compare_gradients(case, ours, peer, outputs, inputs):
    rng, chosen = np.random.default_rng(1), differentiated(case, outputs)
    grads = tuple(
        np.asarray(rng.standard_normal(o.shape)).astype(o.dtype) if i in chosen else None for i, o in enumerate(outputs)
    )
    own, other = ([v.fetch(g) for g in v.backward(grads)()] for v in (ours, peer))
    assert agreement.disagreement(case, own, other, inputs, f"{peer.name} {case.name} gradient") is None


def test_a_wrong_peer_would_be_seen(monkeypatch):
    from ranvier.profiling import peers_torch

    monkeypatch.setitem(peers_torch.CALLS, "gelu", lambda x, *, approximate: torch.nn.functional.silu(x))
    with pytest.raises(AssertionError):
        test_peers_compute_what_the_operation_does(cases.select(["gelu"])[0])
