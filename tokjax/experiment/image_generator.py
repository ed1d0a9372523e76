"""One run of a generator of images: a model of the codes that a trained image tokenizer gives them.

Letters: `N` images, `T` codes of an image, `K` codes there are, `S` size of an image, `C` channels.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.errors import CheckpointError, SourceError, SpecError
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
from tokjax.measure.cost import train_flops_per_step
from tokjax.measure.features import Features, random_pyramid
from tokjax.measure.generation import GenerationEvaluation, evaluate_generated
from tokjax.measure.reconstruction import decoded_parts
from tokjax.objectives.language import LanguageSystem
from tokjax.sharding import MeshSpec, gathered, make_mesh, place, share_of_process
from tokjax.systems.vision.maskgit import MaskGit
from tokjax.train import OptimizerSpec, TrainSpec, fit, load_for_inference
from tokjax.train.checkpoint import FOLDER, latest, read_metadata
from tokjax.train.host import only_run
from tokjax.train.state import TrainState

_SHARE = "a share is from 0 to 1."
_CLASS_DROP = 0.1  # of a language model, unless `class_drop` says otherwise
_DRAWN_AT_ONCE = 32  # images; never another number, because what is drawn depends on the place in the batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeDataSpec:
    """Batches of codes.

    Attributes:
      batch_size: B, images of a batch over all devices and hosts.
      codes: how many of the first codes are generated, of a tokenizer whose codes are ordered; None for all.
      mirror: learn from the mirror image of every image, too.
      class_drop: share of images that do not tell their class, where a language model learns the codes, 0.1 by
        default; None of `maskgit`, whose system has a field of its own.
      eval_images: validation images that are measured during training.
    """

    batch_size: int
    codes: int | None = None
    mirror: bool = False
    class_drop: float | None = None
    eval_images: int = 256

    def __post_init__(self):
        check(self.batch_size >= 1, "data.batch_size", self.batch_size, "must be at least 1.")
        check(self.eval_images >= 1, "data.eval_images", self.eval_images, "must be at least 1.")
        check(self.class_drop is None or 0 <= self.class_drop <= 1, "data.class_drop", self.class_drop, _SHARE)


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
class _Masked:
    """Codes modelled as MaskGIT does."""

    system: MaskGit
    sampling: type[Any] = MaskedSamplingSpec

    def train(self, rows: CodeRows, step: int, spec: ImageGeneratorSpec, *, host: int, hosts: int) -> Any:
        return train_codes(rows, step, seed=spec.train.seed, batch_size=spec.data.batch_size, host=host, hosts=hosts)

    def eval(self, rows: CodeRows, batch_size: int) -> Iterator[Any]:
        return eval_codes(rows, batch_size=batch_size)

    def draw(self, params: Params, labels: np.ndarray, key: jax.Array, sampling: Any) -> jax.Array:
        return self.system.sample(params, jnp.asarray(labels), key, sampling=sampling)


@dataclasses.dataclass(frozen=True)
class _Autoregressive:
    """Codes modelled as text."""

    system: LanguageSystem
    vocabulary: CodeVocabulary
    tokens: int
    sampling: type[Any] = CodeSamplingSpec

    def train(self, rows: CodeRows, step: int, spec: ImageGeneratorSpec, *, host: int, hosts: int) -> Any:
        share = _CLASS_DROP if spec.data.class_drop is None else spec.data.class_drop
        return train_code_rows(
            rows, step, seed=spec.train.seed, batch_size=spec.data.batch_size, class_drop=share, host=host, hosts=hosts
        )

    def eval(self, rows: CodeRows, batch_size: int) -> Iterator[Any]:
        return eval_code_rows(rows, batch_size=batch_size)

    def draw(self, params: Params, labels: np.ndarray, key: jax.Array, sampling: Any) -> jax.Array:
        generator = CodeGenerator(system=self.system, vocabulary=self.vocabulary, guidance=sampling.guidance)
        prompt = self.vocabulary.prompt(labels)
        return generate(generator, params, prompt, key, steps=self.tokens, sampling=sampling.of_id)


_Generator = _Masked | _Autoregressive


@dataclasses.dataclass(frozen=True)
class ImageGenerator:
    """A trained generator, the tokenizer whose codes it draws, and what is needed to use both."""

    spec: ImageGeneratorSpec
    generator: _Generator
    params: Params
    step: int
    tokenizer: ImageModel
    classes: tuple[str, ...]

    @property
    def system(self) -> System:
        """What was trained."""
        return self.generator.system

    def sampling(self, fields: Mapping[str, Any]) -> Any:
        """Returns how to draw codes, from the fields of `MaskedSamplingSpec` or `CodeSamplingSpec`.

        Raises:
          SpecError: a field or value that there is not.
        """
        return build(self.generator.sampling, fields, where="sampling")

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
        size = _DRAWN_AT_ONCE
        drawn = [np.zeros((0, self.tokenizer.system.tokens), np.int32)]
        for number, start in enumerate(range(0, len(labels), size)):
            part = labels[start : start + size]
            padded = np.pad(part, (0, size - len(part)), constant_values=-1)
            key = jax.random.fold_in(named(jax.random.key(seed), "codes"), number)
            codes = self.generator.draw(self.params, padded, key, sampling)
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
        """Measures as many generated images as there are `images`, of the same classes; see `evaluate_generated`.

        Raises:
          SourceError: `images` have other classes than the generator, or there are fewer than two.
        """
        images.require_images()
        if self.classes and self.classes != tuple(images.classes):
            raise SourceError(f"{images.name}: has other classes than the generator, which has {list(self.classes)}.")
        tokenizer = self.tokenizer
        batches = list(_labels(tokenizer.batches(images, limit=limit)))
        labels = np.concatenate(batches) if self.classes else np.full(sum(map(len, batches)), -1)
        codes = self.codes(labels, seed=seed, sampling=sampling)
        return evaluate_generated(
            decoded_parts(
                tokenizer.system, tokenizer.params, tokenizer.state, codes, batch_size=_DRAWN_AT_ONCE, seed=seed
            ),
            (np.asarray(batch.pixels)[_real(batch)] for batch in tokenizer.batches(images, limit=limit)),
            name=images.name,
            features=random_pyramid(tokenizer.system.channels) if features is None else features,
        )


def _real(batch: ImageBatch) -> np.ndarray:
    """Rows of `batch` that are images."""
    return np.asarray(batch.mask) > 0


def _labels(batches: Iterable[ImageBatch]) -> Iterator[np.ndarray]:
    return (np.asarray(batch.labels)[_real(batch)] for batch in batches)


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

    labels: list[np.ndarray] = []

    def passed(mirrored: bool) -> Iterator[ImageBatch]:
        """The images, one batch in memory at a time."""
        for batch in tokenizer.batches(images, limit=limit):
            labels.append(np.asarray(batch.labels)[_real(batch)])
            yield batch.replace(pixels=batch.pixels[:, :, ::-1]) if mirrored else batch  # type: ignore[attr-defined]

    found = [tokenizer.encode(passed(mirrored))[:, :kept] for mirrored in ((False, True) if mirror else (False,))]
    vocabulary = CodeVocabulary(codes=system.vocab_size, classes=len(images.classes))
    return CodeRows(vocabulary=vocabulary, codes=np.concatenate(found), labels=np.concatenate(labels))


def is_image_generator(config: Mapping[str, Any]) -> bool:
    """Whether `config`, of a run, is of a generator of the codes of images."""
    return "codes_of" in config or config["system"].get("name") == "maskgit"


def holds_image_generator(workdir: str | os.PathLike[str]) -> bool:
    """Whether `workdir` is the directory of a run of a generator of images that has saved a checkpoint."""
    if not (Path(workdir) / FOLDER).is_dir():
        return False
    return is_image_generator(read_metadata(Path(workdir), latest(Path(workdir)))["config"])


def _build(spec: ImageGeneratorSpec, vocabulary: CodeVocabulary, tokens: int) -> _Generator:
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
        fix = "this system has a field of its own; set system.class_drop."
        check(spec.data.class_drop is None, "data.class_drop", spec.data.class_drop, fix)
    elif issubclass(kind, LanguageSystem) and kind.tokenizer is None:
        sizes = {"vocab_size": vocabulary.size}
    else:
        raise SpecError(f"system.name: {spec.system['name']!r} generates no codes; use maskgit or a language system.")
    for name, size in sizes.items():
        fix = f"the codes of {spec.codes_of} need {size}."
        check(fields.get(name, size) == size, f"system.{name}", fields.get(name), fix)
    system = build(kind, fields | sizes, where="system")
    return _Masked(system) if isinstance(system, MaskGit) else _Autoregressive(system, vocabulary, tokens)


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
    fields = json.loads(json.dumps(dict(config)))
    if fields.get("codes_of") is None:
        raise SpecError("codes_of: missing; give the directory of the run of an image tokenizer.")
    fields["codes_of"] = str(Path(fields["codes_of"]).resolve())  # to be found from any directory
    spec = build(ImageGeneratorSpec, fields)
    with only_run(workdir):
        return _train(spec, fields, workdir, source, progress)


def _train(
    spec: ImageGeneratorSpec, config: Mapping[str, Any], workdir: Path, source: Images | None, progress: bool
) -> tuple[ImageGenerator, str | None]:
    tokenizer, shape = _tokenizer_of(spec), spec.data
    spec = _with_source(spec, tokenizer)
    source = load_images(str(spec.source)) if source is None else source
    rows = code_rows(tokenizer, source.split("train"), codes=shape.codes, mirror=shape.mirror)
    valid = code_rows(tokenizer, source.split("valid"), codes=shape.codes, limit=shape.eval_images)
    generator = _build(spec, rows.vocabulary, rows.codes.shape[1])
    loss = jax.jit(lambda *arguments: gathered(generator.system.loss(*arguments)[1][1]))
    classes = list(source.classes)

    def validate(state: TrainState) -> dict[str, float]:
        sums: dict[str, np.ndarray] = {}
        for number, batch in enumerate(generator.eval(valid, shape.batch_size)):
            key = jax.random.key(number)  # the same masks at every evaluation
            found = loss(state.inference_params, state.system_state, place(batch), key)
            for name, pair in found.items():
                sums[name] = sums.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
        return {name: total / count for name, (total, count) in sums.items() if count}  # codes stand for no bytes

    mesh = make_mesh(spec.mesh)
    part, parts = share_of_process(mesh)
    batch = functools.partial(generator.train, rows, spec=spec, host=part, hosts=parts)
    state = fit(
        generator.system, batch, spec.train, spec.optimizer,
        workdir=workdir, mesh=mesh, config={**config, "classes": classes},
        tables_hash=_identity(tokenizer), evaluate=validate,
        flops=train_flops_per_step(generator.system, shape.batch_size, rows.codes.shape[1]), progress=progress,
    )  # fmt: skip
    interrupted_by = state.stopped if state.stopped != "time_limit" else None
    found = ImageGenerator(spec, generator, state.inference_params, int(state.step), tokenizer, tuple(classes))
    return found, interrupted_by


def _tokenizer_of(spec: ImageGeneratorSpec) -> ImageModel:
    try:
        return load_image_tokenizer(spec.codes_of)
    except CheckpointError as error:
        raise CheckpointError(f"codes_of: {error}") from error


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
    classes = tuple(config.pop("classes"))
    spec = build(ImageGeneratorSpec, config)
    tokenizer = _tokenizer_of(spec)
    trained_with = read_metadata(Path(workdir), step)["tables_hash"]
    if trained_with != _identity(tokenizer):
        raise CheckpointError(
            f"{workdir}: was trained on the codes of another tokenizer than the one in {spec.codes_of} now. Put that "
            "run back as it was, or train the generator again."
        )
    spec = _with_source(spec, tokenizer)
    vocabulary = CodeVocabulary(codes=tokenizer.system.vocab_size, classes=len(classes))
    generator = _build(spec, vocabulary, spec.data.codes or tokenizer.system.tokens)
    return ImageGenerator(spec, generator, params, step, tokenizer, classes)
