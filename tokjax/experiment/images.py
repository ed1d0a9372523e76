"""One run of an image tokenizer: from a configuration to a trained model that encodes, decodes and can be measured."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokjax.core.errors import SpecError
from tokjax.core.registry import systems
from tokjax.core.spec import build, check
from tokjax.core.types import Params
from tokjax.data.images import AugmentSpec, ImageBatch, Images, ProxyBatch, eval_images, load_images, train_images
from tokjax.data.images.pixels import decode as decode_file
from tokjax.data.images.pixels import encode_png, to_channels, to_float, to_square, to_uint8
from tokjax.measure.cost import train_flops_per_step
from tokjax.measure.features import Features
from tokjax.measure.reconstruction import ImageEvaluation, decode_images, encode_images, evaluate_images
from tokjax.objectives.image import ImageTokenizer
from tokjax.sharding import MeshSpec, make_mesh, share_of_process
from tokjax.train import OptimizerSpec, TrainSpec, fit, load_for_inference, load_system_state
from tokjax.train.checkpoint import FOLDER, latest, read_metadata
from tokjax.train.host import only_run
from tokjax.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDataSpec:
    """Batches of images, and how those of training vary; see `AugmentSpec`. Size and channels are the system's.

    Attributes:
      batch_size: B, images of a batch over all devices and hosts.
      pad: pixels that a shifted crop may lie outside the image.
      flip: probability of a mirror image.
      scale: smallest and largest share of the area of a random crop, or None.
      eval_images: validation images that are measured during training.
    """

    batch_size: int
    pad: int = 0
    flip: float = 0.0
    scale: tuple[float, float] | None = None
    eval_images: int = 256

    def __post_init__(self):
        check(self.batch_size >= 1, "data.batch_size", self.batch_size, "must be at least 1.")
        check(self.eval_images >= 2, "data.eval_images", self.eval_images, "distances need at least 2.")

    def augment(self, system: ImageTokenizer) -> AugmentSpec:
        """Returns what the images of a batch of `system` look like."""
        return AugmentSpec(size=system.size, channels=system.channels, pad=self.pad, flip=self.flip, scale=self.scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRunSpec:
    """Everything that determines a run.

    Attributes:
      source: address of the images, as of `load_images`.
      system: registered `name`, and the fields of its spec.
      proxy: directory of the run of the tokenizer whose codes are learned, where the system learns another's.
    """

    source: str
    system: dict[str, Any]
    data: ImageDataSpec
    optimizer: OptimizerSpec
    train: TrainSpec
    mesh: MeshSpec = dataclasses.field(default_factory=MeshSpec)
    proxy: str | None = None


@dataclasses.dataclass(frozen=True)
class ImageModel:
    """A trained image tokenizer and what is needed to use it."""

    spec: ImageRunSpec
    system: ImageTokenizer
    params: Params
    state: Params
    step: int

    def batches(self, images: Images, *, limit: int | None = None) -> Iterable[ImageBatch]:
        """The images at the size of the system, each once; at most `limit` of them, drawn in a fixed order."""
        shape = self.spec.data
        return eval_images(images, batch_size=shape.batch_size, augment=shape.augment(self.system), limit=limit)

    def encode(self, batches: Iterable[ImageBatch]) -> np.ndarray:
        """The codes int32 [N, T] of the images of `batches`."""
        return np.concatenate(list(encode_images(self.system, self.params, self.state, batches)))

    def decode(self, codes: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """The images float32 [N, S, S, C], from -1 to 1, of `codes` int [N, T]; see `decode_images`."""
        size = self.spec.data.batch_size
        return decode_images(self.system, self.params, self.state, codes, batch_size=size, seed=seed)

    def encode_file(self, content: bytes, *, where: str) -> np.ndarray:
        """The codes int32 [T] of an image file, cut to its centre square and resized to S.

        Raises:
          SourceError: `content` is no image that can be decoded; `where` names it.
        """
        pixels = to_square(decode_file(content, where=where), self.system.size)
        floats = to_float(to_channels(pixels, self.system.channels)[None])
        one = ImageBatch(pixels=floats, labels=np.full(1, -1, np.int32), mask=np.ones(1, np.float32))  # type: ignore[arg-type]
        return self.encode([one])[0]

    def decode_file(self, codes: np.ndarray, *, seed: int = 0) -> bytes:
        """The PNG file of the image of `codes` int [T]."""
        images = decode_images(self.system, self.params, self.state, codes[None], batch_size=1, seed=seed)
        return encode_png(to_uint8(images[0]))

    def evaluate(
        self, images: Images, *, limit: int | None = None, features: Features | None = None, keep: int | None = None
    ) -> ImageEvaluation:
        """Distortion and rate over `images`; see `evaluate_images`."""
        batches = self.batches(images, limit=limit)
        return evaluate_images(
            self.system, self.params, self.state, batches, name=images.name, features=features, keep=keep
        )


def is_image_tokenizer(config: Mapping[str, Any]) -> bool:
    """Whether the system that `config` names is an image tokenizer.

    Raises:
      UnknownNameError, SpecError: no such system, or no name.
    """
    if "name" not in config:
        raise SpecError("system.name: missing; `tokjax systems` lists the names.")
    return issubclass(systems[config["name"]], ImageTokenizer)


def build_image_tokenizer(config: Mapping[str, Any]) -> ImageTokenizer:
    """Returns the image tokenizer that `config` describes.

    Raises:
      UnknownNameError, SpecError: no such system, no image tokenizer, or fields that do not fit it.
    """
    fields = dict(config)
    if not is_image_tokenizer(fields):
        raise SpecError(f"system.name: {fields['name']!r} turns no images into codes; use vqgan or the like.")
    return build(systems[fields.pop("name")], fields, where="system")


def train_image_tokenizer(
    config: Mapping[str, Any],
    workdir: str | os.PathLike[str],
    *,
    source: Images | None = None,
    progress: bool = True,
) -> tuple[ImageModel, str | None]:
    """Trains what `config` describes, or goes on where `workdir` stopped.

    Args:
      config: fields of an `ImageRunSpec`.
      workdir: directory of the run.
      source: `config.source`, already opened.
      progress: show a progress bar.

    Returns:
      The model, and the signal that stopped training before its last step (after saving), or None.

    Raises:
      SpecError, UnknownNameError, SourceError: a configuration or images that cannot be trained on.
      CheckpointError: `workdir` holds another run, or only damaged checkpoints.
      OutputError: `workdir` cannot be written, or another process trains in it.
    """
    workdir = Path(workdir)
    config = json.loads(json.dumps(dict(config)))
    spec = build(ImageRunSpec, config)
    system = build_image_tokenizer(spec.system)
    with only_run(workdir):
        source = load_images(spec.source) if source is None else source
        return _train(spec, config, system, workdir, source, progress)


def _train(
    spec: ImageRunSpec,
    config: Mapping[str, Any],
    system: ImageTokenizer,
    workdir: Path,
    source: Images,
    progress: bool,
) -> tuple[ImageModel, str | None]:
    shape, augment = spec.data, spec.data.augment(system)
    images, validation = source.split("train"), source.split("valid")
    for split in (images, validation):
        split.require_images()  # an empty split raises here, not after the first steps

    proxy = _load_proxy(spec, system)

    mesh = make_mesh(spec.mesh)
    part, parts = share_of_process(mesh)

    def batch(step: int) -> ImageBatch:
        found = train_images(
            images, step, seed=spec.train.seed, batch_size=shape.batch_size, augment=augment,
            host=part, hosts=parts,
        )  # fmt: skip
        return found if proxy is None else ProxyBatch.of(found, proxy.encode([found]))  # type: ignore[arg-type]

    def adopt(params: Params) -> Params:
        assert proxy is not None
        return system.adopt(params, proxy.system, proxy.params, proxy.state)

    def validate(state: TrainState) -> dict[str, float]:
        batches = eval_images(validation, batch_size=shape.batch_size, augment=augment, limit=shape.eval_images)
        found = evaluate_images(system, state.inference_params, state.system_state, batches, name=validation.name)
        names = ("psnr", "ssim", "squared_error", "coded_bits", "codes_used", "perplexity")
        return {name: getattr(found, name) for name in names} | {found.frechet.label: found.frechet.value}

    state = fit(
        system, batch, spec.train, spec.optimizer,
        workdir=workdir, mesh=mesh, config=config, evaluate=validate,
        adopt=None if proxy is None else adopt,
        flops=train_flops_per_step(system, shape.batch_size, system.tokens), progress=progress,
    )  # fmt: skip
    interrupted_by = state.stopped if state.stopped != "time_limit" else None
    return ImageModel(spec, system, state.inference_params, state.system_state, int(state.step)), interrupted_by


def _load_proxy(spec: ImageRunSpec, system: ImageTokenizer) -> "ImageModel | None":
    """Returns the tokenizer whose codes `system` learns.

    Raises:
      SpecError: there should be one and is not, or the other way round, or its images are of another shape.
      CheckpointError: the run has no good checkpoint.
    """
    if not system.proxied:
        check(spec.proxy is None, "proxy", spec.proxy, "this system learns no other's codes; leave it out.")
        return None
    if spec.proxy is None:
        raise SpecError("proxy: missing; give the directory of the run of a vqgan, whose codes this stage learns.")
    proxy = load_image_tokenizer(spec.proxy)
    theirs, ours = (proxy.system.size, proxy.system.channels), (system.size, system.channels)
    check(
        theirs == ours, "proxy", spec.proxy, f"it has images of (size, channels) {theirs}, and here they have {ours}."
    )
    return proxy


def holds_image_tokenizer(workdir: str | os.PathLike[str]) -> bool:
    """Whether `workdir` is the directory of a run of an image tokenizer that has saved a checkpoint."""
    if not (Path(workdir) / FOLDER).is_dir():
        return False
    return is_image_tokenizer(read_metadata(Path(workdir), latest(Path(workdir)))["config"]["system"])


def load_image_tokenizer(workdir: str | os.PathLike[str]) -> ImageModel:
    """Returns the image tokenizer of the newest good checkpoint in `workdir`.

    Raises:
      CheckpointError: none is there.
      SpecError: the run is of another kind of system.
    """
    params, config, step = load_for_inference(workdir)
    system = build_image_tokenizer(config["system"])
    return ImageModel(build(ImageRunSpec, config), system, params, load_system_state(workdir), step)
