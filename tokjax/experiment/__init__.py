"""Whole experiments: a configuration becomes a trained, measured model, and several become a comparison."""
