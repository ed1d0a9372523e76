"""Learn Your Tokens: words of characters, pooled into four prefix tokens.

    tokjax train --config word_pooled:small --workdir runs/word_pooled

Other base units need the number of symbols that a word has of them:

    tokjax compare --systems word_pooled,word_pooled:base=bpe:system.symbols_per_word=2.2 ...

`paper` has the sizes of the run script of Thawani et al. 2023: encoder and decoder of 2 layers, a backbone of 8 layers,
512 channels and 8 heads throughout; rows of about 256 words, batches of 8, a constant rate of 1e-4. Its MLPs are gated
and its readout is the embedding of units.
"""

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, recipe, stack


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    stacks = {
        "smoke": {
            "backbone": stack(width=64, layers=2, heads=2),
            "encoder": stack(width=32, layers=1, heads=2),
            "decoder": stack(width=32, layers=1, heads=2),
        },
        "small": {
            "backbone": stack(width=128, layers=4, heads=4),
            "encoder": stack(width=64, layers=1, heads=2),
            "decoder": stack(width=64, layers=2, heads=2),
        },
        "paper": {
            "backbone": stack(width=512, layers=8, heads=8, **ACCELERATOR),
            "encoder": stack(width=512, layers=2, heads=8, **ACCELERATOR),
            "decoder": stack(width=512, layers=2, heads=8, **ACCELERATOR),
        },
    }[variant]
    cap = 32 if variant == "paper" else 24
    config = recipe(
        variant,
        tokenizer={"name": "word_units", "base": "characters", "vocab_size": 512, "cap": cap},
        system={"name": "word_pooled", **stacks, "prefixes": 4, "cap": cap, "symbols_per_word": 5.0},
    )
    if variant == "paper":
        config.data.update(length=1280, batch_size=8)
        config.optimizer.update(learning_rate=1e-4, schedule="constant", warmup_steps=0)
    return config
