"""Checkpoints of others at their true sizes, with random weights: what exporting them takes.

python -m bench.families [opus-mt nllb-600m vit-b16] [--keep]
"""
