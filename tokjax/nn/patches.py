"""Images as rows of square patches, and back.

Letters: `B` batch, `R` rows and columns, `C` channels, `p` size of a patch, `P` = (R / p)^2 patches.
"""

import jax


def patchify(images: jax.Array, size: int) -> jax.Array:
    """Returns the patches [B, P, p * p * C] of `images` [B, R, R, C], in raster order; p = `size` divides R."""
    B, R, _, C = images.shape
    grid = images.reshape(B, R // size, size, R // size, size, C).swapaxes(2, 3)
    return grid.reshape(B, (R // size) ** 2, size * size * C)


def unpatchify(patches: jax.Array, size: int, channels: int) -> jax.Array:
    """Returns the images [B, R, R, C] of `patches` as of `patchify`."""
    B, P, _ = patches.shape
    rows = round(P**0.5)
    grid = patches.reshape(B, rows, rows, size, size, channels).swapaxes(2, 3)
    return grid.reshape(B, rows * size, rows * size, channels)
