"""What the encoder recipes share: rows of words, WordPiece for the pieces, and the backbone of each scale."""

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, stack

# Words of a row, rows, steps, learning rate and its warm-up, vocabulary and backbone, per variant.
_SCALES = {
    "smoke": {
        "length": 32, "batch_size": 8, "steps": 30, "warmup": 5, "learning_rate": 3e-3, "vocab_size": 1024,
        "pieces_per_word": 2.25, "backbone": stack(width=64, layers=2, heads=2),
    },
    "small": {
        "length": 64, "batch_size": 8, "steps": 1500, "warmup": 75, "learning_rate": 3e-3, "vocab_size": 4096,
        "pieces_per_word": 1.75, "backbone": stack(width=96, layers=3, heads=4),
    },
    "paper": {
        "length": 384, "batch_size": 256, "steps": 1_000_000, "warmup": 10_000, "learning_rate": 1e-4,
        "vocab_size": 30_000, "pieces_per_word": 1.5,
        "backbone": stack(width=768, layers=12, heads=12, **ACCELERATOR),
    },
}  # fmt: skip


def recipe(variant: str, system: dict) -> ConfigDict:
    """Returns the configuration of one run at `variant` scale; `system` adds its own fields to the shared ones."""
    scale = _SCALES[variant]
    paper = variant == "paper"
    return ConfigDict(
        {
            "source": "pydocs",
            "tokenizer": {"name": "wordpiece", "vocab_size": scale["vocab_size"]},
            "system": {
                "backbone": scale["backbone"],
                "cap": 20,
                "target_pieces": 4,
                "pieces_per_word": scale["pieces_per_word"],
                "mask_rate": 0.15,
                **system,
            },
            "data": {"length": scale["length"], "batch_size": scale["batch_size"], "eval_bytes": 50_000},
            "optimizer": {
                "learning_rate": scale["learning_rate"],
                "schedule": "linear",
                "warmup_steps": scale["warmup"],
                "final_fraction": 0.0,
                "weight_decay": 0.01,
                "b1": 0.9,
                "b2": 0.98,
                "clip_norm": 1.0,
                "accumulate_steps": 1,
            },
            "train": {
                "steps": scale["steps"],
                "log_every": 100 if paper else 10,
                "eval_every": 10_000 if paper else 250,
                "checkpoint_every": 10_000 if paper else 250,
                "seed": 0,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        }
    )
