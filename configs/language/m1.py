"""M1: the byte transformer whose probabilities drive the arithmetic coder.

    tokjax train --config m1:small --workdir runs/m1
    tokjax fit --tokenizer compiled --option entropy=runs/m1 --source pydocs --out runs/compiled

`small` has 0.8M parameters and trains in minutes on a CPU.

`paper` is the 3M model of Lester et al. 2024, section 3.2: its widths, context, batch, steps and schedule. The trainer
has AdamW rather than Adafactor and no z-loss, so the peak rate is our own; the stack has rotary positions rather than
Shaw's, and SiLU rather than ReLU in a gated MLP: with its three matrices, the paper's widths give the paper's counts.
"""

from ml_collections import ConfigDict

from tokjax.configs.language._base import recipe, stack


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    backbone = {
        "smoke": stack(width=32, layers=1, heads=2),
        "small": stack(width=128, layers=3, heads=2, hidden=512),
        "paper": stack(width=256, layers=3, heads=4, hidden=1024, dtype="bfloat16"),
    }[variant]
    config = recipe(
        variant,
        tokenizer={"name": "bytes"},
        system={"name": "lm", "backbone": backbone, "tied": True},
    )
    if variant == "smoke":
        config.data.length = 64
    elif variant == "small":
        config.data.update(length=256, batch_size=16)
    else:
        config.data.update(length=1024, batch_size=128)
        config.optimizer.update(learning_rate=1e-3, schedule="rsqrt", warmup_steps=10_000, weight_decay=0.0)
        config.train.steps = 2_500_000
    return config
