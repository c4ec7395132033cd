"""Checks and measurements on a GPU.

It imports torch, numpy, onnx, onnxruntime, transformers and matplotlib, and of ours what needs no
more than these.

models.py       models with random weights, as graphs and as PyTorch models
trained.py      the default model, which float16 is judged by
chip.py         what the device can do: operations, bytes, kernels
ours.py         our runner and search, with so many sequences in flight
huggingface.py  `generate` of the same weights
agreement.py    whether float16 gives float32's answers
floors.py       what a step has to take at least
translation.py  tokens a second of both
vision.py       images a second of both
report.py       tables, JSON, a picture
"""
