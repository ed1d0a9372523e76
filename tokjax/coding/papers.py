"""Papers that several modules implement a part of."""

from tokjax.core.registry import Paper

LESTER = Paper(
    title="Training LLMs over Neurally Compressed Text",
    authors="Lester, Lee, Alemi, Pennington, Roberts, Sohl-Dickstein, Constant",
    year=2024,
    url="https://arxiv.org/abs/2404.03626",
)
