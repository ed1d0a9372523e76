"""Recipes. A file `<family>/<name>.py` defines `get_config(variant)` for smoke, small and paper scale."""
