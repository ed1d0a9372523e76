"""Weights of networks that others trained, read from files, and the convolution that those networks share."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.errors import CheckpointError, SpecError

State = Mapping[str, np.ndarray]  # names as of the network's own state dict


def load_state(path: str | Path) -> dict[str, np.ndarray]:
    """Reads arrays by name from `.npz`, or from a PyTorch state dict (`.pth`, `.pt`) if torch is installed.

    Nothing in the file is executed: numpy and torch read arrays only.

    Raises:
      CheckpointError: the file is absent, damaged or of another kind, or torch is needed and absent.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give the .npz or .pth file of the weights.")
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: np.asarray(archive[name]) for name in archive.files}
        except Exception as error:  # damage surfaces as any of a dozen types from zipfile, zlib and numpy
            raise CheckpointError(f"{path}: cannot be read ({error}). Download or convert it again.") from error
    if path.suffix not in (".pth", ".pt"):
        raise CheckpointError(f"{path}: of no known kind. Give a .npz or .pth file.")
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading it needs torch. Install it (pip install torch), or convert the file to .npz elsewhere."
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: np.asarray(array.detach().numpy()) for name, array in state.items()}
    except Exception as error:  # whatever the unpickler, the archive or an entry that is no tensor raises
        raise CheckpointError(f"{path}: holds no plain state dict ({error}). Save model.state_dict().") from error


def take(state: State, names: Iterable[str], what: str) -> dict[str, np.ndarray]:
    """Returns the entries `names` of `state` as float32.

    Raises:
      SpecError: some are absent.
    """
    names = list(names)
    absent = [name for name in names if name not in state]
    if absent:
        raise SpecError(
            f"{what}: the weights lack {len(absent)} of {len(names)} arrays, {absent[0]!r} first. Give the state dict "
            "of that network."
        )
    return {name: np.asarray(state[name], np.float32) for name in names}


def convolve(x: jax.Array, weight: jax.Array, *, stride: int = 1, padding: str | int = "SAME") -> jax.Array:
    """Convolves images with a kernel in PyTorch's order.

    Args:
      x: [B, H, W, C].
      weight: [D, C, h, w].
      stride: in both directions.
      padding: "SAME" and "VALID" as in XLA, or zeros on each side.

    Returns:
      [B, H', W', D].
    """
    pad = padding if isinstance(padding, str) else [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(
        x, jnp.asarray(weight, x.dtype), (stride, stride), pad, dimension_numbers=("NHWC", "OIHW", "NHWC")
    )
