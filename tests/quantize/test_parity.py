"""Quantizers against `vector_quantize_pytorch`: same codebook and vectors, same codes, losses, gradients and updates.

Where the two differ on purpose, a test says so in its name or beside the line, and what it checks is the relation.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.keys import named
from tokjax.nn.param import materialize
from tokjax.quantize import NO_CODE, quantizer
from tokjax.quantize.base import mean_square
from tokjax.quantize.codebook import kmeans, sample_vectors

torch = pytest.importorskip("torch")
peer = pytest.importorskip("vector_quantize_pytorch")
peer_module = pytest.importorskip("vector_quantize_pytorch.vector_quantize_pytorch")
peer_kmeans = peer_module.kmeans

B, T, D, K = 4, 24, 8, 16
KEY = jax.random.key(7)
CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # float32 sums of about a hundred terms, taken in another order
MASK = np.arange(T) < np.array([[24], [5], [17], [0]])
WEIGHTS = np.random.default_rng(99).normal(size=(B, T, D)).astype(np.float32)  # gradient of quantized vectors
masks = pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
gradients = pytest.mark.parametrize("gradient", ["straight_through", "rotation"])


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tensor(x):
    return torch.tensor(np.asarray(x))


def same(ours, theirs, **tolerance):
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, **(tolerance or CLOSE))


def same_codes(ours, theirs):
    np.testing.assert_array_equal(ours, theirs.numpy())


def made(text, width=D, codebook=None):
    """The quantizer, parameters and state, all of whose codes are those of `codebook` where one is given."""
    spec = quantizer(text, width=width)
    params, state = materialize(spec.declare(), jax.random.key(0)), spec.init_state(jax.random.key(1))
    if codebook is not None:
        put = lambda old: {key: jnp.asarray(codebook) if key in ("codebook", "sums") else old[key] for key in old}  # noqa: E731
        params, state = put(params), put(state)
    return spec, params, state


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def put(theirs, codebook):
    """Gives the codebook of a `VectorQuantize` its codes, and to its averages what belongs to them."""
    with torch.no_grad():
        theirs._codebook.embed.copy_(tensor(codebook).reshape(theirs._codebook.embed.shape))
        theirs._codebook.embed_avg.copy_(tensor(codebook).reshape(theirs._codebook.embed.shape))
    return theirs


def by_averages(codebook, **options):
    """A `VectorQuantize` that means what our defaults do; its own are decay .8, commitment 1 and the rotation trick."""
    fields = {"dim": D, "codebook_size": K, "decay": 0.99, "commitment_weight": 0.25, "rotation_trick": False}
    return put(peer.VectorQuantize(**fields | options), codebook)


def both_gradients(spec, params, state, x, theirs, mask=None, loss_weight=1.0):
    """The gradients of `vectors . WEIGHTS + loss` to x, ours and theirs, and to our parameters."""

    def objective(params, x):
        found = spec.quantize(params, state, x, KEY, mask=mask, train=True)
        return jnp.sum(found.vectors * WEIGHTS) + loss_weight * found.loss

    ours_params, ours_x = jax.grad(objective, argnums=(0, 1))(params, jnp.asarray(x))
    leaf = tensor(x).requires_grad_()
    arguments = {} if mask is None else {"mask": tensor(mask)}
    quantized, *_, loss = theirs(leaf, **arguments)
    (torch.sum(quantized * tensor(WEIGHTS)) + loss_weight * torch.sum(loss)).backward()
    return ours_x, leaf.grad, ours_params


def same_averages(state, theirs, level=()):
    """Counts, sums and codes are those of a codebook of theirs."""
    same(state["counts"][level], theirs.cluster_size[0])
    same(state["sums"][level], theirs.embed_avg[0])
    same(state["codebook"][level], theirs.embed[0])


# One codebook.


@masks
@pytest.mark.parametrize("cosine", [False, True])
def test_averages_move_codes_alike(cosine, mask):
    """Ten batches; the last code is chosen by none, so that its count falls to 1e-3 and smoothing shows."""
    codebook = draw(0, K, D)
    codebook[-1] = 100.0 * np.eye(D)[0]
    codebook = unit(codebook) if cosine else codebook
    spec, params, state = made(f"vq:codes={K}:update=ema:decay=0.5:cosine={cosine}", codebook=codebook)
    theirs = by_averages(codebook, decay=0.5, use_cosine_sim=cosine)
    for step in range(10):
        x = draw(step + 1, B, T, D)
        x[..., 0] -= 3.0  # away from the last code in direction too
        x = unit(x) if cosine else x  # as it is of theirs with a mask, whose loss is not of normalised vectors
        found = spec.quantize(params, state, x, KEY, mask=mask, train=True)
        quantized, codes, loss = theirs(tensor(x), mask=None if mask is None else tensor(mask))
        same_codes(found.codes, codes)
        assert not np.any(found.codes == K - 1)
        same(found.vectors, quantized)
        same(found.loss, loss)
        state = found.state
        same_averages(state, theirs._codebook)
    assert state["counts"][-1] < 2e-3
    theirs.eval()
    same_codes(spec.quantize(params, state, x).codes, theirs(tensor(x))[1])


def test_a_vector_of_the_mask_has_no_code_and_is_zero():
    codebook, x = draw(0, K, D), draw(1, B, T, D)
    spec, params, state = made(f"vq:codes={K}:update=ema", codebook=codebook)
    found = spec.quantize(params, state, x, mask=MASK)
    quantized, codes, _ = by_averages(codebook).eval()(tensor(x), mask=tensor(MASK))
    same_codes(found.codes, codes)
    assert np.all((found.codes == NO_CODE) == ~MASK)
    same(found.vectors, quantized)


def test_a_code_without_direction_is_not_the_nearest_by_cosine():
    """Such as one that started without vectors. Of unit vectors it would be nearer than any of a cosine below 1/2."""
    codebook, x = unit(draw(0, K, D)), draw(1, B, T, D)
    codebook[3] = 0.0
    spec, params, state = made(f"vq:codes={K}:update=ema:cosine=True", codebook=codebook)
    codes = by_averages(codebook, use_cosine_sim=True).eval()(tensor(x))[1]
    same_codes(spec.quantize(params, state, x).codes, codes)


@gradients
@pytest.mark.parametrize(("cosine", "mask"), [(False, None), (False, MASK), (True, None)])
def test_gradients_to_vectors_are_theirs(gradient, cosine, mask):
    """Not of unit vectors with a mask: their loss is then of the vectors before they are normalised."""
    codebook, x = draw(0, K, D), draw(1, B, T, D)
    codebook = unit(codebook) if cosine else codebook
    spec, params, state = made(f"vq:codes={K}:update=ema:gradient={gradient}:cosine={cosine}", codebook=codebook)
    theirs = by_averages(codebook, rotation_trick=gradient == "rotation", use_cosine_sim=cosine)
    ours_x, theirs_x, _ = both_gradients(spec, params, state, x, theirs, mask)
    same(ours_x, theirs_x)


@masks
def test_learned_codes_have_a_loss_of_two_terms_where_theirs_has_one_for_both(mask):
    """Theirs is commitment |z - e|^2 with a gradient to both; ours is |sg z - e|^2 + commitment |z - sg e|^2."""
    codebook, x = draw(0, K, D), draw(1, B, T, D)
    spec, params, state = made(f"vq:codes={K}:commitment=1", codebook=codebook)
    theirs = by_averages(codebook, commitment_weight=1.0, learnable_codebook=True, ema_update=False)
    found = spec.quantize(params, state, x, mask=mask)
    _, codes, loss = theirs(tensor(x), mask=None if mask is None else tensor(mask))
    same_codes(found.codes, codes)
    same(found.loss, 2 * loss)
    ours_x, theirs_x, ours_params = both_gradients(spec, params, state, x, theirs, mask)
    same(ours_x, theirs_x)
    same(ours_params["codebook"], theirs._codebook.embed.grad[0])
    # At any other commitment only the pull on the vectors changes.
    half = dataclasses.replace(spec, commitment=0.5)
    loss = lambda params, x: half.quantize(params, state, x, mask=mask).loss  # noqa: E731
    of_codes, of_vectors = jax.grad(loss, argnums=(0, 1))(params, jnp.asarray(x))
    same(of_codes["codebook"], theirs._codebook.embed.grad[0])
    same(2 * of_vectors, theirs_x - tensor(WEIGHTS if mask is None else WEIGHTS * mask[..., None]))


@pytest.mark.parametrize("cosine", [False, True])
def test_kmeans_from_the_same_start_ends_alike(cosine):
    z = draw(3, 200, D)
    z = unit(z) if cosine else z
    everything = np.ones(200, bool)
    for size in (K, 230):  # the second has more means than vectors: some start equal, and nothing is nearest to them
        starts = sample_vectors(jnp.asarray(z), everything, size, KEY)
        means, counts = kmeans(jnp.asarray(z), everything, size, KEY, cosine=cosine)
        sample = lambda samples, count, starts=starts: tensor(starts)[None]  # noqa: E731
        theirs, bins = peer_kmeans(tensor(z)[None], size, 10, use_cosine_sim=cosine, sample_fn=sample)
        same(counts, bins[0])
        same(means, theirs[0])


def test_kmeans_codes_are_means_where_theirs_are_smoothed():
    """Theirs are sums over smoothed counts from the start; ours are after the first update, which makes both one."""
    x = draw(4, B, T, D)
    spec, params, state = made(f"vq:codes={K}:update=ema:init=kmeans")
    found = spec.quantize(params, state, x, KEY, train=True)
    theirs = peer.VectorQuantize(
        dim=D, codebook_size=K, decay=0.99, commitment_weight=0.25, rotation_trick=False, kmeans_init=True
    )
    # What ours draws, by the key that it takes for that.
    starts = sample_vectors(jnp.asarray(x.reshape(-1, D)), np.ones(B * T, bool), K, named(KEY, "kmeans"))
    theirs._codebook.sample_fn = lambda samples, count: tensor(starts)[None]
    quantized, codes, loss = theirs(tensor(x))
    same_codes(found.codes, codes)
    smoothing = {"rtol": 2e-4, "atol": 2e-5}  # 1e-5 of counts of 1 and more, times 16 codes over 96 vectors
    same(found.vectors, quantized, **smoothing)
    same(found.loss, loss, **smoothing)
    same_averages(found.state, theirs._codebook)


def test_kmeans_waits_for_a_batch_with_vectors_where_theirs_fails():
    """As a level of a residual has none when every sample of the first batch drops it."""
    x, nothing = draw(4, B, T, D), np.zeros((B, T), bool)
    spec, params, state = made(f"vq:codes={K}:update=ema:init=kmeans")
    empty = spec.quantize(params, state, x, KEY, mask=nothing, train=True).state
    state = spec.quantize(params, empty, x, KEY, train=True).state
    assert np.all(state["counts"] > 0.1) and np.std(state["codebook"]) > 0.3  # clusters, not what codes start as
    theirs = by_averages(draw(0, K, D), kmeans_init=True)
    with pytest.raises(RuntimeError):
        theirs(tensor(x), mask=tensor(nothing))


@masks
def test_dead_codes_are_replaced_alike(mask):
    """The same codes expire; each gets a vector of the batch, the count of the threshold, and the sum of both."""
    codebook, x = draw(0, K, D), draw(1, B, T, D)
    spec, params, state = made(f"vq:codes={K}:update=ema:decay=0.3:revival=batch:dead_below=3", codebook=codebook)
    theirs = by_averages(codebook, decay=0.3, threshold_ema_dead_code=3)
    found = spec.quantize(params, state, x, KEY, mask=mask, train=True)
    theirs(tensor(x), mask=None if mask is None else tensor(mask))
    state, theirs = found.state, theirs._codebook
    same(state["counts"], theirs.cluster_size[0])
    dead = np.asarray(state["counts"] == 3.0)
    assert 0 < dead.sum() < K
    for ours, other in (("codebook", theirs.embed), ("sums", theirs.embed_avg)):
        same(state[ours][~dead], other[0][torch.tensor(~dead)])
    same(state["sums"][dead], 3.0 * state["codebook"][dead])
    real = x.reshape(-1, D) if mask is None else x[mask]
    for code in np.asarray(state["codebook"])[dead]:
        assert np.any(np.all(code == real, axis=-1))
    assert len(np.unique(np.asarray(state["codebook"])[dead], axis=0)) == dead.sum()


def test_all_dead_codes_are_replaced_where_theirs_wait_for_as_many_vectors():
    """With fewer vectors than dead codes, ours use a vector several times, theirs replace as many as there are."""
    codebook, x = draw(0, K, D), draw(1, 1, 4, D)
    spec, params, state = made(f"vq:codes={K}:update=ema:revival=batch:dead_below=50", codebook=codebook)
    theirs = by_averages(codebook, threshold_ema_dead_code=50)
    found = spec.quantize(params, state, x, KEY, train=True)
    theirs(tensor(x))
    assert np.all(found.state["counts"] == 50.0)
    assert torch.sum(theirs._codebook.cluster_size == 50.0) == 4
    assert len(np.unique(np.asarray(found.state["codebook"]), axis=0)) == 4


# Several codes of a vector.


def residual_pair(depth=3, **options):
    codebooks = draw(5, depth, K, D) / 2.0 ** np.arange(depth)[:, None, None]
    spec, params, state = made(f"residual:depth={depth}/vq:codes={K}:update=ema:decay=0.8", codebook=codebooks)
    fields = {"decay": 0.8, "commitment_weight": 0.25, "rotation_trick": False}
    theirs = peer.ResidualVQ(dim=D, num_quantizers=depth, codebook_size=K, **fields | options)
    for layer, codebook in zip(theirs.layers, codebooks, strict=True):
        put(layer, codebook)
    return spec, params, state, theirs


@masks
def test_residual_levels_are_theirs(mask):
    spec, params, state, theirs = residual_pair()
    for step in range(4):
        x = draw(step + 10, B, T, D)
        found = spec.quantize(params, state, x, KEY, mask=mask, train=True)
        quantized, codes, losses = theirs(tensor(x), mask=None if mask is None else tensor(mask))
        same_codes(found.codes, codes)
        same(found.vectors, quantized)
        same(found.loss, losses.sum())
        state = found.state
        for level, layer in enumerate(theirs.layers):
            same_averages(state, layer._codebook, level)
    same(spec.dequantize(params, state, found.codes), theirs.get_output_from_indices(codes))


def test_residual_vectors_pass_their_gradient_once_where_theirs_do_at_every_level():
    spec, params, state, theirs = residual_pair()
    x = draw(10, B, T, D)
    ours, others, _ = both_gradients(spec, params, state, x, theirs, loss_weight=0.0)
    same(ours, WEIGHTS)
    same(others, 3 * np.asarray(WEIGHTS))
    spec, params, state, theirs = residual_pair()
    ours, others, _ = both_gradients(spec, params, state, x, theirs, loss_weight=1.0)
    same(ours - WEIGHTS, others - 3 * tensor(WEIGHTS), rtol=1e-4, atol=2e-6)  # what the loss adds, after cancellation


def test_first_codes_of_a_vector_stand_for_what_theirs_do():
    spec, params, state, theirs = residual_pair(quantize_dropout=True)
    codes = np.array(spec.quantize(params, state, draw(10, B, T, D)).codes)
    codes[1, :, 2:], codes[2, :, 1:] = NO_CODE, NO_CODE
    same(spec.dequantize(params, state, codes), theirs.eval().get_output_from_indices(torch.tensor(codes).long()))


def test_a_shared_codebook_moves_at_every_level_where_theirs_moves_after_the_last():
    codebook, x = draw(5, K, D), draw(10, B, T, D)
    spec, params, state = made(f"residual:depth=3:shared=True/vq:codes={K}:update=ema:decay=0.8", codebook=codebook)
    theirs = peer.ResidualVQ(
        dim=D, num_quantizers=3, codebook_size=K, shared_codebook=True, decay=0.8, rotation_trick=False
    )
    put(theirs.layers[0], codebook)
    level, z, counts = quantizer(f"vq:codes={K}:update=ema:decay=0.8", width=D), jnp.asarray(x), state
    for _ in range(3):
        step = level.quantize({}, counts, z, KEY, train=True)
        counts, z = step.state, z - step.vectors
    found = spec.quantize(params, state, x, KEY, train=True)
    for name, value in counts.items():
        same(found.state[name], value)
    codes = theirs(tensor(x))[1]
    same_codes(found.codes[..., 0], codes[..., 0])
    assert np.any(found.codes[..., 1] != codes[..., 1].numpy())
    # Outside training nothing moves, and they agree.
    put(theirs.layers[0], found.state["codebook"])
    quantized, codes, _ = theirs.eval()(tensor(x))
    evaluated = spec.quantize(params, found.state, x)
    same_codes(evaluated.codes, codes)
    same(evaluated.vectors, quantized)


@masks
def test_grouped_residual_codes_are_theirs_group_by_group(mask):
    """Their losses are one per group and level; ours is the mean over groups of the sum over levels."""
    groups, depth = 2, 3
    codebooks = draw(6, groups, depth, K, D // groups)
    text = f"grouped:groups={groups}/residual:depth={depth}/vq:codes={K}:update=ema:decay=0.8"
    spec, params, state = made(text, codebook=codebooks)
    theirs = peer.GroupedResidualVQ(
        dim=D, groups=groups, num_quantizers=depth, codebook_size=K,
        decay=0.8, commitment_weight=0.25, rotation_trick=False,
    )  # fmt: skip
    for rvq, of_group in zip(theirs.rvqs, codebooks, strict=True):
        for layer, codebook in zip(rvq.layers, of_group, strict=True):
            put(layer, codebook)
    for step in range(2):
        x = draw(step + 10, B, T, D)
        found = spec.quantize(params, state, x, KEY, mask=mask, train=True)
        quantized, codes, losses = theirs(tensor(x), mask=None if mask is None else tensor(mask))
        same_codes(found.codes.reshape(B, T, groups, depth), codes.permute(1, 2, 0, 3))
        same(found.vectors, quantized)
        same(found.loss, losses.sum(dim=1).mean())
        state = found.state
    for group, rvq in enumerate(theirs.rvqs):
        for level, layer in enumerate(rvq.layers):
            same_averages(state, layer._codebook, (group, level))


@pytest.mark.parametrize("shared", [False, True])
def test_groups_are_their_heads(shared):
    heads = 2
    codebook = draw(7, *(() if shared else (heads,)), K, D // heads)
    text = f"grouped:groups={heads}:shared={shared}/vq:codes={K}:update=ema:decay=0.8"
    spec, params, state = made(text, codebook=codebook)
    theirs = by_averages(
        codebook, heads=heads, codebook_dim=D // heads, separate_codebook_per_head=not shared, decay=0.8
    )
    for step in range(3):
        x = draw(step + 10, B, T, D)
        found = spec.quantize(params, state, x, KEY, train=True)
        quantized, codes, loss = theirs(tensor(x))
        same_codes(found.codes, codes)
        same(found.vectors, quantized)
        same(found.loss, loss)
        state = found.state
        for name, other in (("counts", "cluster_size"), ("sums", "embed_avg"), ("codebook", "embed")):
            other = getattr(theirs._codebook, other)
            same(state[name], other[0] if shared else other)


# Fixed and random codebooks.


@gradients
def test_simvq_is_theirs(gradient):
    spec, params, state = made(f"simvq:codes={K}:gradient={gradient}")
    theirs = peer.SimVQ(dim=D, codebook_size=K, rotation_trick=gradient == "rotation")
    with torch.no_grad():
        theirs.frozen_codebook.copy_(tensor(state["fixed"]))
        theirs.code_transform.weight.copy_(tensor(params["matrix"]).T)
    x = draw(1, B, T, D)
    found = spec.quantize(params, state, x)
    quantized, codes, loss = theirs(tensor(x))
    same_codes(found.codes, codes)
    same(found.vectors, quantized)
    same(found.loss, loss)
    same(spec.dequantize(params, state, found.codes), theirs.indices_to_codes(codes))
    ours_x, theirs_x, ours_params = both_gradients(spec, params, state, x, theirs)
    same(ours_x, theirs_x)
    same(ours_params["matrix"], theirs.code_transform.weight.grad.T)


def test_residual_simvq_is_theirs():
    spec, params, state = made(f"residual:depth=3/simvq:codes={K}")
    theirs = peer.ResidualSimVQ(dim=D, num_quantizers=3, codebook_size=K, rotation_trick=False)
    with torch.no_grad():
        for level, layer in enumerate(theirs.layers):
            layer.frozen_codebook.copy_(tensor(state["fixed"][level]))
            layer.code_transform.weight.copy_(tensor(params["matrix"][level]).T)
    x = draw(1, B, T, D)
    found = spec.quantize(params, state, x)
    quantized, codes, losses = theirs(tensor(x))
    same_codes(found.codes, codes)
    same(found.vectors, quantized)
    same(found.loss, losses.sum())
    loss = lambda params: spec.quantize(params, state, x).loss  # noqa: E731
    losses.sum().backward()
    of_theirs = torch.stack([layer.code_transform.weight.grad.T for layer in theirs.layers])
    same(jax.grad(loss)(params)["matrix"], of_theirs)


def test_random_projection_labels_are_theirs():
    """The projection is uniform where theirs is normal, of the same variance; both are Glorot's. Here it is one."""
    spec, params, state = made(f"random_projection:codes={K}:projected=5")
    theirs = peer.RandomProjectionQuantizer(dim=D, codebook_size=K, codebook_dim=5)
    theirs.rand_projs.copy_(tensor(state["projection"])[None])
    theirs.vq._codebook.embed.copy_(tensor(state["codebook"])[None])
    x = 3.0 * draw(1, B, T, D) + 2.0
    same_codes(spec.quantize(params, state, x).codes, theirs(tensor(x)).squeeze(-1))
    same(np.var(spec.init_state(KEY)["projection"]), 2.0 / (D + 5), rtol=0.5)


# No codebook.


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 8, 8, 5, 5, 5)])
def test_fsq_is_theirs(levels):
    spec = quantizer({"name": "fsq", "levels": levels}, width=len(levels))
    theirs = peer.FSQ(list(levels))
    every = jnp.arange(spec.sizes[0])
    vectors = spec.dequantize({}, {}, every)
    np.testing.assert_array_equal(vectors, theirs.implicit_codebook)
    same_codes(every, theirs.codes_to_indices(tensor(vectors)))
    x = 2.0 * draw(1, 5, 200, len(levels))
    found = spec.quantize({}, {}, x)
    leaf = tensor(x).requires_grad_()
    quantized, codes = theirs(leaf)
    same_codes(found.codes, codes)
    same(found.vectors, quantized)
    assert found.loss == 0  # as of theirs, which returns none
    weights = draw(2, *x.shape)
    ours = jax.grad(lambda x: jnp.sum(spec.quantize({}, {}, x).vectors * weights))(x)
    torch.sum(quantized * tensor(weights)).backward()
    same(ours, leaf.grad)


def test_two_levels_meet_at_zero_where_theirs_are_refused():
    """Shifted as other even levels are, they would meet at -3.8."""
    x = draw(1, 100, 2)
    found = quantizer("fsq:levels=5,2", width=2).quantize({}, {}, x)
    np.testing.assert_array_equal(found.vectors[:, 1], np.where(x[:, 1] > 0, 0.0, -1.0))
    with pytest.raises(AssertionError):
        peer.FSQ([5, 2])


@pytest.mark.parametrize("levels", [(5, 5, 7, 3), (8, 5, 4, 6)])
def test_residual_fsq_of_odd_levels_is_theirs(levels):
    """Of vectors bounded alike, every level; theirs makes even levels symmetric, ours does not.

    Either way each level divides the largest error by its number of levels.
    """
    L, depth = np.asarray(levels), 4
    spec = quantizer({"name": "residual", "depth": depth, "base": f"fsq:levels={','.join(map(str, levels))}"}, width=4)
    theirs = peer.ResidualFSQ(levels=list(levels), num_quantizers=depth)
    bounded = np.random.default_rng(0).uniform(-0.99, 0.99, (1, 500, 4)).astype(np.float32)
    even = L % 2 == 0
    half, offset = (L - 1) * 1.001 / 2, np.where(even, 0.5, 0.0)
    # What ours and theirs bound to `bounded`, even levels to their range from -1 to 1 - 2 / L.
    target = np.where(even, (bounded * (L - 1) - 1) / L, bounded)
    x = np.arctanh((target * (L // 2) + offset) / half) - np.arctanh(offset / half)
    clamp = 1 + 1 / (L - 1)
    found = spec.quantize({}, {}, x.astype(np.float32))
    _, codes = theirs(tensor((clamp * np.arctanh(bounded / clamp)).astype(np.float32)))
    if not even.any():
        same_codes(found.codes, codes)
        same(found.vectors, theirs.get_output_from_indices(codes), atol=1e-5)
    unit = 1 / (L // 2)
    error = np.abs(target - found.vectors)
    assert np.all(error <= 0.5 * unit / L.astype(float) ** (depth - 1) * 1.01 + 1e-6)
    others = np.abs(bounded - theirs.get_output_from_indices(codes).numpy())
    assert np.all(others <= 1 / (L - 1) / L.astype(float) ** (depth - 1) * 1.01 + 1e-6)


def lfq_pair(name, width=6, **options):
    options = {"entropy_loss_weight": 0.1, "commitment_loss_weight": 0.25, "diversity_gamma": 0.7} | options
    theirs = peer.LFQ(dim=width, codebook_size=1 << width, spherical=name == "bsq", **options)
    return quantizer(f"{name}:diversity=0.7:inverse_temperature=1.5", width=width), theirs


@masks
@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_binary_codes_losses_and_gradients_are_theirs_of_real_vectors(name, mask):
    """All 2^D probabilities of each vector against a sum over bits.

    Theirs gets the real vectors alone: with a mask, what it takes for the entropy of the batch is the mean of those of
    the vectors. Theirs has no loss outside training, ours the commitment.
    """
    width, real = 6, np.ones((B, T), bool) if mask is None else mask
    theirs = peer.LFQ(
        dim=width, codebook_size=1 << width, spherical=name == "bsq",
        entropy_loss_weight=0.1, commitment_loss_weight=0.25, diversity_gamma=0.7,
    )  # fmt: skip
    spec = quantizer(f"{name}:diversity=0.7:inverse_temperature=1.5", width=width)
    x, weights = 0.5 * draw(1, B, T, width), draw(2, B, T, width)
    leaf = tensor(x[real])[None].requires_grad_()
    (quantized, codes, loss), parts = theirs(leaf, inv_temperature=1.5, return_loss_breakdown=True)
    found = spec.quantize({}, {}, x, KEY, mask=mask, train=True)
    same_codes(found.codes[real], codes[0])
    same(found.vectors[real], quantized[0])
    # They count a probability below 1e-5 as 1e-5 in the logarithm: 64 codes, each by less than 4e-6 nats.
    clamped = {"rtol": 1e-5, "atol": 64 * 4e-6}
    same(found.stats["code_entropy"][0], parts.per_sample_entropy, **clamped)
    same(found.stats["batch_entropy"][0], parts.batch_entropy, **clamped)
    same(found.loss, loss, **clamped)
    same(spec.quantize({}, {}, x, mask=mask).loss, 0.25 * parts.commitment)
    assert theirs.eval()(leaf).entropy_aux_loss == 0
    same(spec.dequantize({}, {}, jnp.arange(64)), theirs.indices_to_codes(torch.arange(64)))

    def objective(x):
        found = spec.quantize({}, {}, x, KEY, mask=mask, train=True)
        return jnp.sum(found.vectors * weights) + found.loss

    (torch.sum(quantized[0] * tensor(weights[real])) + loss).backward()
    ours = jax.grad(objective)(x)
    # A clamped logarithm also has no gradient: one of 1e-5 times the inverse temperature at most, for few codes.
    same(ours[real], leaf.grad[0], rtol=1e-4, atol=2e-5)
    assert not np.any(ours[~real])


def test_residual_lfq_codes_are_theirs_and_losses_are_in_units_of_the_level():
    """Level i has signs of 2^-i in both. Theirs measures its loss in them, ours as if they were 1: 4^i times."""
    depth, width = 3, 6
    spec, params, state = made(f"residual:depth={depth}/lfq:entropy_weight=0", width=width)
    theirs = peer.ResidualLFQ(
        dim=width, num_quantizers=depth, codebook_size=1 << width, entropy_loss_weight=0.0, commitment_loss_weight=0.25
    )
    x = draw(1, B, T, width)
    found = spec.quantize(params, state, x, KEY, train=True)
    quantized, codes, losses = theirs(tensor(x))
    same_codes(found.codes, codes)
    same(found.vectors, quantized)
    same(found.loss, torch.sum(losses * 4.0 ** torch.arange(depth)))
    same(spec.dequantize(params, state, found.codes), theirs.get_output_from_indices(codes))


def test_the_loss_is_of_real_vectors_only():
    """The means of both are over the vectors that exist, whatever the others hold."""
    codebook, x = draw(0, K, D), draw(1, B, T, D)
    spec, params, state = made(f"vq:codes={K}:update=ema", codebook=codebook)
    other = np.where(MASK[..., None], x, 1e3)
    theirs = by_averages(codebook, freeze_codebook=True)
    losses = [spec.quantize(params, state, y, mask=MASK).loss for y in (x, other)]
    others = [theirs(tensor(y), mask=tensor(MASK))[2] for y in (x, other)]
    assert losses[0] == losses[1] and others[0] == others[1]
    same(losses[0], others[0])
    chosen = spec.quantize(params, state, x).vectors
    same(losses[0], 0.25 * mean_square((x - chosen).reshape(-1, D), MASK.reshape(-1)))


@pytest.mark.parametrize("levels", [(5, 5, 7), (8, 5, 4)])
def test_latent_quantization_is_theirs_while_codes_are_evenly_spaced(levels):
    """Theirs looks codes up in a table that does not move with the values, and spaces even numbers unevenly."""
    spec, params, state = made("latent:levels=" + ",".join(map(str, levels)), width=3)
    theirs = peer.LatentQuantize(levels=list(levels), dim=3, commitment_loss_weight=0.1, quantization_loss_weight=0.2)
    for ours, their in zip(sorted(params["values"]), theirs.values_per_latent, strict=True):
        params["values"][ours] = jnp.asarray(their.detach().numpy())
    x = draw(0, 64, 3) * 0.4
    spec = dataclasses.replace(spec, commitment=0.2, quantization=0.1)  # their names are exchanged
    found = spec.quantize(params, state, jnp.asarray(x))
    vectors, codes, loss = theirs(tensor(x)[None].transpose(1, 2))
    same(found.vectors, vectors[0].T)
    same(found.loss, loss)
    if all(L % 2 for L in levels):
        same_codes(found.codes, codes[0])


@pytest.mark.parametrize("name", ["normal", "tanh", "laplace"])
def test_fsp_is_theirs(name):
    spec, params, state = made(f"fsp:levels=8,5,5:distribution={name}", width=3)
    norm = {"normal": "var"}.get(name, f"var_{name}")
    theirs = peer.FSP(levels=[8, 5, 5], act_name=name, vector_norm=norm).eval()
    x = draw(0, 64, 3)
    found = spec.quantize(params, state, jnp.asarray(x))
    vectors, codes, loss, _ = theirs(tensor(x))
    same(found.vectors, vectors)
    same_codes(found.codes, codes)
    same(found.loss, loss, rtol=1e-3)  # their variances of tanh and others have four digits
    same(spec.dequantize(params, state, found.codes), theirs.indices_to_codes(codes))


def test_diveq_moves_vectors_and_passes_gradients_as_theirs():
    spec, params, state = made("vq:codes=16:gradient=diveq:noise=0", codebook=draw(1, K, D))
    x = draw(0, B, T, D)
    theirs = peer_module.directional_reparam
    ours = jax.vjp(lambda x: spec.quantize(params, state, x, KEY, train=True).vectors, jnp.asarray(x))
    source = tensor(x).requires_grad_()
    chosen = tensor(draw(1, K, D))[tensor(spec.quantize(params, state, jnp.asarray(x)).codes).long()]
    moved = theirs(source, chosen, noise_variance=0.0)
    moved.backward(tensor(WEIGHTS))
    same(ours[0], moved, atol=1e-5)
    same(ours[1](jnp.asarray(WEIGHTS))[0], source.grad, atol=1e-4)
