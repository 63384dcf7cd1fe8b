"""Whoever trains without Lightning's Trainer: a plain loop, Fabric, Hugging Face's Trainer."""
