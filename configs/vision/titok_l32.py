"""TiTok-L-32: 32 codes of a 256-pixel image, learned in two stages; `smoke` and `small` have as many per patch.

The first stage learns the codes of a `vqgan`, the second starts from the first:

    tokjax train --config vqgan:small --workdir runs/vqgan
    tokjax train --config titok_l32:small --config.proxy=runs/vqgan --workdir runs/stage1
    tokjax train --config titok_l32:small --config.system.stage=pixels --config.train.init_from=runs/stage1 \
        --workdir runs/stage2

At `paper` scale the second stage has train.steps=500000, optimizer.warmup_steps=5000 and optimizer.b2=0.999.
"""

from ml_collections import ConfigDict

from tokjax.configs.vision._two_stages import two_stages


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    return two_stages(variant, "large", 32)
