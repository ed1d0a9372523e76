"""The words everything else speaks: types, specs, registries, keys, errors."""
