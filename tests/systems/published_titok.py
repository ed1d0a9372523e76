"""The released layout of TiTok and of MaskGIT's VQGAN: names, shapes, and a plain reading of them, an image at a time.

Weights are as PyTorch keeps them: [out, in] and [out, in, h, w]; images are [C, H, W] from 0 to 1.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    size: int
    patch: int
    latents: int
    encoder: tuple[int, int, int]  # width, layers, heads
    decoder: tuple[int, int, int]
    codes: int
    code_width: int
    two_stages: bool
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    proxy_codes: int = 1024
    proxy_width: int = 256

    def shapes(self):
        """Name -> shape of every array of the state dict."""
        (E, _, _), (D, _, _), K = self.encoder, self.decoder, self.latents
        slots = (self.size // self.patch) ** 2
        found = {"latent_tokens": (K, E), "quantize.embedding.weight": (self.codes, self.code_width)}
        for name, (width, layers, _) in (("encoder", self.encoder), ("decoder", self.decoder)):
            found |= {
                f"{name}.class_embedding": (1, width),
                f"{name}.positional_embedding": (slots + 1, width),
                f"{name}.latent_token_positional_embedding": (K, width),
                **pair(f"{name}.ln_pre", width),
                **pair(f"{name}.ln_post", width),
            }
            for layer in range(layers):
                block = f"{name}.transformer.{layer}"
                found |= pair(f"{block}.ln_1", width) | pair(f"{block}.ln_2", width)
                found |= {
                    f"{block}.attn.in_proj_weight": (3 * width, width),
                    f"{block}.attn.in_proj_bias": (3 * width,),
                }
                found |= pair(f"{block}.attn.out_proj", width, width)
                found |= pair(f"{block}.mlp.c_fc", 4 * width, width) | pair(f"{block}.mlp.c_proj", width, 4 * width)
        found |= pair("encoder.patch_embed", E, 3, self.patch, self.patch)
        found |= pair("encoder.conv_out", self.code_width, E, 1, 1)
        found |= pair("decoder.decoder_embed", D, self.code_width) | {"decoder.mask_token": (1, 1, D)}
        if not self.two_stages:
            return found | pair("decoder.ffn.0", 3 * self.patch**2, D, 1, 1) | pair("decoder.conv_out", 3, 3, 3, 3)
        found |= pair("decoder.ffn.0", 2 * D, D, 1, 1) | pair("decoder.ffn.2", self.proxy_codes, 2 * D, 1, 1)
        found |= {"pixel_quantize.embedding.weight": (self.proxy_codes, self.proxy_width)}
        return found | vqgan_decoder("pixel_decoder", self.widths, self.proxy_width)


def pair(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def block(name, inputs, outputs):
    found = pair(f"{name}.norm1", inputs) | {f"{name}.conv1.weight": (outputs, inputs, 3, 3)}
    found |= pair(f"{name}.norm2", outputs) | {f"{name}.conv2.weight": (outputs, outputs, 3, 3)}
    return found if inputs == outputs else found | {f"{name}.nin_shortcut.weight": (outputs, outputs, 1, 1)}


def vqgan_decoder(name, widths, ends):
    last = widths[-1]
    found = pair(f"{name}.conv_in", last, ends, 3, 3)
    found |= block(f"{name}.mid.0", last, last) | block(f"{name}.mid.1", last, last)
    for level, width in enumerate(widths):
        found |= block(f"{name}.up.{level}.block.0", widths[min(level + 1, len(widths) - 1)], width)
        found |= block(f"{name}.up.{level}.block.1", width, width)
        if level:
            found |= pair(f"{name}.up.{level}.upsample_conv", width, width, 3, 3)
    return found | pair(f"{name}.norm_out", widths[0]) | pair(f"{name}.conv_out", 3, widths[0], 3, 3)


def vqgan_shapes(widths, codes, ends):
    last = widths[-1]
    found = {"encoder.conv_in.weight": (widths[0], 3, 3, 3), "quantize.embedding.weight": (codes, ends)}
    for level, width in enumerate(widths):
        found |= block(f"encoder.down.{level}.block.0", widths[max(level - 1, 0)], width)
        found |= block(f"encoder.down.{level}.block.1", width, width)
    found |= block("encoder.mid.0", last, last) | block("encoder.mid.1", last, last)
    found |= pair("encoder.norm_out", last) | pair("encoder.conv_out", ends, last, 1, 1)
    return found | vqgan_decoder("decoder", widths, ends)


def draw(shapes, seed=0):
    """Weights under which every path matters: norms near 1, matrices that keep the scale."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        scale = 1.0 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 and "embedding" not in name else 0.3
        found[name] = (scale * generator.standard_normal(shape)).astype(np.float32)
        if len(shape) == 1 and name.endswith("weight"):
            found[name] += 1.0
    return found


class Reference:
    """The model in float64."""

    def __init__(self, layout, weights):
        self.layout = layout
        self.w = {name: array.astype(np.float64) for name, array in weights.items()}

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def dense(self, name, x):
        """A linear layer, or a 1 x 1 convolution of rows of vectors."""
        weight = self.w[f"{name}.weight"]
        return x @ weight.reshape(weight.shape[:2]).T + self.w[f"{name}.bias"]

    def attention(self, name, x, heads):
        fused = x @ self.w[f"{name}.in_proj_weight"].T + self.w[f"{name}.in_proj_bias"]
        T, D = x.shape
        q, k, v = (part.reshape(T, heads, D // heads).swapaxes(0, 1) for part in np.split(fused, 3, axis=-1))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(D // heads)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = weights / weights.sum(-1, keepdims=True) @ v
        return self.dense(f"{name}.out_proj", attended.swapaxes(0, 1).reshape(T, D))

    def transformer(self, name, x, layers, heads):
        erf = np.vectorize(math.erf)
        x = self.norm(f"{name}.ln_pre", x)
        for layer in range(layers):
            block = f"{name}.transformer.{layer}"
            x = x + self.attention(f"{block}.attn", self.norm(f"{block}.ln_1", x), heads)
            hidden = self.dense(f"{block}.mlp.c_fc", self.norm(f"{block}.ln_2", x))
            x = x + self.dense(f"{block}.mlp.c_proj", hidden * 0.5 * (1 + erf(hidden / math.sqrt(2))))
        return x

    def conv(self, name, x):
        """3 x 3 or 1 x 1, edges padded with zeros."""
        weight = self.w[f"{name}.weight"]
        reach, (_, H, W) = weight.shape[-1] // 2, x.shape
        padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach)])
        places = [(i, j) for i in range(2 * reach + 1) for j in range(2 * reach + 1)]
        out = sum(np.einsum("oc,chw->ohw", weight[..., i, j], padded[:, i : i + H, j : j + W]) for i, j in places)
        return out + self.w[f"{name}.bias"][:, None, None] if f"{name}.bias" in self.w else out

    def group_norm(self, name, x):
        C, H, W = x.shape
        groups = x.reshape(32, -1)
        groups = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-6)
        return groups.reshape(C, H, W) * self.w[f"{name}.weight"][:, None, None] + self.w[f"{name}.bias"][:, None, None]

    def block(self, name, x):
        y = self.conv(f"{name}.conv1", silu(self.group_norm(f"{name}.norm1", x)))
        y = self.conv(f"{name}.conv2", silu(self.group_norm(f"{name}.norm2", y)))
        return y + (self.conv(f"{name}.nin_shortcut", y) if f"{name}.nin_shortcut.weight" in self.w else x)

    def vqgan_encode(self, name, x, levels):
        x = self.conv(f"{name}.conv_in", x)
        for level in range(levels):
            for number in range(2):
                x = self.block(f"{name}.down.{level}.block.{number}", x)
            if level < levels - 1:
                C, H, W = x.shape
                x = x.reshape(C, H // 2, 2, W // 2, 2).mean(axis=(2, 4))
        for number in range(2):
            x = self.block(f"{name}.mid.{number}", x)
        return self.conv(f"{name}.conv_out", silu(self.group_norm(f"{name}.norm_out", x)))

    def vqgan_decode(self, name, x, levels):
        x = self.conv(f"{name}.conv_in", x)
        for number in range(2):
            x = self.block(f"{name}.mid.{number}", x)
        for level in reversed(range(levels)):
            for number in range(2):
                x = self.block(f"{name}.up.{level}.block.{number}", x)
            if level:
                x = self.conv(f"{name}.up.{level}.upsample_conv", x.repeat(2, axis=1).repeat(2, axis=2))
        return self.conv(f"{name}.conv_out", silu(self.group_norm(f"{name}.norm_out", x)))

    def encode(self, image, legacy):
        """The vectors to be quantized [K, code width]."""
        D, layers, heads = self.layout.encoder
        p, G, K = self.layout.patch, self.layout.size // self.layout.patch, self.layout.latents
        weight = self.w["encoder.patch_embed.weight"].reshape(D, -1)
        patches = [
            weight @ image[:, r * p : (r + 1) * p, c * p : (c + 1) * p].reshape(-1) for r in range(G) for c in range(G)
        ]
        patches = np.stack(patches) + self.w["encoder.patch_embed.bias"]
        x = np.concatenate([self.w["encoder.class_embedding"], patches]) + self.w["encoder.positional_embedding"]
        latents = self.w["latent_tokens"] + self.w["encoder.latent_token_positional_embedding"]
        x = self.transformer("encoder", np.concatenate([x, latents]), layers, heads)
        x = self.norm("encoder.ln_post", x[1 + G * G :])
        channels = x.reshape(D, K) if legacy else x.T  # what a convolution takes as channels
        return self.dense("encoder.conv_out", channels.T)

    def quantize(self, z, cosine):
        codebook = self.w["quantize.embedding.weight"]
        if cosine:
            z, codebook = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (z, codebook))
        codes = np.square(z[:, None] - codebook).sum(-1).argmin(-1)
        return codes, codebook[codes]

    def decode(self, vectors):
        """The image of quantized vectors [K, code width]."""
        _, layers, heads = self.layout.decoder
        p, G = self.layout.patch, self.layout.size // self.layout.patch
        x = np.concatenate([self.w["decoder.class_embedding"], np.repeat(self.w["decoder.mask_token"][0], G * G, 0)])
        latents = self.dense("decoder.decoder_embed", vectors) + self.w["decoder.latent_token_positional_embedding"]
        x = np.concatenate([x + self.w["decoder.positional_embedding"], latents])
        x = self.norm("decoder.ln_post", self.transformer("decoder", x, layers, heads)[1 : 1 + G * G])
        if not self.layout.two_stages:
            patches = self.dense("decoder.ffn.0", x).reshape(G, G, p, p, 3)
            return self.conv("decoder.conv_out", patches.transpose(4, 0, 2, 1, 3).reshape(3, G * p, G * p))
        logits = self.dense("decoder.ffn.2", np.tanh(self.dense("decoder.ffn.0", x)))
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        grid = shares / shares.sum(-1, keepdims=True) @ self.w["pixel_quantize.embedding.weight"]
        return self.vqgan_decode("pixel_decoder", grid.T.reshape(-1, G, G), len(self.layout.widths))


def silu(x):
    return x / (1.0 + np.exp(-x))
