"""What recipes of images share: sources, batches, training, and the sizes of transformers."""

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, stack

SOURCES = {"smoke": "digits", "small": "photos", "paper": "tfds_images:imagenet2012"}
IMAGES = {
    "smoke": {"size": 8, "channels": 1},
    "small": {"size": 32, "channels": 3},
    "paper": {"size": 256, "channels": 3},
}
VITS = {
    "small": stack(width=512, layers=8, heads=8, **ACCELERATOR),
    "base": stack(width=768, layers=12, heads=12, **ACCELERATOR),
    "large": stack(width=1024, layers=24, heads=16, **ACCELERATOR),
}


def recipe(
    variant: str, system: dict, *, batch_size: int, steps: int, learning_rate: float, warmup: int, **optimizer
) -> ConfigDict:
    """Returns the configuration of one run at `variant` scale; `optimizer` adds to or changes its fields."""
    paper = variant == "paper"
    return ConfigDict(
        {
            "source": SOURCES[variant],
            "system": system,
            # Digits have no mirror images.
            "data": {"batch_size": batch_size, "flip": 0.0 if variant == "smoke" else 0.5, "eval_images": 256},
            "optimizer": {
                "learning_rate": learning_rate,
                "schedule": "cosine",
                "warmup_steps": warmup,
                "final_fraction": 0.1,
                "weight_decay": 1e-4,
                "b1": 0.9,
                "b2": 0.99,
                "clip_norm": 1.0,
                "ema_decay": 0.999,
                **optimizer,
            },
            "train": {
                "steps": steps,
                "log_every": 100 if paper else 10,
                "eval_every": 10_000 if paper else 500,
                "checkpoint_every": 10_000 if paper else 500,
                "seed": 0,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        }
    )


def generator_recipe(variant: str, system: dict, *, codes: int | None = None, **fields) -> ConfigDict:
    """Returns the configuration of a run that learns the codes of an image tokenizer, the first `codes` of them.

    Args:
      variant: `smoke`, `small` or `paper`.
      system: what learns them.
      codes: None for all.
      **fields: as of `recipe`.
    """
    config = recipe(variant, system, **fields)
    config["codes_of"] = None  # the run of the tokenizer, which has to be named
    config["source"] = None  # the images that it learned from
    # Digits have no mirror images.
    config["data"] = {"batch_size": fields["batch_size"], "codes": codes, "mirror": variant != "smoke"}
    return config
