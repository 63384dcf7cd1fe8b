"""Whoever trains without Lightning's Trainer: a plain loop, Fabric, Hugging Face's Trainer."""

from lightning_adam.integrations.loop import Watch, watch

__all__ = ["Watch", "watch"]
