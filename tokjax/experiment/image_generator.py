"""One run of a generator of images: a model of the codes that a trained image tokenizer gives them.

Letters: `N` images, `T` codes of an image, `K` codes there are, `S` size of an image, `C` channels.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tokjax.core.errors import CheckpointError, SourceError, SpecError
from tokjax.core.files import only_user
from tokjax.core.keys import named
from tokjax.core.registry import systems
from tokjax.core.spec import build, check
from tokjax.core.types import Params, System
from tokjax.data.images import ImageBatch, Images, load_images
from tokjax.data.images.code_rows import (
    CodeRows,
    CodeVocabulary,
    eval_code_rows,
    eval_codes,
    train_code_rows,
    train_codes,
)
from tokjax.experiment.images import ImageModel, load_image_tokenizer
from tokjax.generate.codes import CodeGenerator, CodeSamplingSpec, as_prefix
from tokjax.generate.decoding import generate
from tokjax.generate.masked import MaskedSamplingSpec
from tokjax.measure.features import Features
from tokjax.measure.generation import GenerationEvaluation, evaluate_generated
from tokjax.objectives.language import LanguageSystem
from tokjax.sharding import MeshSpec, make_mesh
from tokjax.systems.vision.maskgit import MaskGit
from tokjax.train import OptimizerSpec, TrainSpec, fit, load_for_inference
from tokjax.train.checkpoint import FOLDER, latest, read_metadata
from tokjax.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeDataSpec:
    """Batches of codes.

    Attributes:
      batch_size: B, images of a batch over all devices and hosts.
      codes: how many of the first codes are generated, of a tokenizer whose codes are ordered; None for all.
      mirror: learn from the mirror image of every image, too.
      class_drop: share of images that do not tell their class, where a language model learns the codes; `maskgit` has
        a field of its own.
      eval_images: validation images that are measured during training.
    """

    batch_size: int
    codes: int | None = None
    mirror: bool = False
    class_drop: float = 0.1
    eval_images: int = 256

    def __post_init__(self):
        check(self.batch_size >= 1, "data.batch_size", self.batch_size, "must be at least 1.")
        check(self.eval_images >= 1, "data.eval_images", self.eval_images, "must be at least 1.")
        check(0 <= self.class_drop <= 1, "data.class_drop", self.class_drop, "a share is from 0 to 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageGeneratorSpec:
    """Everything that determines a run.

    Attributes:
      codes_of: directory of the run of the image tokenizer whose codes are generated.
      system: registered `name`, of `maskgit` or a language system, and the fields of its spec but those that the
        tokenizer determines.
      source: address of the images, as of `load_images`; None for those that the tokenizer learned from.
    """

    codes_of: str
    system: dict[str, Any]
    data: CodeDataSpec
    optimizer: OptimizerSpec
    train: TrainSpec
    source: str | None = None
    mesh: MeshSpec = dataclasses.field(default_factory=MeshSpec)


@dataclasses.dataclass(frozen=True)
class _AllAtOnce:
    """Codes modelled as MaskGIT does."""

    system: MaskGit
    sampling: type[Any] = MaskedSamplingSpec

    def train(self, rows: CodeRows, step: int, spec: ImageGeneratorSpec) -> Any:
        return train_codes(rows, step, seed=spec.train.seed, batch_size=spec.data.batch_size, **_host())

    def eval(self, rows: CodeRows, batch_size: int) -> Iterator[Any]:
        return eval_codes(rows, batch_size=batch_size)

    def draw(self, params: Params, labels: np.ndarray, key: jax.Array, sampling: Any) -> jax.Array:
        return self.system.sample(params, labels, key, sampling=sampling)


@dataclasses.dataclass(frozen=True)
class _OneByOne:
    """Codes modelled as text."""

    system: LanguageSystem
    vocabulary: CodeVocabulary
    tokens: int
    sampling: type[Any] = CodeSamplingSpec

    def train(self, rows: CodeRows, step: int, spec: ImageGeneratorSpec) -> Any:
        shape = spec.data
        return train_code_rows(
            rows, step, seed=spec.train.seed, batch_size=shape.batch_size, class_drop=shape.class_drop, **_host()
        )

    def eval(self, rows: CodeRows, batch_size: int) -> Iterator[Any]:
        return eval_code_rows(rows, batch_size=batch_size)

    def draw(self, params: Params, labels: np.ndarray, key: jax.Array, sampling: Any) -> jax.Array:
        generator = CodeGenerator(system=self.system, vocabulary=self.vocabulary, guidance=sampling.guidance)
        prompt = self.vocabulary.prompt(labels)
        return generate(generator, params, prompt, key, steps=self.tokens, sampling=sampling.of_id)


_Way = _AllAtOnce | _OneByOne


def _host() -> dict[str, int]:
    return {"host": jax.process_index(), "hosts": jax.process_count()}


@dataclasses.dataclass(frozen=True)
class ImageGenerator:
    """A trained generator, the tokenizer whose codes it draws, and what is needed to use both."""

    spec: ImageGeneratorSpec
    way: _Way
    params: Params
    step: int
    tokenizer: ImageModel
    classes: tuple[str, ...]

    @property
    def system(self) -> System:
        """What was trained."""
        return self.way.system

    def sampling(self, fields: Mapping[str, Any]) -> Any:
        """Returns how to draw codes, from the fields of `MaskedSamplingSpec` or `CodeSamplingSpec`.

        Raises:
          SpecError: a field or value that there is not.
        """
        return build(self.way.sampling, fields, where="sampling")

    def codes(self, labels: np.ndarray, *, seed: int = 0, sampling: Any = None) -> np.ndarray:
        """Draws the codes of images, int32 [N, T] with `NO_CODE` after those that are generated.

        Args:
          labels: int [N], the class of each; -1 for any.
          seed: of the noise; an image's depends on its place in its batch.
          sampling: see `sampling`; its defaults without one.

        Raises:
          SourceError: a label that is no class.
        """
        labels = np.asarray(labels, np.int32)
        if labels.size and not -1 <= labels.min() <= labels.max() < len(self.classes):
            raise SourceError(f"labels: {labels.min()} to {labels.max()}; use -1 to {len(self.classes) - 1}.")
        sampling = self.sampling({}) if sampling is None else sampling
        size = self.spec.data.batch_size
        drawn = [np.zeros((0, self.tokenizer.system.tokens), np.int32)]
        for number, start in enumerate(range(0, len(labels), size)):
            part = labels[start : start + size]
            padded = np.pad(part, (0, size - len(part)), constant_values=-1)
            key = jax.random.fold_in(named(jax.random.key(seed), "codes"), number)
            codes = self.way.draw(self.params, padded, key, sampling)
            drawn.append(np.asarray(as_prefix(codes, self.tokenizer.system.tokens))[: len(part)])
        return np.concatenate(drawn)

    def images(self, labels: np.ndarray, *, seed: int = 0, sampling: Any = None) -> np.ndarray:
        """Draws images float32 [N, S, S, C], from -1 to 1, of the classes `labels`; see `codes`."""
        return self.tokenizer.decode(self.codes(labels, seed=seed, sampling=sampling), seed=seed)

    def evaluate(
        self,
        images: Images,
        *,
        limit: int | None = None,
        seed: int = 0,
        sampling: Any = None,
        features: Features | None = None,
    ) -> GenerationEvaluation:
        """Measures as many generated images as there are `images`, of the same classes; see `evaluate_generated`."""
        pixels, labels = _real(self.tokenizer.batches(images, limit=limit))
        drawn = self.images(labels, seed=seed, sampling=sampling)
        size = self.spec.data.batch_size
        return evaluate_generated(drawn, pixels, name=images.name, batch_size=size, features=features)


def _real(batches: Iterable[ImageBatch]) -> tuple[np.ndarray, np.ndarray]:
    """The pixels and labels of the images of `batches`, without rows that pad."""
    parts = [(np.asarray(b.mask) > 0, b) for b in batches]
    return tuple(np.concatenate([np.asarray(getattr(b, name))[real] for real, b in parts]) for name in _FIELDS)  # type: ignore[return-value]


_FIELDS = ("pixels", "labels")


def code_rows(
    tokenizer: ImageModel, images: Images, *, codes: int | None = None, mirror: bool = False, limit: int | None = None
) -> CodeRows:
    """Returns the codes that `tokenizer` gives `images`.

    Args:
      tokenizer: what encodes.
      images: the images, each once.
      codes: how many of the first codes to keep; None for all.
      mirror: encode the mirror image of each, too, after all the others.
      limit: use so many images at most, drawn in a fixed order.

    Raises:
      SpecError: fewer codes of a tokenizer whose codes have no order, or more than there are.
      SourceError: there are no images.
    """
    images.require_images()
    system = tokenizer.system
    kept = system.tokens if codes is None else codes
    check(1 <= kept <= system.tokens, "data.codes", codes, f"use 1 to {system.tokens}.")
    fix = "the codes of this tokenizer have no order; generate all of them."
    check(kept == system.tokens or system.ordered, "data.codes", codes, fix)

    batches = list(tokenizer.batches(images, limit=limit))
    if mirror:
        batches += [batch.replace(pixels=batch.pixels[:, :, ::-1]) for batch in batches]  # type: ignore[attr-defined]
    labels = np.concatenate([batch.labels[np.asarray(batch.mask) > 0] for batch in batches])
    vocabulary = CodeVocabulary(codes=system.vocab_size, classes=len(images.classes))
    return CodeRows(vocabulary=vocabulary, codes=tokenizer.encode(batches)[:, :kept], labels=labels)


def is_image_generator(config: Mapping[str, Any]) -> bool:
    """Whether `config`, of a run, is of a generator of the codes of images."""
    return "codes_of" in config or config["system"].get("name") == "maskgit"


def holds_image_generator(workdir: str | os.PathLike[str]) -> bool:
    """Whether `workdir` is the directory of a run of a generator of images that has saved a checkpoint."""
    if not (Path(workdir) / FOLDER).is_dir():
        return False
    return is_image_generator(read_metadata(Path(workdir), latest(Path(workdir)))["config"])


def _build_way(spec: ImageGeneratorSpec, vocabulary: CodeVocabulary, tokens: int) -> _Way:
    """Returns what `spec.system` describes, its sizes those of the codes.

    Raises:
      UnknownNameError, SpecError: no such system, none of codes, or sizes that are not those of the codes.
    """
    fields = dict(spec.system)
    if "name" not in fields:
        raise SpecError("system.name: missing; use maskgit, lm or another language system.")
    kind = systems[fields.pop("name")]
    if issubclass(kind, MaskGit):
        sizes = {"tokens": tokens, "vocab_size": vocabulary.codes, "classes": vocabulary.classes}
    elif issubclass(kind, LanguageSystem):
        sizes = {"vocab_size": vocabulary.size}
    else:
        raise SpecError(f"system.name: {spec.system['name']!r} generates no codes; use maskgit or a language system.")
    for name, size in sizes.items():
        fix = f"the codes of {spec.codes_of} need {size}."
        check(fields.get(name, size) == size, f"system.{name}", fields.get(name), fix)
    system = build(kind, fields | sizes, where="system")
    return _AllAtOnce(system) if isinstance(system, MaskGit) else _OneByOne(system, vocabulary, tokens)


def train_image_generator(
    config: Mapping[str, Any],
    workdir: str | os.PathLike[str],
    *,
    source: Images | None = None,
    progress: bool = True,
) -> tuple[ImageGenerator, str | None]:
    """Trains what `config` describes, or goes on where `workdir` stopped.

    Images are encoded once, before the first step, as they are.

    Args:
      config: fields of an `ImageGeneratorSpec`.
      workdir: directory of the run.
      source: `config.source`, already opened.
      progress: show a progress bar.

    Returns:
      The generator, and the signal that stopped training before its last step (after saving), or None.

    Raises:
      SpecError, UnknownNameError, SourceError: a configuration or images that cannot be trained on.
      CheckpointError: `workdir` holds another run, or `codes_of` no tokenizer, or only damaged checkpoints.
      OutputError: `workdir` cannot be written, or another process trains in it.
    """
    workdir = Path(workdir)
    config = json.loads(json.dumps(dict(config)))
    if config.get("codes_of") is None:
        raise SpecError("codes_of: missing; give the directory of the run of an image tokenizer.")
    spec = build(ImageGeneratorSpec, config)
    with only_user(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        return _train(spec, config, workdir, source, progress)


def _train(
    spec: ImageGeneratorSpec, config: Mapping[str, Any], workdir: Path, source: Images | None, progress: bool
) -> tuple[ImageGenerator, str | None]:
    tokenizer, shape = load_image_tokenizer(spec.codes_of), spec.data
    spec = _with_source(spec, tokenizer)
    source = load_images(str(spec.source)) if source is None else source
    rows = code_rows(tokenizer, source.split("train"), codes=shape.codes, mirror=shape.mirror)
    valid = code_rows(tokenizer, source.split("valid"), codes=shape.codes, limit=shape.eval_images)
    way = _build_way(spec, rows.vocabulary, rows.codes.shape[1])
    loss = jax.jit(way.system.loss)

    def validate(state: TrainState) -> dict[str, float]:
        sums: dict[str, np.ndarray] = {}
        for number, batch in enumerate(way.eval(valid, shape.batch_size)):
            key = jax.random.key(number)  # the same masks at every evaluation
            _, (_, aux) = loss(state.inference_params, state.system_state, batch, key)
            for name, pair in aux.items():
                sums[name] = sums.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
        return {name: total / count for name, (total, count) in sums.items() if count}  # codes stand for no bytes

    state = fit(
        way.system, functools.partial(way.train, rows, spec=spec), spec.train, spec.optimizer,
        workdir=workdir, mesh=make_mesh(spec.mesh), config=config, tables_hash=_identity(tokenizer), evaluate=validate,
        progress=progress,
    )  # fmt: skip
    interrupted_by = state.stopped if state.stopped != "time_limit" else None
    found = ImageGenerator(spec, way, state.inference_params, int(state.step), tokenizer, tuple(source.classes))
    return found, interrupted_by


def _with_source(spec: ImageGeneratorSpec, tokenizer: ImageModel) -> ImageGeneratorSpec:
    return dataclasses.replace(spec, source=spec.source or tokenizer.spec.source)


def _identity(tokenizer: ImageModel) -> str:
    """The SHA-256 of everything that determines the codes, 16 hex digits."""
    found = hashlib.sha256(json.dumps(tokenizer.spec.system, sort_keys=True).encode())
    for array in jax.tree.leaves((tokenizer.params, tokenizer.state)):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def load_image_generator(workdir: str | os.PathLike[str]) -> ImageGenerator:
    """Returns the generator of the newest good checkpoint in `workdir`, with the tokenizer it was trained for.

    Raises:
      CheckpointError: none is there, or none of the tokenizer, or of another than it was trained for.
      SpecError: the run is of another kind of system.
    """
    params, config, step = load_for_inference(workdir)
    if not is_image_generator(config):
        raise SpecError(f"{workdir}: holds a run of {config['system']['name']!r}, which generates no images.")
    spec = build(ImageGeneratorSpec, config)
    tokenizer = load_image_tokenizer(spec.codes_of)
    trained_with = read_metadata(Path(workdir), step)["tables_hash"]
    if trained_with != _identity(tokenizer):
        raise CheckpointError(
            f"{workdir}: was trained on the codes of another tokenizer than the one in {spec.codes_of} now. Put that "
            "run back as it was, or train the generator again."
        )
    spec = _with_source(spec, tokenizer)
    classes = tuple(load_images(str(spec.source)).classes)
    vocabulary = CodeVocabulary(codes=tokenizer.system.vocab_size, classes=len(classes))
    way = _build_way(spec, vocabulary, spec.data.codes or tokenizer.system.tokens)
    return ImageGenerator(spec, way, params, step, tokenizer, classes)
