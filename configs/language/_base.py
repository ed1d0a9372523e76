"""What every language recipe shares; a recipe states its tokenizer and system, and what it changes."""

from ml_collections import ConfigDict

# Positions of a row, rows, steps, learning rate and its warm-up, per variant.
_SCALES = {
    "smoke": {"length": 128, "batch_size": 8, "steps": 20, "warmup": 5, "learning_rate": 1e-2},
    "small": {"length": 512, "batch_size": 8, "steps": 1000, "warmup": 50, "learning_rate": 3e-3},
    "paper": {"length": 2048, "batch_size": 256, "steps": 50_000, "warmup": 1000, "learning_rate": 6e-4},
}


def recipe(variant: str, *, tokenizer: dict, system: dict) -> ConfigDict:
    """Returns the configuration of one run at `variant` scale."""
    scale = _SCALES[variant]
    paper = variant == "paper"
    return ConfigDict(
        {
            "source": "pydocs",
            "tokenizer": tokenizer,
            "system": system,
            "data": {"length": scale["length"], "batch_size": scale["batch_size"], "eval_bytes": 50_000},
            "optimizer": {
                "learning_rate": scale["learning_rate"],
                "schedule": "cosine",
                "warmup_steps": scale["warmup"],
                "final_fraction": 0.1,
                "weight_decay": 0.1,
                "b1": 0.9,
                "b2": 0.95,
                "clip_norm": 1.0,
                "accumulate_steps": 1,
            },
            "train": {
                "steps": scale["steps"],
                "log_every": 100 if paper else 10,
                "eval_every": 2000 if paper else 250,
                "checkpoint_every": 2000 if paper else 250,
                "seed": 0,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        }
    )


def stack(width: int, layers: int, heads: int, **fields) -> dict:
    """Fields of a `TransformerSpec`; the paper variants add dtype and remat."""
    return {"width": width, "layers": layers, "heads": heads, **fields}


ACCELERATOR = {"dtype": "bfloat16", "remat": True, "scan_layers": True}
