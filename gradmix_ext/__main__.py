"""``python -m gradmix_ext``: the same as ``gradmix``."""

from __future__ import annotations

from gradmix_ext.cli import main

if __name__ == "__main__":
    main()
