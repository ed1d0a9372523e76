"""Released weights of TiTok and of MaskGIT's VQGAN, from the names of their state dicts to our trees.

The layout is that of https://github.com/bytedance/1d-tokenizer. Its images are from 0 to 1, ours from -1 to 1: where
they enter and leave a TiTok, the weights are changed to that effect; a VQGAN of the layout `maskgit` does so itself.
"""

from typing import Any

import jax
import numpy as np

from tokjax.core.errors import SpecError
from tokjax.core.types import Params
from tokjax.measure.networks import State, take
from tokjax.nn.param import Param

_WHAT = "titok"


def titok_params(declared: Any, weights: State) -> Params:
    """Returns the parameters of a `titok`.

    Args:
      declared: its declarations. With a `proxy` they are those of the two-stage weights (`tokenizer_titok_l32` and the
        like: patches of 16, a proxy of the layout `maskgit`, and `legacy=True`); else of the single-stage ones
        (`tokenizer_titok_bl64_vq8k` and the like).
      weights: as of `measure.networks.load_state`. Names of no use are passed over.

    Raises:
      SpecError: arrays that are absent, or of another model.
    """
    single = not declared["proxy"]
    encoder, decoder = _transformer(declared["encoder"], weights, "encoder"), declared["decoder"]
    patch = _dense(weights, "encoder.patch_embed")
    encoder |= {
        # W (x + 1) / 2 + b for the W x + b that was trained
        "patch": {"kernel": 0.5 * patch["kernel"], "bias": patch["bias"] + 0.5 * patch["kernel"].sum(axis=0)},
        "out": _dense(weights, "encoder.conv_out"),
    }
    decoder = _transformer(decoder, weights, "decoder") | {
        "in": _dense(weights, "decoder.decoder_embed"),
        "mask": _get(weights, "decoder.mask_token").reshape(-1),
    }
    if single:
        out = _conv(weights, "decoder.conv_out")
        head = {
            "patch": _dense(weights, "decoder.ffn.0"),
            "out": {"kernel": 2.0 * out["kernel"], "bias": 2.0 * out["bias"] - 1.0},
        }
        proxy = {}
    else:
        head = {"hidden": _dense(weights, "decoder.ffn.0"), "logits": _dense(weights, "decoder.ffn.2")}
        codebook = _get(weights, "pixel_quantize.embedding.weight")
        proxy = {"codebook": codebook, "decoder": _body(declared["proxy"]["decoder"], weights, "pixel_decoder", "up")}
    found = {
        "latents": _get(weights, "latent_tokens"),
        "encoder": encoder,
        "quantizer": {"codebook": _get(weights, "quantize.embedding.weight")},
        "decoder": decoder,
        "head": head,
        "proxy": proxy,
        "adversary": {},
    }
    return _fitting(found, declared)


def vqgan_params(declared: Any, weights: State) -> Params:
    """Returns the parameters of a `vqgan` of the layout `maskgit`, from `maskgit-vqgan-imagenet-f16-256` and the like.

    Args:
      declared: its declarations.
      weights: as of `measure.networks.load_state`.

    Raises:
      SpecError: arrays that are absent, or of another model.
    """
    found = {
        "encoder": _body(declared["encoder"], weights, "encoder", "down"),
        "quantizer": {"codebook": _get(weights, "quantize.embedding.weight")},
        "decoder": _body(declared["decoder"], weights, "decoder", "up"),
        "adversary": {},
    }
    return _fitting(found, declared)


def _get(weights: State, name: str) -> np.ndarray:
    return take(weights, [name], _WHAT)[name]


def _dense(weights: State, name: str) -> dict[str, np.ndarray]:
    """A linear layer [out, in], or a convolution [out, in, h, w] that moves by its own size."""
    kernel = _get(weights, f"{name}.weight")
    kernel = np.moveaxis(kernel.reshape(*kernel.shape, 1, 1) if kernel.ndim == 2 else kernel, 1, -1)
    return {"kernel": kernel.reshape(len(kernel), -1).T, "bias": _get(weights, f"{name}.bias")}


def _conv(weights: State, name: str) -> dict[str, np.ndarray]:
    kernel = {"kernel": _get(weights, f"{name}.weight").transpose(2, 3, 1, 0)}
    return kernel | ({"bias": _get(weights, f"{name}.bias")} if f"{name}.bias" in weights else {})


def _norm(weights: State, name: str) -> dict[str, np.ndarray]:
    return {"scale": _get(weights, f"{name}.weight"), "bias": _get(weights, f"{name}.bias")}


def _transformer(declared: Any, weights: State, name: str) -> dict[str, Any]:
    """What encoder and decoder share: the vectors of their sequence, and the stack."""
    layers, _, _, H, K = declared["blocks"]["query_key_value"]["kernel"].shape

    def block(prefix: str) -> dict[str, Any]:
        out = _dense(weights, f"{prefix}.attn.out_proj")
        return {
            "attention_norm": _norm(weights, f"{prefix}.ln_1"),
            "query_key_value": {
                "kernel": _get(weights, f"{prefix}.attn.in_proj_weight").T.reshape(-1, 3, H, K),
                "bias": _get(weights, f"{prefix}.attn.in_proj_bias").reshape(3, H, K),
            },
            "attention_out": {"kernel": out["kernel"].reshape(H, K, -1), "bias": out["bias"]},
            "mlp_norm": _norm(weights, f"{prefix}.ln_2"),
            "up": _dense(weights, f"{prefix}.mlp.c_fc"),
            "down": _dense(weights, f"{prefix}.mlp.c_proj"),
        }

    names = ("class_embedding", "positional_embedding", "latent_token_positional_embedding")
    blocks = [block(f"{name}.transformer.{layer}") for layer in range(layers)]
    return {
        "class": _get(weights, f"{name}.{names[0]}").reshape(-1),
        "positions": _get(weights, f"{name}.{names[1]}"),
        "latent_positions": _get(weights, f"{name}.{names[2]}"),
        "norm_in": _norm(weights, f"{name}.ln_pre"),
        "blocks": jax.tree.map(lambda *arrays: np.stack(arrays), *blocks),
        "norm_out": _norm(weights, f"{name}.ln_post"),
    }


def _body(declared: Any, weights: State, name: str, way: str) -> dict[str, Any]:
    """A convolutional encoder (`way` is 'down') or decoder ('up') of the layout `maskgit`."""

    def block(prefix: str, tree: Any) -> dict[str, Any]:
        found = {part: _norm(weights, f"{prefix}.{part}") for part in ("norm1", "norm2")}
        found |= {part: _conv(weights, f"{prefix}.{part}") for part in ("conv1", "conv2")}
        return found | ({"shortcut": _conv(weights, f"{prefix}.nin_shortcut")} if "shortcut" in tree else {})

    found: dict[str, Any] = {}
    for part, tree in declared.items():
        if part in ("in", "out"):
            found[part] = _conv(weights, f"{name}.conv_{part}")
        elif part == "norm":
            found[part] = _norm(weights, f"{name}.norm_out")
        elif part.startswith("middle"):
            found[part] = block(f"{name}.mid.{part.removeprefix('middle')}", tree)
        elif part.startswith("block"):
            level, number = part.removeprefix("block").split("_")
            found[part] = block(f"{name}.{way}.{level}.block.{number}", tree)
        else:
            found[part] = _conv(weights, f"{name}.{way}.{part.removeprefix('up')}.upsample_conv")
    return found


def _fitting(found: Any, declared: Any) -> Params:
    """Returns `found` as arrays of the devices.

    Raises:
      SpecError: its arrays are not those declared.
    """

    def is_param(x: Any) -> bool:
        return isinstance(x, Param)

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_param)
        return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}

    there, here = shapes(found), shapes(declared)
    differing = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if differing:
        name = differing[0]
        raise SpecError(
            f"{_WHAT}: {len(differing)} arrays do not fit, {name} first: {there.get(name, 'nothing')} in the weights, "
            f"{here.get(name, 'nothing')} in the system. Give the spec that they were trained with."
        )
    return jax.tree.map(jax.numpy.asarray, found)
