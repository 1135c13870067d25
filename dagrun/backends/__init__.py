"""The kinds of device: what opens one, and what bodies its tasks run. Importing this registers them with the core."""

from dagrun.backends import cpu, cuda, sim

__all__ = ["cpu", "cuda", "sim"]
