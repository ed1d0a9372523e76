"""Quantizers: vectors to codes and back."""

from tokjax.quantize.base import NO_CODE, Quantizer, quantizer

__all__ = ["NO_CODE", "Quantizer", "quantizer"]
